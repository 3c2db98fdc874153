"""Run notebooks headless: papermill executes, the run folder keeps what there is, `pages` makes the HTML,
whether or not it went well.

Exit codes: 0 all went well, 1 a cell failed, 2 the parameters cannot be used, 3 a check failed;
130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP, which end the run as interrupted.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError, strip_color
from papermill.iorw import LocalHandler, papermill_io

from neoxlib.errors import ParameterError
from neoxlib.machine.environment import without_home
from neoxlib.process import python
from neoxlib.workbook import pages
from neoxlib.workbook import results as workbook_results
from neoxlib.workbook.arguments import Job, asked, near
from neoxlib.workbook.cells import cell_name
from neoxlib.workbook.progress import MARK
from neoxlib.workbook.run import (
    SCHEMA_VERSION,
    new_folder,
    outputs_root,
    stamp,
    write_results,
    write_text,
)
from neoxlib.workbook.signals import Interrupted, Signals

OK = 0
CELL_FAILED = 1
BAD_PARAMETERS = 2
CHECK_FAILED = 3
INTERRUPTED = 130
WORST_FIRST = (INTERRUPTED, BAD_PARAMETERS, CELL_FAILED, CHECK_FAILED, OK)
CODES = {"ok": OK, "failed": CELL_FAILED, "check-failed": CHECK_FAILED, "interrupted": INTERRUPTED}
ENDED_AS = {  # by the error of a notebook; others are failed
    "CheckFailed": "check-failed",
    "Interrupted": "interrupted",
    "KeyboardInterrupt": "interrupted",
}
REFUSED = ("ParameterError", "SettingsError")  # what is asked for cannot be had
LAST_LINES = 12  # of an error, on the terminal
KERNEL_LOG = "kernel.log"
SILENT = ("DeadKernelError", "RuntimeError")  # of a kernel that died, or did not come up

EXPLAINED = {
    "Interrupted": "The run was broken off by {}.",
    "KeyboardInterrupt": "The cell was interrupted.",
    "DeadKernelError": "The notebook's process ended without a Python error: killed (often: out of memory) or crashed.",
    "CellTimeoutError": "The cell took longer than --timeout allows.",
}

Say = Callable[[str], None]


class WholeFiles(LocalHandler):
    """papermill's files, whole or not at all."""

    def write(self, buf: str, path: str) -> None:
        write_text(Path(path), buf)


papermill_io.register("/", WholeFiles())


class ThisPython(AsyncKernelManager):
    """Kernels of the interpreter that runs us, whatever kernelspecs are installed; their channels are encrypted."""

    signals: ClassVar[Signals]  # of the report that is made
    transport_encryption = "auto"

    @property
    def kernel_spec(self) -> KernelSpec:
        kernel = python("ipykernel.kernelapp", "launch_new_instance")
        return KernelSpec(**get_kernel_dict() | {"argv": [*kernel, "-f", "{connection_file}"]})

    async def shutdown_kernel(self, *args: Any, **options: Any) -> None:
        """As ever; a cell that a signal broke off is interrupted first, to end its ranks."""
        if self.signals.came is not None:
            with suppress(RuntimeError):
                await self.interrupt_kernel()
        await super().shutdown_kernel(*args, **options)

    async def start_kernel(self, **options: Any) -> None:
        """As ever, but what the process itself says, say in a crash, is kept with the run's logs."""
        log = Path(os.environ["NEOXLIB_RUN_DIR"]) / "logs" / KERNEL_LOG
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as stderr:
            await super().start_kernel(stderr=stderr, **options)


