"""How far a session's ranks are with their start and their weights: a bar, or a line."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from neoxlib.languages import page
from neoxlib.ranks.outcome import WEIGHTS
from neoxlib.workbook import markup
from neoxlib.workbook.progress import SECONDS, Line, in_lab, in_notebook, speed, words
from neoxlib.workbook.table import Live

TICK = 0.2  # seconds between two drawings in JupyterLab


class Count(NamedTuple):
    """Bytes of weights of one rank, or of all ranks."""

    placed: int
    mapped: int  # of those: not read yet, the pages are the file's
    total: int


class Loading:
    """A context manager for the start of `ranks` ranks; afterwards it shows what that took.

    It shows itself in a notebook, or as `show` says: a bar in JupyterLab, else a line every few
    seconds and one at the end. All its bytes are those that the ranks have counted.
    """

    def __init__(self, ranks: int, show: bool | None = None, name: str = "") -> None:
        self.ranks = ranks
        self.shown = in_notebook() if show is None else show
        self.name = f"{name}: " if name else ""
        self.phase = f"starting {self._places()}"
        self.counts: dict[int, Count] = {}
        self.start = self.first = self.last = self.end = time.monotonic()
        self.failed = self.ended = False
        self.over = threading.Event()
        self.ticker = threading.Thread(target=self._tick, name="loading", daemon=True)
        self.panel: Panel | None = None
        self.line = Line()

    def hear(self, published: Sequence[Mapping[str, Any]]) -> None:
        """Take what each rank has counted so far."""
        found = {r: Count(*data[WEIGHTS]) for r, data in enumerate(published) if WEIGHTS in data}
        if found == self.counts:
            return
        self.last = time.monotonic()
        if not self.counts:
            self.first = self.last
        self.counts = found

    @property
    def count(self) -> Count:
        """Of all ranks; while some have not counted yet, their total is taken for the others'."""
        heard = [sum(column) for column in zip(*self.counts.values(), strict=True)] or [0, 0, 0]
        return Count(*heard[:2], heard[2] * self.ranks // max(1, len(self.counts)))

    @property
    def rate(self) -> float:
        """Bytes read per second so far; 0 while it is not known."""
        read = self.count.placed - self.count.mapped
        return read / (self.last - self.first) if read and self.last > self.first else 0.0

    def told(self) -> str:
        """Return in words how far it is."""
        spent = words(time.monotonic() - self.start)
        if self.failed:
            return f"{self.name}not loaded, after {words(self.end - self.start)}"
        if self.ended:
            return f"{self.name}{self._summary()}"
        if not self.counts:
            return f"{self.name}{self.phase}, {spent}"
        placed, _, total = self.count
        done = f"{_size(placed)} of {_size(total)} of weights on {self._places()}"
        left = (total - placed) / self.rate if self.rate else 0.0
        rest = f", about {words(left)} left" if placed < total and left else ""
        return f"{self.name}{done}{self._speed()}{rest}"

    def _summary(self) -> str:
        placed, mapped, _ = self.count
        took = f"ready in {words(self.end - self.start)}"
        if not self.counts:
            return took
        what = f"{_size(placed)} of weights on {self._places()}"
        how = f", {_size(mapped)} of them mapped and copied in the background" if mapped else ""
        return f"{what}{how}{self._speed()}, {took}"

    def _places(self) -> str:
        return f"{self.ranks} rank{'s' * (self.ranks > 1)}"

    def _speed(self) -> str:
        return f", {speed(self.rate)}" if self.rate else ""

    def __enter__(self) -> "Loading":
        if self.shown and in_lab() and in_notebook():
            self.panel = Panel(self.told())
        if self.shown:
            self.ticker.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        self.failed, self.ended = failure is not None, failure is None
        self.end = time.monotonic()
        if not self.shown:
            return
        self.ticker.join()
        if self.panel:
            self.panel.end(self)
        else:
            self.line.show(self.told())
            self.line.end()

    def _tick(self) -> None:
        while not self.over.wait(TICK if self.panel else SECONDS):
            if self.panel:
                self.panel.draw(self)
            else:
                self.line.show(self.told())

    def _repr_html_(self) -> str:
        return markup.paragraph(self.told())

    def __repr__(self) -> str:
        return self.told()


class Panel:
    """The bar of a Loading in JupyterLab."""

    def __init__(self, text: str) -> None:
        import ipywidgets as widgets

        self.bar = widgets.FloatProgress(min=0, max=1, bar_style="info", layout={"width": "16em"})
        self.text = widgets.HTML(page(markup.paragraph(text)))
        row = {"align_items": "center", "min_height": "2.4em"}
        self.live = Live(widgets.HBox([self.bar, self.text], layout=row))

    def draw(self, loading: Loading) -> None:
        """Show how far it is now."""
        placed, _, total = loading.count
        self.bar.value = placed / max(1, total)
        self.text.value = page(markup.paragraph(loading.told()))

    def end(self, loading: Loading) -> None:
        """Show how it ended."""
        self.draw(loading)
        self.bar.bar_style = "danger" if loading.failed else "success"
        self.live.end(loading.told())


def _size(count: int) -> str:
    return tqdm.format_sizeof(count, "B")
