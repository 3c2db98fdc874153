"""Text from users, models and data as HTML that shows it as typed, and HTML that runs nothing.

`text` is the only way of such a text into HTML, `show_controls` that onto a terminal, and `clean`
that of foreign HTML, a notebook's outputs, into a page.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from html import escape, unescape
from typing import TYPE_CHECKING, Any

import nh3

from neoxlib.errors import show_controls
from neoxlib.languages import said

if TYPE_CHECKING:
    from bs4 import Tag

NO_FORMULAS = "tex2jax_ignore mathjax_ignore"  # classes in which JupyterLab keeps $…$ as it is
KEPT = "white-space:pre-wrap"
LEFT = f"text-align:left;vertical-align:top;{KEPT}"  # JupyterLab aligns cells to the right
RIGHT = f"text-align:right;vertical-align:top;{KEPT}"
NUMBER = re.compile(
    r"[-+]?[\d,.]+(e[-+]?\d+)?\s?(%|[kMGT]?i?B|GB/s|m?s)?|nan|NaN|<NA>|inf|-|–|", re.IGNORECASE
)
WRITTEN = re.compile(r">([^<>]+)</(?=(?:text|tspan|title)>)")  # in a drawing


def _names(listed: str) -> set[str]:
    return set(listed.split())


SCHEMES = {"http", "https", "mailto", "data"}
PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
TAGS = _names("""
    a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure
    h1 h2 h3 h4 h5 h6 hr i img kbd li mark ol p pre q s samp section small span strong sub summary
    sup table tbody td tfoot th thead tr u ul var wbr
""")
# Their content is no text for a reader, or is read by other rules than HTML's.
DROPPED = _names("""
    script style template noscript iframe svg math textarea title xmp noembed noframes object
    select
""")
HEADINGS = {f"h{level}": {"id"} for level in range(1, 7)}
ATTRIBUTES = HEADINGS | {
    "*": _names("class style title dir lang role aria-label aria-hidden translate"),
    "a": {"href"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "section": {"id"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
# None of them takes text out of its place on the page.
STYLES = _names("""
    background background-color border border-bottom border-collapse border-color border-left
    border-radius border-right border-spacing border-style border-top border-width color display
    font font-family font-size font-style font-variant-numeric font-weight height line-height
    list-style margin margin-bottom margin-left margin-right margin-top max-width min-width
    opacity overflow-wrap overflow-x padding padding-bottom padding-left padding-right padding-top
    text-align text-decoration vertical-align white-space width word-break
""")
# An address in a value, also one written with CSS's escapes.
LOADS = re.compile(r"\\|@|url|image|src|expression|/\*", re.IGNORECASE)


def text(value: Any) -> str:
    """Return a value's text as HTML: no markup, and nothing in it unseen."""
    return escape(show_controls(str(value)))


def clean(html: str) -> str:
    """Return HTML with the elements and attributes that only show: it loads and runs nothing.

    Links lead to the web, by mail, or to places of the page; pictures are within the HTML.
    """
    return show_controls(_CLEANER.clean(html))


def _kept(element: str, name: str, value: str) -> str | None:
    """Return the value of an attribute, or None for one that is dropped."""
    if name == "style":
        return None if LOADS.search(value) else value
    if name == "src":
        return value if PICTURE.fullmatch(value) else None
    if name == "href":
        return None if value.lstrip().lower().startswith("data:") else value
    return value


_CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags=DROPPED,
    attributes=ATTRIBUTES,
    attribute_filter=_kept,
    url_schemes=SCHEMES,
    filter_style_properties=STYLES,
)


def picture(svg: str, alt: str) -> str:
    """Return an SVG drawing as an image: no browser runs a script in one, or loads a file for it.

    `alt` is what a reader hears who does not see it.
    """
    told = WRITTEN.sub(lambda found: f">{text(said(unescape(found[1])))}</", svg)
    data = b64encode(told.encode("utf-8", "backslashreplace")).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{text(alt)}">'


def block(html: str) -> str:
    """Wrap HTML so that JupyterLab typesets no formulas in it."""
    return f'<div class="{NO_FORMULAS}">{html}</div>'


def paragraph(value: Any) -> str:
    """Return a text as a paragraph."""
    return block(f'<p style="{KEPT}">{text(value)}</p>')


def table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return an HTML table of texts; columns of nothing but numbers are aligned to the right."""
    columns = list(columns)
    rows = [[str(cell) for cell in row] for row in rows]
    numeric = [
        bool(rows) and all(NUMBER.fullmatch(row[place].strip()) for row in rows)
        for place in range(len(columns))
    ]
    styles = [RIGHT if right else LEFT for right in numeric]
    return html_table(columns, ([text(cell) for cell in row] for row in rows), styles)


def align(html: str) -> str:
    """Return pandas' HTML with columns of texts aligned to the left, those of numbers to the right.

    Its style sheet goes, which aligns all cells of the page to the right.
    """
    from bs4 import BeautifulSoup  # slow to import

    soup = BeautifulSoup(html, "html.parser")
    for sheet in soup.find_all("style"):
        sheet.decompose()
    for made in soup.find_all("table"):
        for place, cells in enumerate(columns_of(made)):
            shown = [cell.get_text(strip=True) for cell in cells if cell.find_parent("tbody")]
            numeric = any(shown) and all(map(NUMBER.fullmatch, shown))
            # The leftmost column names the rows.
            for cell in cells:
                cell["style"] = RIGHT if numeric and place else LEFT
    return block(str(soup))


def columns_of(made: "Tag") -> "list[list[Tag]]":
    """Return the cells of each column of a table; of one with merged cells its rows' own."""
    rows = [row.find_all(["td", "th"]) for row in made.find_all("tr")]
    widest = max(map(len, rows), default=0)
    # A cell that spans rows is missing in those below, at the left.
    padded = [[None] * (widest - len(row)) + row for row in rows]
    return [[cell for cell in column if cell is not None] for column in zip(*padded, strict=True)]


def html_table(
    columns: Iterable[Any], rows: Iterable[Iterable[str]], styles: Iterable[str] = ()
) -> str:
    """Return a table of cells that are HTML already; the columns' names are texts.

    `styles` has the style of each column; without, all are aligned to the left.
    """
    columns = list(columns)
    styles = list(styles) or [LEFT] * len(columns)
    head = _row("th", [text(name) for name in columns], styles)
    body = "".join(_row("td", row, styles) for row in rows)
    return block(f'<table class="dataframe"><thead>{head}</thead><tbody>{body}</tbody></table>')


def _row(tag: str, cells: Iterable[str], styles: Iterable[str]) -> str:
    made = (
        f'<{tag} style="{style}">{cell}</{tag}>' for cell, style in zip(cells, styles, strict=True)
    )
    return f"<tr>{''.join(made)}</tr>"
