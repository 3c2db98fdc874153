"""Run notebooks headless: papermill executes them, the run folder keeps the results, and `pages`
makes the HTML, whether or not the run went well.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
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
from neoxlib.workbook.ci_files import Ended, Report, unwritten
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

ENDED_AS = {  # error of a notebook -> status; any other is failed
    "CheckFailed": "check-failed",
    "Interrupted": "interrupted",
    "KeyboardInterrupt": "interrupted",
}
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
                ended.append(run_one(job, root, timeout, terminal, signals, place))
        not_run = tuple(job.name for job in jobs[len(ended) :])
        errors = _write_pages(root, ended, not_run)
    found = Report(tuple(ended), root, signals.came, not_run, errors)
    _close_report(found, terminal)
    return found


def _write_pages(root: Path, ended: Sequence[Ended], not_run: Sequence[str]) -> tuple[str, ...]:
    """Write the index and summary.md; return which of them cannot be written, and why."""
    runs = [(run.results, run.folder) for run in ended]
    writers = (
        lambda: pages.write_index(root),
        lambda: ci_files.write_summary(root, runs, not_run),
    )
    errors = []
    for write in writers:
        try:
            write()
        except OSError as error:
            errors.append(unwritten(error, root))
    return tuple(errors)


def _close_report(found: Report, terminal: Terminal) -> None:
    """Print the end of every run, and where the pages of all are."""
    terminal.say()
    for run in found.runs:
        for line in closing(run.results, run.folder):
            terminal.say(line)
    for name in found.not_run:
        terminal.say(f"{'not run':<14}{name}")
    for error in found.errors:
        terminal.warn(error)
    if found.index.is_file():
        terminal.say(near(found.index))


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


def run_one(
    job: RunArguments,
    root: Path,
    timeout: int | None,
    terminal: Terminal,
    signals: Signals,
    place: str,
) -> Ended:
    """Execute one notebook into a new run folder, and write its results.json and report.html.

    If one of them cannot be written, the run has failed, and the files written so far stay.
    """
    folder = new_folder(root, job.name, job.values)
    terminal.say(f"{place} → {near(folder)}")
    results = _run(job, folder, timeout, CellLines(terminal, place), signals)
    for line in reasons(results, folder):
        terminal.warn(f"  {line}")
    return Ended(folder, results)


def _run(
    job: RunArguments, folder: Path, timeout: int | None, lines: CellLines, signals: Signals
) -> dict[str, Any]:
    started = datetime.now(UTC)
    error = None
    try:
        shutil.copyfile(job.path, folder / "notebook.ipynb")  # to show if nothing runs
        error = _execute(job, folder, timeout, lines, signals)
        results = _closed(job, folder, started, error)
        write_results(folder, results)
        scrub_logs(folder / "logs")
        pages.write_report(folder)
        return results
    except OSError as lost:
        message = unwritten(lost, folder)
    if error and error["type"] != "CheckFailed":  # which says more
        lines.terminal.warn(f"  {message}")
    else:
        error = {"type": "OSError", "message": without_home(message)}
    results = _closed(job, folder, started, error)
    with suppress(OSError):
        write_results(folder, results)
    return results


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


def _closed(
    job: RunArguments, folder: Path, started: datetime, error: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the results with the error, and the end of a run that its notebook did not finish."""
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
        with suppress(OSError):
            (folder / Heartbeat.FILE).unlink()  # of a kernel that died
    return results


def _status_after(error: dict[str, Any] | None) -> str:
    if error is None:
        return "ok"
    return ENDED_AS.get(error["type"], "failed")


def _unformatted(path: Path) -> str:
    """Double the braces of a path: papermill formats it."""
    return str(path).replace("{", "{{").replace("}", "}}")
