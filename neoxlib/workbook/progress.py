"""Progress of long work: a bar in JupyterLab, a line every few seconds elsewhere.

JupyterLab shows what comes on stderr in a red box; in a notebook nothing goes there.
"""

import io
import logging
import os
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from neoxlib.errors import show_controls
from neoxlib.languages import label, said
from neoxlib.workbook.table import Live

MARK = "progress: "  # starts a line that `report` forwards to the terminal as it arrives
SECONDS = 5.0  # between two lines
# tqdm's bars, of parts and of bytes.
PARTS = "{{l_bar}}{{bar}}| {{elapsed}} {gone}, {{remaining}} {left}{{postfix}}"
BYTES = "{{l_bar}}{{bar}}| {{n_fmt}} of {{total_fmt}}, {{rate_fmt}}, {{remaining}} {left}"


class Progress:
    """A context manager for parts of known sizes: `begin` each, and call `done` at its end.

    The time left is estimated from the parts so far and their sizes, which may be in any unit.
    Work that is over before a line was due has none.
    """

    def __init__(
        self, total: float, parts: int, noun: str, every: float = SECONDS, keep: bool = False
    ) -> None:
        self.total = total
        self.parts = parts
        self.noun = noun
        self.every = every
        self.keep = keep
        self.finished = 0.0
        self.ready = 0
        self.size = 0.0
        self.name = "starting"
        self.start = self.last = time.monotonic()
        self.bar = Bar(PARTS, desc=noun, total=total) if in_lab() else None
        self.said = False
        self.over = threading.Event()
        self.ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def begin(self, name: str, size: float) -> None:
        """Start the part `name`."""
        self.name = show_controls(name)  # it may be a file's
        self.size = size
        if self.bar is not None:
            self.bar.set_postfix_str(said(self.name))

    def done(self, parts: int = 1) -> None:
        """End the part that was begun, or `parts` of them, whose total size was given."""
        self.finished = self.finished + self.size
        self.ready = self.ready + parts
        self.last = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.size)

    def skip(self, parts: int) -> None:
        """Leave out `parts` of size 1 each, which need no work."""
        self.total = self.total - parts
        self.ready = self.ready + parts
        if self.bar is not None:
            self.bar.shrink(parts)

    def line(self) -> str:
        """Return how much is done, how long the rest should take, and the current part."""
        left = f", about {words(self.left())} left" if self.finished else ""
        return f"{MARK}{self.ready} of {self.parts} {self.noun}{left}; now {self.name}"

    def left(self) -> float:
        """Estimate the seconds until all parts are done, at the speed so far."""
        at_last = (self.last - self.start) * (self.total - self.finished) / self.finished
        return max(0.0, at_last - (time.monotonic() - self.last))

    def _tick(self) -> None:
        while not self.over.wait(self.every):
            say(self.line(), self.keep)
            self.said = True

    def __enter__(self) -> "Progress":
        if self.bar is None:
            self.ticker.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        spent = words(time.monotonic() - self.start)
        told = f"{self.ready} of {self.parts} {self.noun}, {spent}"
        if self.bar is not None:
            self.bar.end(told)
            return
        self.ticker.join()
        if failure is None and self.said:
            say(f"{MARK}{told}", self.keep)


def in_lab() -> bool:
    """Return whether this is a kernel of JupyterLab: only its server sets the notebook's name."""
    return "JPY_SESSION_NAME" in os.environ


def in_notebook() -> bool:
    """Return whether output goes to a notebook: in a kernel, but not in a rank, which has a log."""
    ipython = sys.modules.get("IPython")
    kernel = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return kernel and type(sys.stdout).__module__.startswith("ipykernel")


def keep_off_stderr() -> None:
    """In a notebook, let warnings, logs and bars come on stdout, also those of other libraries."""
    if not in_notebook() or isinstance(sys.stderr, OnStdout):
        return
    boxed = sys.stderr
    sys.stderr = OnStdout(sys.stdout)
    # IPython puts back stdout's own `write` after every cell.
    sys.modules["IPython"].get_ipython().events.register("pre_run_cell", sys.stderr.follow)
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is boxed:
                handler.setStream(sys.stderr)


class OnStdout(io.TextIOBase):
    """A stderr that comes on stdout, on lines of its own: a bar's \\r takes back no other text."""

    encoding = "utf-8"

    def __init__(self, stdout: Any) -> None:
        self.stdout = stdout
        self.last = ("", "\n")  # who wrote last, and its last letter
        self.follow()

    def follow(self, *_: Any) -> None:
        """Note from now on what is written to stdout itself."""
        if self.stdout.write != self._of_stdout:
            self._write = self.stdout.write
            self.stdout.write = self._of_stdout

    def _of_stdout(self, text: str) -> int:
        return self._from("stdout", text)

    def write(self, text: str) -> int:
        """Write to stdout."""
        return self._from("stderr", text)

    def flush(self) -> None:
        """Flush stdout."""
        self.stdout.flush()

    def _from(self, writer: str, text: str) -> int:
        if text:
            before, letter = self.last
            if before != writer and letter != "\n":
                self._write("\n")
            self.last = (writer, text[-1])
            self._write(text)
        return len(text)


