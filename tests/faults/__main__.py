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
        start = time.monotonic()
        lines = []
        for kind, row in _rows():
            if not words or any(word in f"{kind}: {row.name}" for word in words):
                lines.append(_line(kind, row, Path(name)))
                _write(lines, keep=True)
        _write(lines, keep=bool(words))
    failed = sum(FAILED in line for line in lines)
    print(f"{len(lines)} faults in {(time.monotonic() - start) / 60:.1f} min, {failed} failed")
    return int(failed > 0)


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


def _write(lines: list[str], keep: bool) -> None:
    """Put the lines into the table; `keep`: in place of those of the same faults only."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    head = ["| kind | fault | what was seen | seconds with set-up |", "|---|---|---|---|"]
    there = [line for line in old.splitlines() if line.startswith("| ") and line != head[0]]
    rows = {_fault(line): line for line in there * keep} | {_fault(line): line for line in lines}
    table = "\n".join([*head, *rows.values()])
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def _fault(line: str) -> tuple[str, ...]:
    return tuple(line.split(" | ")[:2])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
