"""Run notebooks headless: papermill executes them, the run folder keeps the results, and `pages`
makes the HTML, whether or not the run went well.

Exit codes: 0 all went well, 1 a cell failed, 2 the parameters cannot be used, 3 a check failed,
4 a check cannot be judged;
130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP, which end the run as interrupted.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError, strip_color

from neoxlib.errors import ParameterError
from neoxlib.machine.environment import without_home
from neoxlib.workbook import pages
from neoxlib.workbook import results as workbook_results
from neoxlib.workbook.arguments import RunArguments, asked, near
from neoxlib.workbook.cell_lines import CellLines, Say
from neoxlib.workbook.kernel import ThisPython
from neoxlib.workbook.reasons import reasons
from neoxlib.workbook.run import SCHEMA_VERSION
from neoxlib.workbook.run_folder import new_folder, outputs_root, stamp, write_results
from neoxlib.workbook.signals import Interrupted, Signals

OK = 0
CELL_FAILED = 1
BAD_PARAMETERS = 2
CHECK_FAILED = 3
NOT_JUDGED = 4
INTERRUPTED = 130
WORST_FIRST = (INTERRUPTED, BAD_PARAMETERS, CELL_FAILED, CHECK_FAILED, NOT_JUDGED, OK)
CODES = {
    "ok": OK,
    "noisy": OK,
    "not-judged": NOT_JUDGED,
    "failed": CELL_FAILED,
    "check-failed": CHECK_FAILED,
    "interrupted": INTERRUPTED,
}
ENDED_AS = {  # error of a notebook -> status; any other is failed
    "CheckFailed": "check-failed",
    "Interrupted": "interrupted",
    "KeyboardInterrupt": "interrupted",
}
REFUSED = ("ParameterError", "SettingsError")  # the request cannot be met
EXPLAINED = {
    "Interrupted": "The run was broken off by {}.",
    "KeyboardInterrupt": "The cell was interrupted.",
    "DeadKernelError": (
        "The notebook's process ended without a Python error: "
        "killed (often: out of memory) or crashed."
    ),
    "CellTimeoutError": "The cell took longer than --timeout allows.",
}


def report(
    notebooks: Iterable[str],
    presets: Iterable[str],
    texts: Iterable[tuple[str, str]],
    *,
    outputs: Path | None = None,
    timeout: int | None = None,
    say: Say,
) -> int:
    """Run the notebooks one after the other, make their pages and the index; return the worst code.

    Raises:
        ParameterError: before any kernel starts, with every unknown notebook, unknown name and
            impossible value.
    """
    jobs = asked(notebooks, presets, texts)
    root = outputs.absolute() if outputs else outputs_root()
    usable(root)
    with Signals() as signals:
        ThisPython.signals = signals
        ended = [run_one(job, root, timeout, say, signals) for job in jobs if signals.came is None]
        index = pages.write_index(root)
    say("")
    for _, folder in ended:
        say(f"{_status(folder):<14}{near(folder / 'report.html')}")
    say(near(index))
    codes = {OK, *(code for code, _ in ended)}
    worst = next(code for code in WORST_FIRST if code in codes)
    return worst if signals.came is None else 128 + signals.came


def usable(root: Path) -> None:
    """Raise ParameterError if no run folder can be made in `root`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        why = "it is a file" if root.is_file() else error.strerror
        raise ParameterError(
            f"no run can be written to {near(root)}: {why}; "
            "give a folder with --outputs or NEOXLIB_OUTPUTS"
        ) from error


def _status(folder: Path) -> str:
    try:
        return workbook_results.read_results(folder)["status"]
    except ValueError:
        return workbook_results.NO_RUN["status"]


def run_one(
    job: RunArguments, root: Path, timeout: int | None, say: Say, signals: Signals
) -> tuple[int, Path]:
    """Execute one notebook into a new run folder, and write its results.json and report.html.

    If the disk is full, that is printed, and the files written so far stay.
    """
    folder = new_folder(root, job.name, job.values)
    try:
        return _run(job, folder, timeout, say, signals), folder
    except OSError as error:
        say(f"  {near(folder)} cannot be written: {error}")
        return CELL_FAILED, folder


