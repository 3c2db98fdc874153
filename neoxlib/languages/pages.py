"""A page in the language that is spoken: what it shows, and what it says to who does not see it.

Code, names, and the texts of models, data and users stay as they are.
"""

from typing import TYPE_CHECKING

from neoxlib.languages.catalogue import MARKS
from neoxlib.languages.language import TAGS, current
from neoxlib.languages.sentences import said, said_whole

if TYPE_CHECKING:
    from bs4 import NavigableString, Tag

AS_IT_IS = {"code", "kbd", "script", "style", "textarea"}
PRINTED = "pre"  # what a cell or a model wrote: a line of it is translated if it is an entry
SHOWN = ("alt", "title", "aria-label", "placeholder")  # attributes that a reader meets
WORDS = "data-word-"  # attributes with words for a script
# Columns whose cells are the words of a model, of data or of a user, or what to type.
FOREIGN = frozenset(
    (
        "prompt",
        "prompts",
        "subject",
        "text",
        "token",
        "tokens",
        "answer",
        "completion",
        "parameter",
        "continuation",
        "question",
        "choices",
        "alternatives",
        "beginning",
        "model's",
        "piece",
        "command",
        "to use it",
    )
)


def page(html: str) -> str:
    """Return a page, or a part of one, in the language that is spoken."""
    if current() == "en":
        return html
    from bs4 import BeautifulSoup, NavigableString, Tag  # which English need not wait for

    soup = BeautifulSoup(html, "html.parser")
    if isinstance(soup.html, Tag):
        soup.html["lang"] = TAGS[current()]
    for table in soup.find_all("table"):
        _keep_foreign(table)
    for text in list(soup.find_all(string=True)):
        if type(text) is NavigableString and not _stays(text):
            text.replace_with(_told(text))
    for tag in soup.find_all(True):
        _attributes(tag)
    return str(soup)


def _told(text: "NavigableString") -> str:
    if _printed(text):
        return "\n".join(map(said_whole, text.split("\n")))
    told = said(text)
    # What goes on after another text may be figures alone: ", 17 OK".
    return MARKS[told[0]] + told[2:] if told[:2] in (", ", "; ") else told


def _keep_foreign(table: "Tag") -> None:
    """Mark the cells of a table that are nobody's to translate."""
    heads = table.select("thead tr")
    if not heads:
        return
    named = [cell.get_text(strip=True) for cell in heads[0].find_all(["th", "td"])]
    places = [place for place, name in enumerate(named) if name in FOREIGN]
    for row in table.select("tbody tr") if places else ():
        cells = row.find_all(["th", "td"], recursive=False)
        for place in places:
            if len(cells) == len(named):
                cells[place]["translate"] = "no"


def _stays(text: "NavigableString") -> bool:
    return any(tag.name in AS_IT_IS or tag.get("translate") == "no" for tag in text.parents)


def _printed(text: "NavigableString") -> bool:
    return any(tag.name == PRINTED for tag in text.parents)


def _attributes(tag: "Tag") -> None:
    for name, value in list(tag.attrs.items()):
        if (name in SHOWN or name.startswith(WORDS)) and isinstance(value, str):
            tag[name] = said(value)
