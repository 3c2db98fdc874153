"""Inject every fault of ROWS in the files beside this one, and write docs/reliability.md's table.

`python -m tests.faults WORD…` injects only those whose rows hold one of the words, and replaces
their rows.
"""

import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.oracle_models import make_oracle, save_tokenizer
from tests.support.page_rows import put_rows

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
HEAD = ("kind", "fault", "what was seen", "seconds with set-up")
FAILED = "**failed**"
MOST = 400  # letters of a cell in the page


def main(words: list[str]) -> int:
    """Return 0 if everything was told as expected."""
    os.environ |= {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="neoxlib-faults-") as name:
        make_oracle(vocab_size=300).save_pretrained(name)
        save_tokenizer(Path(name))
        start = time.monotonic()
        lines = []
        for kind, row in _rows():
            if not words or any(word in f"{kind}: {row.name}" for word in words):
                lines.append(_line(kind, row, Path(name)))
                put_rows(PAGE, "faults", HEAD, lines, keys=2, keep=True)
        put_rows(PAGE, "faults", HEAD, lines, keys=2, keep=bool(words))
    failed = sum(FAILED in cell for line in lines for cell in line)
    print(f"{len(lines)} faults in {(time.monotonic() - start) / 60:.1f} min, {failed} failed")
    return int(failed > 0)


def _rows() -> list[tuple[str, Any]]:
    """Every row with the name of its file."""
    names = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    modules = {name: import_module(f"tests.faults.{name}") for name in names}
    return [(name, row) for name, at in modules.items() for row in getattr(at, "ROWS", ())]


def _line(kind: str, row: Any, model: Path) -> list[str]:
    """Inject one fault into processes that use the checkpoint `model`; its row."""
    start = time.monotonic()
    try:
        seen = row.inject(model)
    except Exception as error:  # the other rows are still of use
        seen = f"{FAILED}: {type(error).__name__}: {error}"
    cells = (kind, row.name, seen, f"{time.monotonic() - start:.1f}")
    line = [" ".join(cell.split()).replace("|", "/") for cell in cells]
    print(" | ".join(line), flush=True)
    return [cell[:MOST] for cell in line]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
