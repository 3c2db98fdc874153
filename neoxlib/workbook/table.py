"""Small tables and notes that notebooks show: escaped HTML there, plain text elsewhere."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from neoxlib.errors import show_controls
from neoxlib.languages import padded, said, width
from neoxlib.workbook import markup

if TYPE_CHECKING:
    import pandas as pd


Status = Literal["OK", "WARN", "FAIL"]  # of a check
ORDER: tuple[Status, ...] = ("OK", "WARN", "FAIL")


class Checked:
    """A report of checks: dataclasses with a `status`, in `rows`."""

    rows: tuple[Any, ...]

    @property
    def worst(self) -> Status:
        """The worst status of any row."""
        return max((row.status for row in self.rows), key=ORDER.index, default="OK")

    @property
    def summary(self) -> str:
        """The number of rows of each status, in one line."""
        counts = {status: sum(row.status == status for row in self.rows) for status in ORDER}
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    @property
    def frame(self) -> "pd.DataFrame":
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


class Table:
    """A table: HTML in a notebook, text on a terminal; every cell is escaped."""

    def __init__(self, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
        self.columns = columns
        self.rows = [tuple(str(cell) for cell in row) for row in rows]

    def _repr_html_(self) -> str:
        return markup.table(self.columns, self.rows)

    def __repr__(self) -> str:
        told = ((said(cell) for cell in line) for line in (self.columns, *self.rows))
        lines = [tuple(map(show_controls, line)) for line in told]
        widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
        rows = ((padded(*cell) for cell in zip(line, widths, strict=True)) for line in lines)
        return "\n".join("  ".join(row).rstrip() for row in rows)


class Note(str):
    """A text that a report shows without quotes, for instance in place of a table."""

    def __repr__(self) -> str:
        return show_controls(str(self))

    def _repr_html_(self) -> str:
        return markup.paragraph(self)


class NotAsked(Note):
    """Says that something was not asked for. A report leaves it out, with the text above it."""

    def _repr_html_(self) -> str:
        return f'<div class="not-asked">{markup.paragraph(self)}</div>'


class Live:
    """A widget in a cell's output; where there are no widgets, words stand for it."""

    def __init__(self, widget: Any) -> None:
        from IPython.display import display

        self.widget = widget
        self.handle = display(self._bundle("…"), raw=True, display_id=True)

    def end(self, text: str) -> None:
        """Give the words that a saved notebook and a report show."""
        self.handle.update(self._bundle(text), raw=True)

    def _bundle(self, text: str) -> dict[str, Any]:
        words = {"text/plain": show_controls(text), "text/html": markup.paragraph(text)}
        return self.widget._repr_mimebundle_() | words


class TextTable:
    """A few rows of long text: escaped HTML in a notebook, shortened plain text elsewhere.

    The HTML of pandas cuts long cells and shows line breaks as \\n.
    """

    def __init__(self, rows: "pd.DataFrame", note: str = "") -> None:
        self.rows = rows.astype(str)
        self.note = note

    def _repr_html_(self) -> str:
        note = markup.paragraph(self.note) if self.note else ""
        rows = self.rows.itertuples(index=False)
        table = markup.table(self.rows.columns, rows)
        return note if self.rows.empty else table + note

    def __repr__(self) -> str:
        if self.rows.empty:
            return show_controls(self.note)
        return show_controls(f"{self.rows.to_string(index=False, max_colwidth=30)}\n{self.note}")


def worded(value: Any) -> str:
    """Return a value for a table; an empty one is named, since an empty cell looks wrong."""
    return {"": "empty", "[]": "empty", "None": "not there"}.get(str(value), str(value))


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return values by name in words; those of an object within have its name before their own."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        inner = isinstance(value, dict)
        rows += flat(value, f"{name} ") if inner else [(f"{prefix}{name}", worded(value))]
    return rows


def figure(value: Any) -> str:
    """Return a number with four digits, or thousands with commas."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else worded(value)


def show_frames() -> None:
    """Have a notebook show pandas' frames and series with nothing unseen, texts to the left."""
    import pandas as pd
    from IPython import get_ipython

    pd.set_option("display.html.use_mathjax", False)  # a $…$ in a cell is no formula
    pd.set_option("display.max_colwidth", None)  # a long text is wrapped, not cut
    shell = get_ipython()
    if shell is None:
        return
    made = shell.display_formatter.formatters
    made["text/html"].for_type(pd.DataFrame, frame_html)
    for kind in (pd.DataFrame, pd.Series):
        made["text/plain"].for_type(kind, _print_plain)


def frame_html(frame: "pd.DataFrame") -> str:
    """Return pandas' HTML of a frame, in which every text is shown as typed."""
    return markup.align(_seen(frame)._repr_html_())


def _seen(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a frame whose texts, also those of its heads, show what cannot be seen."""
    names = {"index": _shown, "columns": _shown}
    return frame.map(_shown).rename(**names).rename_axis(**names)


def _shown(value: Any) -> Any:
    return show_controls(value) if isinstance(value, str) else value


def _print_plain(value: Any, printer: Any, cycle: bool) -> None:
    printer.text(show_controls(repr(value)))
