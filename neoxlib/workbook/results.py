"""A run's results: its checks, its status, and the reading of its results.json.

Results are read with every key present, or refused in one sentence.
"""

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neoxlib.forms import NUMBER, OBJECT, SIZE, TEXT, Maybe, parse, problems
from neoxlib.process import has_ended, is_here
from neoxlib.workbook.run_folder import last_beat, stamp

MOST_BYTES = 16 * 2**20  # of a results.json; those of our notebooks have some kB
NO_RUN = {
    "run": "",
    "notebook": "",
    "status": "broken",
    "parameters": {},
    "given": [],
    "environment": {},
    "model": {},
    "verdict": "",
    "noise": [],
    "metrics": {},
    "checks": [],
    "process": {},
    "started": None,
    "seconds": None,
    "error": None,
}
OF = {str: TEXT, dict: OBJECT}
MODEL = {  # what becomes part of a path, is counted with, or compared
    **dict.fromkeys(("model_dir", "dtype", "quant", "device", "compile"), Maybe(TEXT)),
    **dict.fromkeys(("world_size", "threads"), Maybe(SIZE)),
}
FORM = {
    **{
        key: Maybe(OF[type(value)], null=False)
        for key, value in NO_RUN.items()
        if type(value) in OF
    },
    "model": Maybe(MODEL, null=False),
    "environment": Maybe({"machine": Maybe(TEXT), "cores": Maybe(NUMBER)}, null=False),
    "given": Maybe([TEXT], null=False),
    "noise": Maybe([TEXT], null=False),
    "checks": Maybe([OBJECT], null=False),
    "error": Maybe(OBJECT),
}
LOG_LINES = 30
LOG_BYTES = 2**16  # of a log's end that is read
SILENT = 300  # seconds without a heartbeat, after which a run of another machine counts as gone
KILLED = "its process ended without a word: it was killed"
LOST = "nothing was heard of it since; its machine or its kernel is gone"
CHECK_WORDS = {True: "PASS", False: "FAIL", None: "NOT JUDGED"}


@dataclass(frozen=True)
class Check:
    """A condition that must hold for the run to count, with the figures it was judged by.

    `passed` is None where the figures are too uncertain for a verdict.
    """

    name: str
    passed: bool | None
    detail: str = ""

    @property
    def word(self) -> str:
        """The verdict as reports show it."""
        return CHECK_WORDS[self.passed]

    def __repr__(self) -> str:
        return f"{self.word}  {self.name}: {self.detail}"


def status_of(checks: Iterable[Check], noise: Iterable[str]) -> str:
    """Return the status of a run that came to its end: the worst that is true of it."""
    verdicts = [check.passed for check in checks]
    if False in verdicts:
        return "check-failed"
    if None in verdicts:
        return "not-judged"
    return "noisy" if any(noise) else "ok"


def failed(results: Mapping[str, Any]) -> str:
    """Return the checks of results that failed in words; "" if none did."""
    checks = [check for check in results["checks"] if check.get("passed") is False]
    return "; ".join(f"{check.get('name')}: no ({check.get('detail')})" for check in checks)


def read_results(path: Path) -> dict[str, Any]:
    """Return a run's results, by its folder or the file, with every key of NO_RUN present.

    Raises ValueError if there is no such file, or one too large, no JSON, or JSON of another form.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        found = parse(_text_of(path), halves=True)
    except OSError as error:
        raise ValueError(f"no {path.name} that can be read") from error
    if wrong := _wrong(found):
        raise ValueError(f"{path.name} is not of this format: {wrong}")
    return NO_RUN | {"run": path.parent.name, "notebook": path.parent.parent.name} | found


def read_run(folder: Path) -> dict[str, Any]:
    """Return the results of a folder; those of a run that goes on no more say that it broke off.

    Raises ValueError as `read_results` does.
    """
    run = read_results(folder)
    if run["status"] != "running":
        return run
    beat = last_beat(folder)
    here = is_here(run["process"])
    silent = beat is not None and (datetime.now(UTC) - beat).total_seconds() > SILENT
    if not (has_ended(run["process"]) if here else silent):
        return run
    error = {"type": "Interrupted", "message": KILLED if here else LOST} | last_cell(folder)
    if beat is None:
        return run | {"status": "interrupted", "error": error}
    ended = {"finished": stamp(beat), "seconds": _seconds(run["started"], beat)}
    return run | {"status": "interrupted", "error": error | {"at": stamp(beat)}} | ended


def _seconds(started: Any, end: datetime) -> float | None:
    try:
        begun = datetime.fromisoformat(started).astimezone(UTC)
        return max(0.0, round((end - begun).total_seconds(), 3))
    except (TypeError, ValueError):
        return None


def last_cell(folder: Path) -> dict[str, Any]:
    """Return the number, heading and source of the cell that ran last; {} if none is known.

    A headless run and one of JupyterLab write the cell that begins into the folder's notebook.
    """
    found: dict[str, Any] = {}
    heading = ""
    number = 0
    for cell in _cells(folder):
        source = "".join(cell.get("source", ""))
        if cell.get("cell_type") == "markdown":
            headings = re.findall(r"^##\s+(.+?)\s*$", source, re.MULTILINE)
            heading = headings[-1] if headings else heading
        elif cell.get("cell_type") == "code":
            number += 1
            state = cell.get("metadata", {}).get("papermill", {}).get("status")
            if state in ("running", "completed", "failed"):
                found = {"cell": number, "heading": heading, "source": source}
    return found


def _cells(folder: Path) -> list[dict[str, Any]]:
    path = folder / "notebook.ipynb"
    if path.is_symlink():  # of another run, or no notebook at all
        return []
    try:
        cells = parse(_text_of(path))["cells"]
        return [cell for cell in cells if isinstance(cell, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def log_ends(folder: Path) -> list[tuple[str, str]]:
    """Return the end of every log, of ranks and kernel, for the box that says why a run failed."""
    logs = sorted(path for path in folder.glob("logs/*.log") if path.is_file())
    ends = ((path.name, _end_of(path)) for path in logs)
    return [(name, text) for name, text in ends if text]


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read(LOG_BYTES).decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _text_of(path: Path) -> str:
    """Read a file that is one, and not too large: a pipe or a device would give no end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{path.name} is not a regular file")
    if about.st_size > MOST_BYTES:
        size = f"{about.st_size:,} bytes, more than {MOST_BYTES:,}"
        raise ValueError(f"{path.name} has {size}")
    return path.read_text(encoding="utf-8")


def _wrong(found: Any) -> str:
    """Return what keeps a value from being a run's results, or an empty text."""
    if not isinstance(found, dict):
        return f"it holds {type(found).__name__}, expected an object"
    return "; ".join(problems(found, FORM))
