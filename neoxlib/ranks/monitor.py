"""The ranks as they are now, with their last words: live in JupyterLab, a table elsewhere."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib import languages
from neoxlib.ranks import hanging, worker
from neoxlib.ranks.cluster import Ranks
from neoxlib.ranks.tables import rank_table
from neoxlib.workbook.progress import in_lab
from neoxlib.workbook.table import Table

if TYPE_CHECKING:
    import ipywidgets as widgets

    from neoxlib.ranks.session import Session

COLUMNS = ("rank", "pid", "device", "host", "state", "memory (MB)", "last line of its log")
SECONDS = 2.0  # between two looks
TAIL_BYTES = 8192
LINE = 160  # characters of a log's line

Watched = tuple[Ranks, Sequence[dict[str, Any]]]  # one group's ranks, and what each has loaded


class Monitor:
    """The ranks of a session and its replicas.

    It does not keep the session alive, and in JupyterLab it looks again every `seconds` until the
    session has ended.
    """

    def __init__(self, session: "Session", seconds: float = SECONDS) -> None:
        self.groups: list[Watched] = [(group._ranks, group._about) for group in session.groups]
        self.seconds = seconds
        self.renewing: threading.Thread | None = None

    def table(self) -> Table:
        """Return the ranks as they are now."""
        rows = [row for ranks, about in self.groups for row in _rows(ranks, about)]
        return Table(COLUMNS, rows)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        with languages.settled():
            return self.panel()._repr_mimebundle_() | bundle if in_lab() else bundle

    def panel(self) -> "widgets.HTML":
        """Return a widget that shows the table, and begin to renew it."""
        import ipywidgets as widgets

        page = widgets.HTML(languages.page(self._repr_html_()))
        page.add_class("jp-RenderedHTMLCommon")  # JupyterLab's form of tables
        renew = threading.Thread(target=self._renew, args=(page,), name="monitor", daemon=True)
        renew.start()
        self.renewing = renew
        return page

    def _renew(self, page: "widgets.HTML") -> None:
        pause = threading.Event()
        while page.comm is not None and not all(ranks.ended for ranks, _ in self.groups):
            pause.wait(self.seconds)
            page.value = languages.page(self._repr_html_())
        page.value = languages.page(self._repr_html_())


def _rows(ranks: Ranks, about: Sequence[dict[str, Any]]) -> list[tuple]:
    table = rank_table(ranks, about)
    return [
        (
            rank,
            row["pid"],
            row["device"],
            row["host"],
            _state(ranks, row),
            _size(row["resident_mb"]),
            last_line(worker.log_file(ranks.log_dir, rank)),
        )
        for rank, row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def _state(ranks: Ranks, row: dict[str, Any]) -> str:
    """Return ready, working, or how the rank ended."""
    if ranks.ended:
        return row["state"]
    if row["host"] == worker.host() and not worker.alive(row["pid"]):
        return "its process has ended"
    life = hanging.life(row["pid"]) if row["host"] == worker.host() else None
    if life and life.state in hanging.STOPPED:
        return f"stopped (state {life.state})"
    return "working" if ranks.busy else "ready"


def _size(megabytes: float | None) -> str:
    unknown = megabytes is None or megabytes != megabytes
    return "–" if unknown else f"{megabytes:,.0f}"


def last_line(path: Path) -> str:
    """Return the last line of a log that says something, shortened; a dash for no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "–"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "–"
    return last if len(last) <= LINE else f"{last[:LINE]} …"
