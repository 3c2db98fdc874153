"""Valid files spoilt by structure: every value may become any other, names appear twice, texts are
cut.

All choices are made by `pick(n)`, a number below n: of hypothesis, or of the bytes of a corpus.
"""

import json
import math
from collections.abc import Callable
from typing import Any

Pick = Callable[[int], int]
HUGE = "9" * 5000  # more digits than Python reads as a number
DEEP = 5_000  # five times as deep as Python follows


def picker(data: bytes) -> Pick:
    """Choices that bytes make, one to three of them each; all 0 once they are used up."""
    left = iter(data)

    def pick(count: int) -> int:
        chosen, limit = 0, 1
        while limit < count and limit < 1 << 24:
            chosen, limit = 256 * chosen + next(left, 0), 256 * limit
        return chosen % count

    return pick


class Raw(str):
    """JSON that is written as it is."""


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    0.5,
    -0.0,
    1e308,
    math.nan,
    math.inf,
    2**31,
    2**63,
    2**64,
    10**300,
    "",
    "a",
    "0",
    "\ud800",
    "\0",
    "../x",
    "/dev/zero",
    "²",
    "٣",
    "x" * 3000,
    [],
    [0],
    [None],
    ["a"],
    [[]],
    [[1, 2], [3]],
    {},
    {"a": 1},
    {"": None},
    Raw(HUGE),
    Raw("[" * DEEP + "]" * DEEP),
    Raw('{"a":' * DEEP + "1" + "}" * DEEP),
    Raw("1e400"),
    Raw(""),
)
TEXTS = (
    "\0",
    "\ud800",
    "²",
    "\r",
    "\n",
    '"',
    ",",
    "[",
    "]",
    "{",
    ":",
    "%",
    "|",
    "=",
    ";",
    "#",
    "&a",
)
TEXTS += (
    "*a",
    "!!python/object:os.system",
    "-",
    "~",
    "9" * 5000,
    "nan",
    "inf",
    " ",
    "\t",
    "\ufeff",
)
BYTES = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf", b"\xff\xfe")


def written(value: Any) -> str:
    """A value as JSON, with Raw as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(key))}: {written(inner)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


class Twice(dict):
    """An object that names a key twice: the second time with another value."""

    def __init__(self, pairs: dict[str, Any], key: str, value: Any) -> None:
        super().__init__(pairs)
        self.more = (key, value)

    def items(self) -> list[tuple[str, Any]]:
        return [*super().items(), self.more]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a value, depth first."""
    if isinstance(value, dict):
        inner = list(dict.items(value))
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [place for key, one in inner for place in ((value, key), *places(one))]


def spoil_json(document: Any, pick: Pick) -> str:
    """One to three edits of a parsed document, as text."""
    document = json.loads(json.dumps(document))
    for _ in range(1 + pick(3)):
        document = _edited(document, pick)
    return written(document)


def _edited(document: Any, pick: Pick) -> Any:
    where = places(document)
    if not where or pick(40) == 0:
        return VALUES[pick(len(VALUES))]
    holder, key = where[pick(len(where))]
    how = pick(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[str(VALUES[pick(len(VALUES))])] = holder[key]
    elif how == 2:  # the value of another place
        other, there = where[pick(len(where))]
        holder[key] = json.loads(
            json.dumps(_plain(other.get(there) if isinstance(other, dict) else other[there]))
        )
    elif how == 3 and isinstance(holder[key], dict) and holder[key]:
        first = next(iter(holder[key]))
        holder[key] = Twice(holder[key], first, VALUES[pick(len(VALUES))])
    else:
        holder[key] = VALUES[pick(len(VALUES))]
    return document


def _plain(value: Any) -> Any:
    """A value without what only `written` knows."""
    if isinstance(value, Raw):
        return str(value)[:20]
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in dict.items(value)}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def spoil_text(text: str, pick: Pick) -> bytes:
    """One to three edits of lines, words and bytes."""
    for _ in range(1 + pick(3)):
        text = _edited_text(text, pick)
    data = text.encode("utf-8", "surrogatepass")
    return _edited_bytes(data, pick) if pick(4) == 0 else data


def _edited_text(text: str, pick: Pick) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = pick(len(lines))
    how = pick(6)
    if how == 0:
        lines[at:at] = [lines[pick(len(lines))]]
    elif how == 1:
        del lines[at]
    else:
        line = lines[at]
        start = pick(len(line) + 1)
        end = min(len(line), start + pick(6))
        new = "" if how == 2 else TEXTS[pick(len(TEXTS))]
        lines[at] = line[:start] + new + line[end if how < 5 else start :]
    return "".join(lines)


def _edited_bytes(data: bytes, pick: Pick) -> bytes:
    at = pick(len(data) + 1)
    how = pick(3)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + BYTES[pick(len(BYTES))] + data[at:]
    return data[:at] + bytes([pick(256)]) + data[at + 1 :]


def spoil_json_bytes(document: Any, pick: Pick) -> bytes:
    """Spoil by structure, and now and then the bytes as well."""
    data = spoil_json(document, pick).encode("utf-8", "surrogatepass")
    return _edited_bytes(data, pick) if pick(6) == 0 else data


NUMBERS = tuple(
    number.to_bytes(8, "little")
    for number in (0, 1, 8, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
)


def spoil_bytes(data: bytes, pick: Pick) -> bytes:
    """One to three edits of a binary file: bytes, numbers of eight bytes, cuts and repetitions."""
    for _ in range(1 + pick(3)):
        data = _edited_binary(data, pick)
    return data


def _edited_binary(data: bytes, pick: Pick) -> bytes:
    at = pick(len(data) + 1)
    how = pick(5)
    if how == 0:
        number = NUMBERS[pick(len(NUMBERS))][: 1 << pick(4)]
        return data[:at] + number + data[at + len(number) :]
    if how == 1:
        end = at + 1 + pick(64)
        return data[:end] + data[at:]
    if how == 2:
        return data[:at] + data[at + 1 + pick(16) :]
    return _edited_bytes(data, pick)
