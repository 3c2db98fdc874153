"""Inject every fault of ROWS in the files beside this one, and write docs/reliability.md's table.

`python -m tests.faults WORD…` takes the rows that hold one of the words, and writes nothing.
"""

import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.oracle_models import make_oracle, save_tokenizer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
FAILED = "**failed**"


def main(words: list[str]) -> int:
    """Return 0 if everything was told as expected."""
    os.environ |= {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="neoxlib-faults-") as name:
        make_oracle(vocab_size=300).save_pretrained(name)
        save_tokenizer(Path(name))
        lines = [
            _line(kind, row, Path(name))
            for kind, row in _rows()
            if not words or any(word in f"{kind}: {row.name}" for word in words)
        ]
    if not words:
        _write(lines)
    return int(any(FAILED in line for line in lines))


def _rows() -> list[tuple[str, Any]]:
    """Every row with the name of its file."""
    names = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    modules = {name: import_module(f"tests.faults.{name}") for name in names}
    return [(name, row) for name, at in modules.items() for row in getattr(at, "ROWS", ())]


def _line(kind: str, row: Any, model: Path) -> str:
    """Inject one fault into processes that use the checkpoint `model`; a line of the table."""
    start = time.monotonic()
    try:
        seen = row.inject(model)
    except Exception as error:  # the other rows are still of use
        seen = f"{FAILED}: {type(error).__name__}: {error}"
    cells = (kind, row.name, seen, f"{time.monotonic() - start:.1f}")
    line = " | ".join(" ".join(cell.split()).replace("|", "/")[:400] for cell in cells)
    print(line, flush=True)
    return f"| {line} |"


def _write(lines: list[str]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    head = ["| kind | fault | what was seen | seconds with set-up |", "|---|---|---|---|"]
    table = "\n".join([*head, *lines])
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