class Line:
    """A line that replaces the one before: in a notebook; on stderr, each is a line of its own.

    A report forwards those of a notebook to the terminal.
    """

    def __init__(self) -> None:
        self.open = False

    def show(self, text: str) -> None:
        """Show `text` now."""
        if not in_notebook():
            print(text, file=sys.stderr, flush=True)
            return
        print(f"\r{MARK}{text}", end="", flush=True)
        self.open = True

    def end(self) -> None:
        """Let the last line stay."""
        if self.open:
            print(flush=True)
        self.open = False


def speed(rate: float) -> str:
    """Return bytes per second as GB/s; slower ones as MB/s or less."""
    return f"{rate / 1e9:.2f} GB/s" if rate >= 1e7 else f"{tqdm.format_sizeof(rate, 'B')}/s"


class Bar:
    """tqdm's bar in JupyterLab. `update`, `set_postfix_str` … are tqdm's own."""

    def __init__(self, form: str, desc: str, **options: Any) -> None:
        from tqdm.notebook import tqdm as notebook_bar

        words = {"gone": label("label: gone"), "left": label("label: left")}
        options["bar_format"] = form.format(**words)
        self.bar = notebook_bar(display=False, desc=said(desc), **options)
        self.live = Live(self.bar.container)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bar, name)

    def shrink(self, size: float) -> None:
        """Leave out work of `size`."""
        self.bar.total -= size
        self.bar.container.children[1].max = self.bar.total
        self.bar.refresh()

    def end(self, text: str) -> None:
        """Leave the bar as it is, and `text` in its place where there are no widgets."""
        self.bar.close()
        self.live.end(text)


def say(line: str, keep: bool) -> None:
    """Print `line`; in a kernel, replace the cell's output unless `keep` is set."""
    from IPython import get_ipython
    from IPython.display import clear_output

    if not keep and hasattr(get_ipython(), "kernel"):
        clear_output(wait=True)
    print(line, flush=True)


def words(seconds: float) -> str:
    """Return seconds in words: 40 s, 12 min, 1 h 30 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class Meter:
    """Work done, its speed and the time left: a bar on a terminal and in JupyterLab, else lines.

    The lines come on stderr, one per tenth and second; a notebook shows the last one only. Work is
    counted in `unit`, by default bytes, which are shown as GB/s.
    """

    def __init__(
        self, title: str, total: int, done: int = 0, show: bool = True, unit: str = "B"
    ) -> None:
        self.title = title
        self.unit = unit
        self.total = max(total, 1)
        self.done = done
        self.first = done
        self.lock = threading.Lock()
        self.start = self.said = time.perf_counter()
        self.tenth = done * 10 // self.total
        lab = show and in_lab() and in_notebook()
        options = {"desc": title, "total": total, "initial": done, "unit_scale": unit == "B"}
        options["unit"] = unit if unit == "B" else f" {unit}"
        hidden = lab or not (show and sys.stderr.isatty())
        self.bar = Bar(BYTES, **options) if lab else tqdm(**options, disable=hidden)
        self.line = Line() if show and hidden and not lab else None

    def add(self, count: int) -> None:
        """Count `count` more bytes as done; safe in any thread."""
        with self.lock:
            self._add(count)

    def _add(self, count: int) -> None:
        self.done += count
        self.bar.update(count)
        tenth = self.done * 10 // self.total
        now = time.perf_counter()
        due = now > self.said + SECONDS or (tenth > self.tenth and now > self.said + 1)
        if self.line and (due or (tenth > self.tenth and self.done == self.total)):
            self.line.show(self.told(now))
            self.tenth = tenth
            self.said = now

    def told(self, now: float) -> str:
        """Return how much is done, at what speed, and how long the rest should take."""
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        rest = f", about {words(left)} left" if self.first < self.done < self.total else ""
        share = f"{self.title}: {100 * self.done // self.total} %"
        if self.unit == "B":
            size = tqdm.format_sizeof(self.total, "B")
            return f"{share} of {size}, {speed(rate)}{rest}"
        return f"{share} of {self.total:,} {self.unit}, {rate:,.3g} {self.unit}/s{rest}"

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.line:
            self.line.end()
        if isinstance(self.bar, Bar):
            self.bar.end(self.told(time.perf_counter()))
        else:
            self.bar.close()
