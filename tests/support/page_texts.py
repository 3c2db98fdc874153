"""What a reader sees of a page, text by text."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
QUOTED = re.compile(r"“[^”]*”")  # what a model said
SHOWN = ("alt", "title", "aria-label", "placeholder")
# Code, names and texts of models, data and users; what a cell printed.
OTHERS = ("code", "pre", "script", "style", "[translate=no]")


def texts(page: Path) -> Iterator[str]:
    """The texts of a page, and those of its attributes, without what is nobody's to translate."""
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    for tag in soup.select(", ".join(OTHERS)):
        tag.decompose()
    for text in soup.find_all(string=True):
        if type(text) is NavigableString:
            yield QUOTED.sub("", " ".join(text.split()))
    for tag in soup.find_all(True):
        yield from (QUOTED.sub("", tag[name]) for name in SHOWN if name in tag.attrs)


def numbers(page: Path) -> Counter[str]:
    """The numbers that a page shows, each as often as it stands there."""
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    return Counter(NUMBER.findall(soup.body.get_text(" ")))