def report(
    notebooks: Iterable[str],
    presets: Iterable[str],
    texts: Iterable[tuple[str, str]],
    *,
    outputs: Path | None = None,
    timeout: int | None = None,
    say: Say,
) -> int:
    """Run the notebooks one after the other and make their pages and the index; returns the worst exit code.

    Raises:
        ParameterError: before any kernel starts, with every unknown notebook, unknown name and impossible value.
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
    """Raises ParameterError where no run folders can be made in `root`."""
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
    job: Job, root: Path, timeout: int | None, say: Say, signals: Signals
) -> tuple[int, Path]:
    """Execute one notebook into a new run folder, which then has results.json and report.html.

    Only a disk that is full can keep them out: then that is said, and what there is stays.
    """
    folder = new_folder(root, job.name, job.values)
    try:
        return _run(job, folder, timeout, say, signals), folder
    except OSError as error:
        say(f"  {near(folder)} cannot be written: {error}")
        return CELL_FAILED, folder


def _run(job: Job, folder: Path, timeout: int | None, say: Say, signals: Signals) -> int:
    shutil.copyfile(
        job.path, folder / "notebook.ipynb"
    )  # there is something to show even if nothing runs
    started = datetime.now(UTC)
    say(f"{job.name} → {near(folder)}")
    error = _execute(job, folder, timeout, Progress(say), signals)
    results = _close(job, folder, started, error)
    pages.write_report(folder)
    for line in _reasons(results, folder):
        say(f"  {line}")
    refused = results["status"] == "failed" and results["error"]["type"] in REFUSED
    return BAD_PARAMETERS if refused else CODES[results["status"]]


def _reasons(results: dict[str, Any], folder: Path) -> list[str]:
    """Why a run did not end well and where more is told, for the terminal; empty where it did."""
    if results["status"] == "ok":
        return []
    failed = {"type": "CheckFailed", "cell": 0, "message": _failed_checks(results)}
    error = results["error"] or failed
    where = f" in cell {error['cell']}" if error["cell"] else ""
    first, *lines = f"{error['type']}{where}: {error['message']}".splitlines()
    shown = lines if len(lines) <= LAST_LINES else ["…", *lines[-LAST_LINES:]]
    logs = [path for path in sorted(folder.glob("logs/*.log")) if path.stat().st_size]
    if error["type"] in SILENT:
        shown += [line for path in logs for line in _end_of(path) if path.name == KERNEL_LOG]
    more = [*(f"log: {near(path)}" for path in logs), f"report: {near(folder / 'report.html')}"]
    return [first, *(f"  {line}" for line in shown), *more]


def _end_of(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]


def _failed_checks(results: dict[str, Any]) -> str:
    failed = (check for check in results["checks"] if not check["passed"])
    return "; ".join(f"{check['name']}: {check['detail']}" for check in failed)


class Progress:
    """A plain line per code cell, and those that a cell's own `progress.Progress` prints, as they come.

    Remembers which cell is running, for kernels that die without a word.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self.number = 0
        self.total = 0
        self.cell = None
        self.began = 0.0

    def start(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            self.number = self.number + 1
            self.cell = cell
            self.began = time.perf_counter()

    def done(
        self, cell: nbformat.NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]
    ) -> None:
        self._line("" if execute_reply["content"]["status"] == "ok" else "  stopped")

    def write(self, text: str) -> None:
        """What a cell prints, as it comes: of it the lines for whoever waits."""
        for line in text.splitlines():
            if line.startswith(MARK):
                self.say(f"  {line}")

    def flush(self) -> None:
        """For papermill, which takes this for a file."""

    def broke(self) -> None:
        if self.cell:
            self._line("  broken off")

    def _line(self, ending: str) -> None:
        seconds = time.perf_counter() - self.began
        self.say(f"  [{self.number}/{self.total}] {cell_name(self.cell)} … {seconds:.1f} s{ending}")


def _execute(
    job: Job, folder: Path, timeout: int | None, progress: Progress, signals: Signals
) -> dict[str, Any] | None:
    """Run papermill; returns what went wrong: type, message, and the number and source of the cell."""
    notebook = nbformat.read(job.path, as_version=4)
    progress.total = sum(cell.cell_type == "code" for cell in notebook.cells) + bool(job.given)
    os.environ["NEOXLIB_RUN_DIR"] = str(folder)
    try:
        with signals.running():
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
                stdout_file=progress,
                on_cell_execute=progress.start,
                on_cell_executed=progress.done,
            )
    except PapermillExecutionError as error:
        return _cause(error.ename, error.evalue or EXPLAINED.get(error.ename, ""), progress)
    except Interrupted as error:
        signals.end_children()
        progress.broke()
        return _cause("Interrupted", EXPLAINED["Interrupted"].format(error), progress)
    except (
        Exception
    ) as error:  # a dead kernel, a timeout, a disk that is full: all of them must leave a report
        progress.broke()
        kind = type(error).__name__
        return _cause(kind, EXPLAINED.get(kind, str(error)), progress)
    finally:
        os.environ.pop("NEOXLIB_RUN_DIR", None)
    return None


def _cause(kind: str, message: str, progress: Progress) -> dict[str, Any]:
    source = progress.cell.source if progress.cell else ""
    message = without_home(strip_color(message)).strip() or "no message"
    return {"type": kind, "message": message, "cell": progress.number, "source": source}


def _close(
    job: Job, folder: Path, started: datetime, error: dict[str, Any] | None
) -> dict[str, Any]:
    """Complete results.json from outside: the error, and the end of a run whose notebook did not finish it itself."""
    try:
        results = workbook_results.read_results(folder)
    except ValueError:  # it never came to Run.start
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
        error = None  # the table of checks says it better
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
    """papermill fills braces in paths; ours are meant."""
    return str(path).replace("{", "{{").replace("}", "}}")
