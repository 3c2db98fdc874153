"""Which language a reader gets: by option or parameter, else by NEOXLIB_LANG, else English."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import click

from neoxlib.errors import ParameterError

LANGUAGES = ("en", "zh")
TAGS = {"en": "en", "zh": "zh-CN"}  # language -> the tag that HTML names it by
VARIABLE = "NEOXLIB_LANG"
# The language that is spoken, and whether an option asked for it.
_spoken: ContextVar[tuple[str, bool] | None] = ContextVar("spoken", default=None)
_usual = {"language": "en"}  # of this process, where no block speaks another


def chosen(asked: str = "auto") -> str:
    """Return the language that is asked for; "auto" takes that of NEOXLIB_LANG, else English.

    Raises ParameterError for one that there is not.
    """
    if asked in LANGUAGES:
        return asked
    if asked != "auto":
        raise ParameterError(f"lang: no language {asked!r}; choose one of auto, {_listed()}")
    given = os.environ.get(VARIABLE, "").strip()
    if given and given not in LANGUAGES:
        raise ParameterError(f"{VARIABLE}: no language {given!r}; choose one of {_listed()}")
    return given or "en"


def _listed() -> str:
    return ", ".join(LANGUAGES)


def of_run(parameters: Mapping[str, Any]) -> str:
    """Return the language of a run's page: an option's, else the run's own, else the usual one."""
    spoken = _spoken.get()
    if spoken is not None and spoken[1]:
        return spoken[0]
    own = parameters.get("lang")
    return own if own in LANGUAGES else chosen()


def current() -> str:
    """Return the language that is spoken now."""
    spoken = _spoken.get()
    return _usual["language"] if spoken is None else spoken[0]


def settle(language: str) -> None:
    """Speak a language from now on in this process, as a kernel does, outside of all blocks."""
    _usual["language"] = language


def settled() -> AbstractContextManager[None]:
    """Speak the language of this process, whatever a block around speaks."""
    return speaking(_usual["language"])


@contextmanager
def speaking(language: str, asked: bool = False) -> Iterator[None]:
    """Have `said` answer in a language while the block runs; `asked` if an option says so."""
    token = _spoken.set((language, asked))
    try:
        yield
    finally:
        _spoken.reset(token)


def _speak(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Speak a command's language up to the end of the whole call, its error included."""
    ctx.find_root().with_resource(speaking(chosen(value or "auto"), value is not None))
    return value


def language_option(keep: bool = False) -> Any:
    """Return a decorator that gives a command the option --lang; it takes it itself if `keep`."""
    told = "Language of what is shown; by default that of NEOXLIB_LANG, else en."
    kind = click.Choice(LANGUAGES)
    return click.option(
        "--lang", type=kind, expose_value=keep, is_eager=True, callback=_speak, help=told
    )
