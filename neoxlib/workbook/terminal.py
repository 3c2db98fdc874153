"""What a headless run prints: where it is, why it failed, and what it found."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nbformat

from neoxlib.errors import show_controls
from neoxlib.workbook import front, metrics
from neoxlib.workbook.arguments import near
from neoxlib.workbook.cells import cell_name
from neoxlib.workbook.kernel import KERNEL_LOG
from neoxlib.workbook.progress import MARK

Say = Callable[[str], None]
LAST_LINES = 12  # of an error or a log, on the terminal
KEY_FIGURES = 5  # of a run, at the end
SILENT = ("DeadKernelError", "RuntimeError")  # of a kernel that died or did not start
TICK = 1.0  # seconds between two updates of the line that changes
HEADING = re.compile(r"^#{2,3}\s+(.+?)\s*#*\s*$", re.MULTILINE)


class Terminal:
    """Prints lines with `say`, and what failed with `warn`.

    On a terminal `live` is its stream: one last line there changes while cells run. A stream that
    cannot be written to, as that of a reader who has gone, gets no more: the run goes on.
    """

    def __init__(self, say: Say, warn: Say | None = None, live: IO[str] | None = None) -> None:
        self.plain = say
        self.plain_warn = warn or say
        self.live = live
        self.lock = threading.RLock()
        self.lost: set[str] = set()

    def say(self, line: str = "") -> None:
        """Print a line that stays."""
        with self.lock:
            self.show("")
            self._print("say", self.plain, line)

    def warn(self, line: str) -> None:
        """Print a line about a failure."""
        with self.lock:
            self.show("")
            self._print("warn", self.plain_warn, line)

    def show(self, line: str) -> None:
        """Replace the line that changes; an empty one removes it. Nothing happens in a log."""
        if self.live is None:
            return
        width = shutil.get_terminal_size().columns - 1
        with self.lock:
            self._print("show", self._rewrite, f"\r\x1b[2K{show_controls(line)[:width]}")

    def _rewrite(self, text: str) -> None:
        self.live.write(text)
        self.live.flush()

    def _print(self, stream: str, write: Say, text: str) -> None:
        if stream not in self.lost:
            try:
                write(text)
            except OSError:
                self.lost.add(stream)


class CellLines:
    """The section headings and code cells of one run as they are reached.

    In a log each cell is a line, and so is each line of its own `progress.Progress`; on a terminal
    the line that changes shows both. It knows which cell is running, also when the kernel dies
    without a message.
    """

    def __init__(self, terminal: Terminal, place: str = "") -> None:
        self.terminal = terminal
        self.place = place
        self.number = 0
        self.total = 0
        self.cell = None
        self.began = 0.0
        self.progress = ""

    def reach(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Print the heading that a text cell begins a section with."""
        heading = HEADING.search(cell.source) if cell.cell_type == "markdown" else None
        if heading:
            self.terminal.say(f"  {show_controls(heading[1])}")

    def start(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Start the clock of a code cell."""
        if cell.cell_type == "code":
            self.number = self.number + 1
            self.cell = cell
            self.progress = ""
            self.began = time.perf_counter()
            self.terminal.show(self.now())

    def done(
        self, cell: nbformat.NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]
    ) -> None:
        """Print the line of a cell that has ended."""
        self._line("" if execute_reply["content"]["status"] == "ok" else "  stopped")

    def write(self, text: str) -> None:
        """Forward a cell's progress lines to the terminal as they arrive."""
        for line in text.splitlines():
            if line.startswith(MARK):
                self.progress = line.removeprefix(MARK)
                if self.terminal.live is None:
                    self.terminal.say(f"  {line}")

    def flush(self) -> None:
        """Do nothing: papermill uses this object as a file."""

    def broke(self) -> None:
        """Print the line of the cell in which the run was broken off."""
        if self.cell:
            self._line("  broken off")

    def now(self) -> str:
        """Return the line that changes: the notebook, the cell's number, time, progress and name.

        The name is last: a narrow terminal cuts the line.
        """
        seconds = f"{time.perf_counter() - self.began:.0f} s"
        number = f"[{self.number}/{self.total}] {seconds}"
        parts = (self.place, number, self.progress, cell_name(self.cell))
        return " · ".join(filter(None, parts))

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Update the line that changes while the block runs."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(TICK):
                if self.cell is not None:
                    self.terminal.show(self.now())

        ticker = threading.Thread(target=tick, name="terminal", daemon=True)
        if self.terminal.live is not None:
            ticker.start()
        try:
            yield
        finally:
            over.set()
            if ticker.is_alive():
                ticker.join()
            self.terminal.show("")

    def _line(self, ending: str) -> None:
        seconds = time.perf_counter() - self.began
        if ending or self.terminal.live is None:
            name = f"[{self.number}/{self.total}] {cell_name(self.cell)}"
            self.terminal.say(f"  {name} … {seconds:.1f} s{ending}")


def closing(results: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that end a run: its status and page, its answer, its key figures.

    Without a page its folder is named; if that has been deleted, its notebook.
    """
    found = [show_controls(results["verdict"]), key_figures(results)]
    found += [f"noisy: {show_controls(why)}" for why in results["noise"]]
    there = [near(path) for path in (folder / "report.html", folder) if path.exists()]
    first = f"{results['status']:<14}{(*there, results['notebook'])[0]}"
    return [first, *(f"{'':<14}{line}" for line in found if line)]


def key_figures(results: dict[str, Any]) -> str:
    """Return the first few figures of a run in one line."""
    values = results["metrics"]
    names = front.key_names(results)[:KEY_FIGURES]
    shown = (f"{metrics.label(name)} {metrics.shown(name, values[name])}" for name in names)
    return show_controls(" · ".join(shown))


def reasons(results: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that say why a run failed and where to read more; [] if it is ok.

    They are the error, the checks that failed, and the end of the log of the rank or kernel that
    died.
    """
    if results["status"] in ("ok", "noisy"):
        return []
    error = results["error"]
    lines = _told(error) if error else []
    lines += checks_told(results)
    logs = [path for path in sorted(folder.glob("logs/*.log")) if path.stat().st_size]
    lines += [f"  {line}" for line in _last_words(error, logs)] if error else []
    page = folder / "report.html"
    more = [*(f"log: {near(path)}" for path in logs)]
    more += [f"report: {near(page)}"] if page.exists() else []
    return [show_controls(line) for line in (*lines, *more)]


def _told(error: dict[str, Any]) -> list[str]:
    where = f" in cell {error['cell']}" if error.get("cell") else ""
    first, *lines = f"{error.get('type')}{where}: {error.get('message')}".splitlines()
    shown = lines if len(lines) <= LAST_LINES else ["…", *lines[-LAST_LINES:]]
    return [first, *(f"  {line}" for line in shown)]


def checks_told(results: dict[str, Any]) -> list[str]:
    """Return a line for each check that failed, and for each that cannot be judged."""
    named = (("CheckFailed", False), ("NotJudged", None))
    return [
        f"{kind}: {check.get('name')}: {check.get('detail')}"
        for kind, verdict in named
        for check in results["checks"]
        if check.get("passed") is verdict
    ]


def _last_words(error: dict[str, Any], logs: list[Path]) -> list[str]:
    """Return the end of the kernel's log if it died, or of the log of the rank that an error names.

    Lines that the error itself has are left out.
    """
    message = str(error.get("message"))
    names = [KERNEL_LOG] if error.get("type") in SILENT else []
    if error.get("type") == "RankError" and (rank := re.search(r"\brank (\d+)\b", message)):
        names = [f"rank{rank[1]}.log"]
    texts = [path.read_text("utf-8", "replace") for path in logs if path.name in names]
    lines = [line for text in texts for line in text.splitlines()[-LAST_LINES:]]
    return [line for line in lines if line.strip() not in message]
