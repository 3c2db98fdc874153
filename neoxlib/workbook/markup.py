"""HTML that shows a text as typed: no markup, no formula, blanks and line breaks kept."""

from collections.abc import Iterable
from html import escape
from typing import Any

NO_FORMULAS = "tex2jax_ignore mathjax_ignore"  # classes in which JupyterLab keeps $…$ as it is
KEPT = "white-space:pre-wrap"
LEFT = f"text-align:left;vertical-align:top;{KEPT}"  # JupyterLab aligns cells to the right


def text(value: Any) -> str:
    """Return a value's text as HTML."""
    return escape(str(value))


def block(html: str) -> str:
    """Wrap HTML so that JupyterLab typesets no formulas in it."""
    return f'<div class="{NO_FORMULAS}">{html}</div>'


def paragraph(value: Any) -> str:
    """Return a text as a paragraph."""
    return block(f'<p style="{KEPT}">{text(value)}</p>')


def table(columns: Iterable[Any], rows: Iterable[Iterable[Any]], style: str = KEPT) -> str:
    """Return an HTML table of texts."""
    return html_table(columns, ([text(cell) for cell in row] for row in rows), style)


def html_table(columns: Iterable[Any], rows: Iterable[Iterable[str]], style: str = LEFT) -> str:
    """Return a table of cells that are HTML already; the columns' names are texts."""
    head = "".join(f'<th style="{style}">{text(name)}</th>' for name in columns)
    cells = ("".join(f'<td style="{style}">{cell}</td>' for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return block(
        f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
