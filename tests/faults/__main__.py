"""Inject every fault of ROWS in the files beside this one, and write docs/reliability.md's table.

`python -m tests.faults WORD…` injects only those whose rows hold one of the words, and replaces
their rows. Faults of ranks mostly wait, so two rows are injected side by side.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.faults.rows import model
from tests.support.page_rows import put_rows

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
HEAD = ("kind", "fault", "what was seen", "seconds with set-up")
FAILED = "**failed**"
MOST = 400  # letters of a cell in the page
KINDS = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
FIRST = ("hostile", "kernels", "refusals", "weights", "kills")
# Side by side. The last of the second lane looks for what is left on the machine: the first has
# ended by then.
LANES = (FIRST, tuple(kind for kind in KINDS if kind not in FIRST))


def main(words: Sequence[str]) -> int:
    """Return 0 if everything was told as expected."""
    os.environ |= {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    lines: list[list[str]] = []
    lock = threading.Lock()

    def inject(lane: Sequence[str]) -> None:
        for line in _lines(folder, lane, words):
            print(" | ".join(line), flush=True)
            with lock:
                lines.append([cell[:MOST] for cell in line])
                put_rows(PAGE, "faults", HEAD, lines, keys=2, keep=True)

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="neoxlib-faults-") as name:
        folder = model(Path(name))
        with ThreadPoolExecutor(len(LANES)) as pool:
            list(pool.map(inject, LANES))
    lines.sort(key=lambda line: KINDS.index(line[0]))
    put_rows(PAGE, "faults", HEAD, lines, keys=2, keep=bool(words))
    failed = sum(FAILED in cell for line in lines for cell in line)
    print(f"{len(lines)} faults in {(time.monotonic() - start) / 60:.1f} min, {failed} failed")
    return int(failed > 0)


def _lines(folder: Path, kinds: Sequence[str], words: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a process of its own: what others start is not among its children."""
    asked = json.dumps([str(folder), kinds, words])
    command = [sys.executable, "-m", "tests.faults", "--lane", asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"the faults of {', '.join(kinds)} ended with {process.returncode}")


def lane(folder: str, kinds: Sequence[str], words: Sequence[str]) -> None:
    """Inject the faults of `kinds` into processes that use the checkpoint `folder`."""
    out = os.fdopen(os.dup(1), "w", buffering=1)  # what the faults themselves print is no row
    os.dup2(2, 1)
    for kind in kinds:
        for row in getattr(import_module(f"tests.faults.{kind}"), "ROWS", ()):
            if not words or any(word in f"{kind}: {row.name}" for word in words):
                print(json.dumps(_line(kind, row, Path(folder))), file=out)


def _line(kind: str, row: Any, folder: Path) -> list[str]:
    """Inject one fault; its row."""
    start = time.monotonic()
    try:
        seen = row.inject(folder)
    except Exception as error:  # the other rows are still of use
        seen = f"{FAILED}: {type(error).__name__}: {error}"
    cells = (kind, row.name, seen, f"{time.monotonic() - start:.1f}")
    return [" ".join(cell.split()).replace("|", "/") for cell in cells]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--lane"]:
        lane(*json.loads(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
