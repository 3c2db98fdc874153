"""Run notebooks headless: papermill executes them, the run folder keeps the results, and `pages`
makes the HTML, whether or not the run went well.

Exit codes: 0 all went well, 1 a cell failed, 2 the parameters cannot be used, 3 a check failed,
4 a check cannot be judged;
130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP, which end the run as interrupted.
"""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError, strip_color

from neoxlib.errors import ParameterError
from neoxlib.machine.environment import without_home
from neoxlib.workbook import ci_files, pages
from neoxlib.workbook import results as workbook_results
from neoxlib.workbook.arguments import RunArguments, asked, near
from neoxlib.workbook.kernel import Interrupted, Signals, ThisPython, ending_stopped
from neoxlib.workbook.run import SCHEMA_VERSION
from neoxlib.workbook.run_folder import (
    Heartbeat,
    new_folder,
    outputs_root,
    scrub_logs,
    stamp,
    write_results,
)
from neoxlib.workbook.terminal import CellLines, Say, Terminal, closing, reasons

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


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its exit code, its folder and what its results.json says."""

    code: int
    folder: Path
    results: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """The runs of one call below `root`; the signal that broke it off, and what it prevented.

    `came` is None, and `not_run` empty, if there was no signal.
    """

    runs: tuple[Ended, ...]
    root: Path
    came: signal.Signals | None
    not_run: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code: the worst of the runs."""
        codes = {OK, *(run.code for run in self.runs)}
        worst = next(code for code in WORST_FIRST if code in codes)
        return worst if self.came is None else 128 + self.came


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
    return run_all(asked(notebooks, presets, texts), outputs, timeout, Terminal(say)).code


def run_all(
    jobs: Sequence[RunArguments], outputs: Path | None, timeout: int | None, terminal: Terminal
) -> Report:
    """Run all jobs one after the other; make their pages, the index and summary.md."""
    root = outputs.absolute() if outputs else outputs_root()
    usable(root)
    ended: list[Ended] = []
    with Signals() as signals:
        ThisPython.signals = signals
        for number, job in enumerate(jobs, start=1):
            if signals.came is None:
                place = f"notebook {number} of {len(jobs)}: {job.name}"
                code, folder = run_one(job, root, timeout, terminal, signals, place)
                ended.append(Ended(code, folder, _results(folder)))
        pages.write_index(root)
        not_run = tuple(job.name for job in jobs[len(ended) :])
        found = Report(tuple(ended), root, signals.came, not_run)
        ci_files.write_summary(root, [(run.results, run.folder) for run in ended], not_run)
    _close_report(found, terminal)
    return found


def _close_report(found: Report, terminal: Terminal) -> None:
    """Print the end of every run, and where the pages of all are."""
    terminal.say()
    for run in found.runs:
        for line in closing(run.results, run.folder):
            terminal.say(line)
    for name in found.not_run:
        terminal.say(f"{'not run':<14}{name}")
    terminal.say(near(found.root / "index.html"))


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


def _results(folder: Path) -> dict[str, Any]:
    try:
        return workbook_results.read_results(folder)
    except ValueError:
        names = {"run": folder.name, "notebook": folder.parent.name}
        return workbook_results.NO_RUN | names


def run_one(
    job: RunArguments,
    root: Path,
    timeout: int | None,
    terminal: Terminal,
    signals: Signals,
    place: str,
) -> tuple[int, Path]:
    """Execute one notebook into a new run folder, and write its results.json and report.html.

    If the disk is full, that is printed, and the files written so far stay.
    """
    folder = new_folder(root, job.name, job.values)
    terminal.say(f"{place} → {near(folder)}")
    try:
        return _run(job, folder, timeout, CellLines(terminal, place), signals), folder
    except OSError as error:
        terminal.warn(f"  {near(folder)} cannot be written: {error}")
        return CELL_FAILED, folder


def _run(
    job: RunArguments, folder: Path, timeout: int | None, lines: CellLines, signals: Signals
) -> int:
    shutil.copyfile(job.path, folder / "notebook.ipynb")  # to show if nothing runs
    started = datetime.now(UTC)
    error = _execute(job, folder, timeout, lines, signals)
    results = _close(job, folder, started, error)
    scrub_logs(folder / "logs")
    pages.write_report(folder)
    for line in reasons(results, folder):
        lines.terminal.warn(f"  {line}")
    refused = results["status"] == "failed" and results["error"]["type"] in REFUSED
    return BAD_PARAMETERS if refused else CODES[results["status"]]


def _execute(
    job: RunArguments, folder: Path, timeout: int | None, lines: CellLines, signals: Signals
) -> dict[str, Any] | None:
    """Run papermill; return the error, if any: type, message, number and source of the cell."""
    notebook = nbformat.read(job.path, as_version=4)
    lines.total = sum(cell.cell_type == "code" for cell in notebook.cells) + bool(job.given)
    os.environ["NEOXLIB_RUN_DIR"] = str(folder)
    said: list[str] = []
    try:
        with signals.running(), lines.ticking(), ending_stopped() as said:
            _papermill(job, folder, timeout, lines)
    except PapermillExecutionError as error:
        return _cause(error.ename, error.evalue or EXPLAINED.get(error.ename, ""), lines)
    except Interrupted as error:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of tasks that nobody awaits now
        signals.end_children()
        lines.broke()
        return _cause("Interrupted", EXPLAINED["Interrupted"].format(error), lines)
    except Exception as error:  # dead kernel, timeout, full disk: each must leave a report
        lines.broke()
        kind = type(error).__name__
        return _cause(kind, "".join(said) or EXPLAINED.get(kind, str(error)), lines)
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
        on_cell_start=lines.reach,
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
        (folder / Heartbeat.FILE).unlink(missing_ok=True)  # of a kernel that died
    write_results(folder, results)
    return results


def _status_after(error: dict[str, Any] | None) -> str:
    if error is None:
        return "ok"
    return ENDED_AS.get(error["type"], "failed")


def _unformatted(path: Path) -> str:
    """Double the braces of a path: papermill formats it."""
    return str(path).replace("{", "{{").replace("}", "}}")
