"""The documents that the shipped model has not seen, written once into demo/unseen.txt.

`python -m neoxlib.demo.making.unseen` writes the file that ships.
"""

from itertools import islice
from pathlib import Path

from neoxlib.demo import BETWEEN, DOCUMENTS, UNSEEN, UNSEEN_SEED
from neoxlib.demo.making.corpus import documents


def write_unseen(path: Path) -> None:
    """Write the corpus's first DOCUMENTS documents from UNSEEN_SEED to `path`."""
    text = BETWEEN.join(islice(documents(UNSEEN_SEED), DOCUMENTS))
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_unseen(UNSEEN)
