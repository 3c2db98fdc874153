"""Outputs of JupyterLab in the language of its run; what the run keeps stays in English.

A cell's output goes out translated, with its English beside it under a type of its own, which
JupyterLab leaves alone. The record of the run takes the English again.
"""

from collections.abc import Callable
from typing import Any

from IPython import get_ipython

from neoxlib.languages.language import current, settle, speaking
from neoxlib.languages.pages import page
from neoxlib.languages.sentences import said, said_whole

ENGLISH = "application/vnd.neoxlib.english+json"  # the type under which the English goes along
CHECKED = ("PASS", "FAIL", "NOT JUDGED")  # what the line of a check begins with
Bundle = dict[str, Any]  # media type -> what is shown


class Spoken:
    """The `format` of a kernel's displays: as it was, and then in the language that is spoken."""

    def __init__(self, plain: Callable[..., tuple[Bundle, Bundle]]) -> None:
        self.plain = plain

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Bundle, Bundle]:
        with speaking("en"):
            data, about = self.plain(*args, **kwargs)
        return told(data), about


def speak(language: str) -> None:
    """Show what this kernel's cells display in a language from now on."""
    settle(language)
    formatter = get_ipython().display_formatter
    if not isinstance(formatter.format, Spoken):
        formatter.format = Spoken(formatter.format)


def told(data: Bundle) -> Bundle:
    """Return an output in the language that is spoken, with the English of what was translated."""
    if current() == "en":
        return data
    ways = {"text/html": page, "text/plain": _lines}
    english = {kind: data[kind] for kind in ways if isinstance(data.get(kind), str)}
    spoken = {kind: ways[kind](text) for kind, text in english.items()}
    return data | spoken | ({ENGLISH: english} if spoken != english else {})


def as_written(data: Bundle) -> Bundle:
    """Return an output in English, as the run keeps it."""
    rest = {kind: value for kind, value in data.items() if kind != ENGLISH}
    return rest | data.get(ENGLISH, {})


def _lines(text: str) -> str:
    """Printed text: a line of it is translated if it is an entry, or a check."""
    return "\n".join(_check(line) or said_whole(line) for line in text.split("\n"))


def _check(line: str) -> str:
    word, _, rest = line.partition("  ")
    return f"{word}  {said(rest)}" if word in CHECKED else ""
