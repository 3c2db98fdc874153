"""What others wrote, as JSON of an expected form: anything else is told where it is read.

A form is a Kind, or is made of forms: {"key": form} is an object with these keys and perhaps
others, Maybe(form) may be null or absent, [form] is a list, Named(form) an object of any names.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import islice
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

MOST_NESTED = 50  # levels of objects and lists
MOST_DIGITS = 18
MOST_TOLD = 20  # problems of one file
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # perhaps half of a surrogate pair
SURROGATE = re.compile("[\ud800-\udfff]")
SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Kind:
    """A kind of value: its name in messages, and what fits."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """A value that may be absent, and null unless `null` is False."""

    form: Any
    null: bool = True


@dataclass(frozen=True)
class Named:
    """An object with any names, whose values all have one form."""

    form: Any


def whole(low: int, high: int = 2**63 - 1) -> Kind:
    """Return the kind of whole numbers from `low` to `high`."""
    limit = "" if high == 2**63 - 1 else f" and at most {high:,}"
    return Kind(
        f"a whole number, {low} or more{limit}", lambda v: type(v) is int and low <= v <= high
    )


def one_of(*values: Any) -> Kind:
    """Return the kind of a few values."""
    same = {(type(value), value) for value in values}
    words = " or ".join(map(shown, values))
    return Kind(words, lambda v: isinstance(v, str | int | None) and (type(v), v) in same)


TEXT = Kind("a text", lambda v: isinstance(v, str))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
SIZE = whole(0)
COUNT = whole(1)
NUMBER = Kind("a finite number", lambda v: type(v) in (int, float) and abs(v) <= sys.float_info.max)
FIGURE = Kind("a number", lambda v: isinstance(v, float) or NUMBER.fits(v))  # also NaN, infinity
OBJECT = Kind("an object", lambda v: isinstance(v, dict))
ANYTHING = Kind("anything", lambda v: True)
HINTS = {str: TEXT, bool: FLAG, float: NUMBER, int: whole(-(2**62))}
# A path in a folder: it may not lead out of it, and no file has a zero byte in its name.
INSIDE = Kind(
    "the path of a file inside the folder",
    lambda v: (
        isinstance(v, str)
        and "\0" not in v
        and not v.startswith("/")
        and not {"", ".", ".."} & set(v.split("/"))
    ),
)


def of(hint: Any) -> Any:
    """Return the form of a type hint: int, str | None, tuple[X, ...], dict[str, X], a dataclass.

    A field of a dataclass that has a default may be absent.
    """
    parts = get_args(hint)
    if is_dataclass(hint):
        kinds = get_type_hints(hint)
        return {
            each.name: of(kinds[each.name])
            if each.default is MISSING
            else Maybe(of(kinds[each.name]))
            for each in fields(hint)
        }
    if NoneType in parts:
        return Maybe(of(next(part for part in parts if part is not NoneType)))
    if get_origin(hint) is tuple:
        return [of(parts[0])]
    return Named(of(parts[1])) if get_origin(hint) is dict else HINTS[hint]


def is_digits(text: str) -> bool:
    """Return whether a text is a whole number in ASCII digits, and of no more than 18."""
    return len(text) <= MOST_DIGITS and text.isascii() and text.isdigit()


def parse(data: str | bytes, unique: bool = False, halves: bool = False) -> Any:
    """Read JSON. Raises ValueError for anything that is none, or that no program could use.

    That is a nesting of more than MOST_NESTED levels, a number of thousands of digits, half of a
    surrogate pair, which has no UTF-8 form, but with `halves`, and if `unique` an object with a
    name twice. Names of files that are no UTF-8 have such halves in Python.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if too_deep(value):
        raise ValueError("it is nested too deeply")
    if not halves and HALF.search(text) and SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a text in it has half of a character, \\ud800 to \\udfff")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Raises ValueError for a name that is there twice: one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"{names.most_common(1)[0][0]!r} is there twice")
    return found


def too_deep(value: Any) -> bool:
    """Return whether a value has more than MOST_NESTED levels of lists and objects."""
    level = [value]
    for _ in range(MOST_NESTED + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def problems(value: Any, form: Any, name: str = "") -> list[str]:
    """Return how a value differs from a form, in lines; MOST_TOLD at most."""
    return list(islice(_misfits(value, form, name), MOST_TOLD))


def _misfits(value: Any, form: Any, name: str) -> Iterator[str]:
    inner = form.form if isinstance(form, Maybe | Named) else form
    if isinstance(form, Maybe):
        if value is not None or not form.null:
            yield from _misfits(value, inner, name)
    elif isinstance(form, Kind):
        if not form.fits(value):
            yield f"{name or 'it'} is {shown(value)}, expected {form.words}"
    elif isinstance(form, list):
        yield from _each(value, list, enumerate, form[0], name)
    elif isinstance(form, Named):
        yield from _each(value, dict, dict.items, inner, name)
    else:
        yield from _keys(value, form, name)


def _each(
    value: Any, kind: type, pairs: Callable[[Any], Iterable[tuple]], form: Any, name: str
) -> Iterator[str]:
    if not isinstance(value, kind):
        words = "a list" if kind is list else "an object"
        yield f"{name or 'it'} is {shown(value)}, expected {words}"
        return
    for key, one in pairs(value):
        yield from _misfits(one, form, f"{name}[{key}]" if kind is list else f"{name}.{key}")


def _keys(value: Any, form: Mapping[str, Any], name: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name or 'it'} is {shown(value)}, expected an object"
        return
    for key, inner in form.items():
        place = f"{name}.{key}" if name else key
        if key in value:
            yield from _misfits(value[key], inner, place)
        elif not isinstance(inner, Maybe):
            yield f"{place} is missing"


def shown(value: Any) -> str:
    """Return a value as JSON for a message, shortened."""
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list) and len(value) > 5:
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**40:
        return "a number of more than 40 digits"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
