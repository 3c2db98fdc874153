"""Values as text and back: what ranks tell each other is data, and never runs code as a pickle may.

Plain values, lists, tuples and dicts of them, bytes, and neoxlib's own errors; anything else is a
TypeError of the rank that wants to send it.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from neoxlib import errors
from neoxlib.errors import NeoXError

PLAIN = (type(None), bool, int, float, str)


def encode(value: Any) -> bytes:
    """Return a value as text in ASCII."""
    return json.dumps(_packed(value), separators=(",", ":")).encode()


def decode(text: bytes) -> Any:
    """Return the value that `encode` wrote. Raises ValueError for any other text."""
    try:
        return _unpacked(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"no value that a rank sends: {text[:80]!r}") from error


def _packed(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(_packed, value)]
    if type(value) is dict:
        return ["dict", *([_packed(key), _packed(item)] for key, item in value.items())]
    if type(value) is bytes:
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, NeoXError) and type(value) is getattr(errors, type(value).__name__, None):
        return ["error", type(value).__name__, _packed(value.args), _packed(vars(value))]
    raise TypeError(f"ranks cannot tell each other a {type(value).__name__}: {value!r:.80}")


def _unpacked(word: Any) -> Any:
    if type(word) in PLAIN:
        return word
    kind, *items = word
    return UNPACK[kind](items)


def _error(items: list[Any]) -> NeoXError:
    kind = getattr(errors, items[0])
    if not (isinstance(kind, type) and issubclass(kind, NeoXError)):
        raise ValueError(f"{items[0]} is no error of neoxlib")
    found = kind(*_unpacked(items[1]))
    vars(found).update(_unpacked(items[2]))
    return found


UNPACK: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda items: [_unpacked(item) for item in items],
    "tuple": lambda items: tuple(_unpacked(item) for item in items),
    "dict": lambda items: {_unpacked(key): _unpacked(item) for key, item in items},
    "bytes": lambda items: base64.b64decode(items[0], validate=True),
    "error": _error,
}