def _run(job: RunArguments, folder: Path, timeout: int | None, say: Say, signals: Signals) -> int:
    shutil.copyfile(job.path, folder / "notebook.ipynb")  # to show if nothing runs
    started = datetime.now(UTC)
    say(f"{job.name} → {near(folder)}")
    error = _execute(job, folder, timeout, CellLines(say), signals)
    results = _close(job, folder, started, error)
    pages.write_report(folder)
    for line in reasons(results, folder):
        say(f"  {line}")
    refused = results["status"] == "failed" and results["error"]["type"] in REFUSED
    return BAD_PARAMETERS if refused else CODES[results["status"]]


def _execute(
    job: RunArguments, folder: Path, timeout: int | None, lines: CellLines, signals: Signals
) -> dict[str, Any] | None:
    """Run papermill; return the error, if any: type, message, number and source of the cell."""
    notebook = nbformat.read(job.path, as_version=4)
    lines.total = sum(cell.cell_type == "code" for cell in notebook.cells) + bool(job.given)
    os.environ["NEOXLIB_RUN_DIR"] = str(folder)
    try:
        with signals.running():
            _papermill(job, folder, timeout, lines)
    except PapermillExecutionError as error:
        return _cause(error.ename, error.evalue or EXPLAINED.get(error.ename, ""), lines)
    except Interrupted as error:
        signals.end_children()
        lines.broke()
        return _cause("Interrupted", EXPLAINED["Interrupted"].format(error), lines)
    except Exception as error:  # dead kernel, timeout, full disk: each must leave a report
        lines.broke()
        kind = type(error).__name__
        return _cause(kind, EXPLAINED.get(kind, str(error)), lines)
    finally:
        os.environ.pop("NEOXLIB_RUN_DIR", None)
    return None


def _papermill(job: RunArguments, folder: Path, timeout: int | None, lines: CellLines) -> None:
    papermill.execute_notebook(
        _unformatted(job.path.absolute()),
        _unformatted(folder / "notebook.ipynb"),
        parameters=job.given,
        progress_bar=False,
        kernel_name="python3",
        language="python",
        kernel_manager_class=ThisPython,
        execution_timeout=timeout,
        coalesce_streams=True,
        stdout_file=lines,
        on_cell_execute=lines.start,
        on_cell_executed=lines.done,
    )


def _cause(kind: str, message: str, lines: CellLines) -> dict[str, Any]:
    source = lines.cell.source if lines.cell else ""
    message = without_home(strip_color(message)).strip() or "no message"
    return {"type": kind, "message": message, "cell": lines.number, "source": source}


def _close(
    job: RunArguments, folder: Path, started: datetime, error: dict[str, Any] | None
) -> dict[str, Any]:
    """Complete results.json: the error, and the end of a run that its notebook did not finish."""
    try:
        results = workbook_results.read_results(folder)
    except ValueError:  # the notebook did not reach Run.start
        results = workbook_results.NO_RUN | {
            "schema_version": SCHEMA_VERSION,
            "notebook": job.name,
            "run": folder.name,
            "status": "running",
            "parameters": job.values,
            "given": list(job.given),
            "started": stamp(started),
        }
    check_failed = bool(error) and error["type"] == "CheckFailed"
    if check_failed and results["status"] == "check-failed":
        error = None  # the table of checks shows it
    if error or results["status"] == "running":
        now = datetime.now(UTC)
        status = _status_after(error)
        seconds = round((now - started).total_seconds(), 3)
        results |= {"status": status, "error": error, "finished": stamp(now), "seconds": seconds}
    write_results(folder, results)
    return results


def _status_after(error: dict[str, Any] | None) -> str:
    if error is None:
        return "ok"
    return ENDED_AS.get(error["type"], "failed")


def _unformatted(path: Path) -> str:
    """Double the braces of a path: papermill formats it."""
    return str(path).replace("{", "{{").replace("}", "}}")
