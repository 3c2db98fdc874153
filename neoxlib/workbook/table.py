"""Small tables and notes that notebooks show: escaped HTML there, plain text elsewhere."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from neoxlib.workbook import markup

if TYPE_CHECKING:
    import pandas as pd

# ASCII's and C1's control characters but for tabs and line breaks.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


def show_controls(text: str) -> str:
    r"""Return a text with control characters as Python writes them (\x1b): no terminal obeys it."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Table:
    """A table: HTML in a notebook, text on a terminal; every cell is escaped."""

    def __init__(self, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
        self.columns = columns
        self.rows = [tuple(str(cell) for cell in row) for row in rows]

    def _repr_html_(self) -> str:
        return markup.table(self.columns, self.rows)

    def __repr__(self) -> str:
        lines = [tuple(map(show_controls, line)) for line in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            (cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )
        return "\n".join("  ".join(line).rstrip() for line in padded)


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
        table = markup.table(self.rows.columns, rows, markup.LEFT)
        return note if self.rows.empty else table + note

    def __repr__(self) -> str:
        if self.rows.empty:
            return show_controls(self.note)
        return show_controls(f"{self.rows.to_string(index=False, max_colwidth=30)}\n{self.note}")


def worded(value: Any) -> str:
    """Return a value for a table; an empty one is named, since an empty cell looks wrong."""
    return {"": "empty", "[]": "empty", "None": "not there"}.get(str(value), str(value))


def figure(value: Any) -> str:
    """Return a number with four digits, or thousands with commas."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else worded(value)
