"""The catalogue of a language: sentences with places for values, and their translations.

An entry of `<language>.po` has the English text as its source has it, an f-string with the names of
its values: `{count:,} of {total} tensors`. A value with a format is a number, `{s}` the ending of a
plural; any other is a text, which may be a sentence itself.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import NamedTuple

FOLDER = Path(__file__).parent
NUMBER = re.compile(r"[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?%?|-?inf|nan")
PLURAL = re.compile("s?")
FORMAT = re.compile(r"(?<!\{)\{(\w+):[^{}]*\}(?!\})")  # a number, whose text has its format
PLACED = re.compile(r"\{\w*\}|`[^`]*`")
BREAK = re.compile(r"[,;:] | ")
ZERO = "\0"
WORD = re.compile(r"[A-Za-z]{2,}")
WEAK = frozenset(
    [
        "is",
        "of",
        "and",
        "to",
        "in",
        "on",
        "an",
        "the",
        "use",
        "see",
        "or",
        "has",
        "by",
        "as",
        "at",
        "for",
        "from",
        "with",
        "it",
    ]
)
OFTEN = 3  # translations that use an English word: it is a term, as "rank"
MOST_ENDS = 4  # of a value that are tried
MOST_WAYS = 12  # in which a text may be one sentence, by where its values end
# Where a page may show the parts of an entry apart -> where its translation parts.
JOINTS = (
    (r"; ", r"；\s*"),
    (r"(?<=[.!?])\s+(?=[A-Z{])", r"(?<=[。！？])\s*(?=.)"),
    (r": ", r"：\s*"),
)
MARKS = {",": "，", ";": "；", ":": "：", ".": "。"}


def plain(text: str) -> str:
    """Return a text on one line: a page may break and indent it."""
    return " ".join(text.split())


def values_of(text: str) -> set[str]:
    """Return the names of the values that a text has places for."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


class Place(NamedTuple):
    """The place of a value: its name and format, and the words up to the next place."""

    name: str
    spec: str
    words: str


def _pieces(source: str) -> list[tuple[str, str, str]]:
    """Split a sentence before each place: its name and format, and the words after it."""
    found = [("", "", "")]
    for words, name, spec, _ in Formatter().parse(source):
        found[-1] = (*found[-1][:2], found[-1][2] + words)
        if name is not None:
            found.append((name, spec or "", ""))
    return found


@dataclass(frozen=True)
class Entry:
    """A sentence with places for values, and its translation."""

    source: str
    translation: str

    @cached_property
    def first(self) -> str:
        """The words before the first place."""
        return _pieces(self.source)[0][2]

    @cached_property
    def places(self) -> list[Place]:
        """The places in order; a value whose noun has a plural's `{s}` is a number."""
        found = [Place(*piece) for piece in _pieces(self.source)[1:]]
        for at, place in enumerate(found[1:]):
            if place.name == "s":
                counts = found[at]
                one = re.fullmatch(r" \w+", counts.words) is not None
                found[at] = counts._replace(spec=counts.spec or "," * one)
        return found

    @cached_property
    def length(self) -> int:
        """How many letters of the sentence never change."""
        return len(self.first) + sum(len(place.words) for place in self.places)

    @cached_property
    def words(self) -> list[str]:
        """The words that a text must have to be this sentence, in lower case."""
        # A value may begin right after a word, and may end within one.
        made = self.first + "".join(
            f" {'' if place.name == 's' else ZERO}{place.words}" for place in self.places
        )
        found = re.findall(r"(?<![\w\0])[A-Za-z]{2,}(?!\w)", made)
        return [word.lower() for word in found]

    @property
    def is_known(self) -> bool:
        """Whether it has words of its own; those of others are in any text."""
        return any(word not in WEAK for word in self.words)

    def values(self, text: str) -> Iterator[dict[str, str]]:
        """Yield the values that make this sentence a text, the shortest first ones first."""
        if text.startswith(self.first):
            yield from islice(self._from(text, len(self.first), 0), MOST_WAYS)

    def _from(self, text: str, at: int, number: int) -> Iterator[dict[str, str]]:
        if number == len(self.places):
            if at == len(text):
                yield {}
            return
        place = self.places[number]
        name = place.name
        for end in _ends(text, at, place, number + 1 == len(self.places)):
            for rest in self._from(text, end + len(place.words), number + 1):
                yield {name: text[at:end]} | {key: rest[key] for key in rest if key != name}


def _ends(text: str, at: int, place: Place, last: bool) -> Iterator[int]:
    """Yield where a value that begins at `at` may end: before the words that follow it."""
    if place.spec or place.name == "s":
        found = (PLURAL if place.name == "s" else NUMBER).match(text, at)
        if found and text.startswith(place.words, found.end()):
            yield found.end()
    elif last:
        if text.endswith(place.words) and len(text) - len(place.words) >= at:
            yield len(text) - len(place.words)
    elif not place.words:  # two places side by side: the second begins with a mark or a blank
        yield from (found.start() for found in islice(BREAK.finditer(text, at), MOST_ENDS))
        yield from (at, len(text))
    else:
        for _ in range(MOST_ENDS):
            if (at := text.find(place.words, at)) < 0:
                return
            yield at
            at += 1


@dataclass(frozen=True)
class Catalogue:
    """The entries of a language: whole texts, and sentences with places by a word of theirs."""

    texts: dict[str, str]
    by_word: dict[str, tuple[Entry, ...]]
    kept: frozenset[str]  # English words that its translations use

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "Catalogue":
        """Sort entries: those with places are found by the word that the fewest have."""
        whole = {plain(source): FORMAT.sub(r"{\1}", told) for source, told in pairs}
        parts = {part: told for pair in whole.items() for part, told in all_parts_of(*pair)}
        texts, entries = {}, []
        for source, told in (parts | whole).items():
            if not values_of(source):
                texts[_braces(source)] = _braces(told)
            elif (entry := Entry(source, told)).is_known or (source in whole and entry.words):
                entries.append(entry)
        count = Counter(word for entry in entries for word in set(entry.words))
        found: dict[str, list[Entry]] = {}
        for entry in entries:
            found.setdefault(min(entry.words, key=count.__getitem__), []).append(entry)
        spoken = (PLACED.sub("", told) for told in whole.values())
        used = Counter(word for told in spoken for word in set(WORD.findall(told)))
        kept = {word for word, times in used.items() if times >= OFTEN} - WEAK
        kept -= {word for word, told in texts.items() if told != word}
        return cls(texts, {word: tuple(some) for word, some in found.items()}, frozenset(kept))

    def matching(self, text: str) -> Iterator[tuple[Entry, dict[str, str]]]:
        """Yield the sentences that a text may be, the longest first, with their values."""
        words = {word.lower() for word in WORD.findall(text)}
        words |= {word.removesuffix("s") for word in words}
        some = [entry for word in words for entry in self.by_word.get(word, ())]
        for entry in sorted(some, key=_order):
            for values in entry.values(text):
                yield entry, values


def _order(entry: Entry) -> tuple[int, str]:
    return -entry.length, entry.source


def _braces(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")


def parts_of(source: str, translation: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of an entry that a page may show apart, where both have as many.

    An entry that goes on after another text, as ", of {n} questions", is also one without its mark.
    """
    if source[:1] in MARKS and translation[:1] == MARKS[source[0]]:
        yield re.sub(r"^.\s*(and )?", "", source), translation[1:]
    if source[-1:] in MARKS and translation[-1:] == MARKS[source[-1]]:
        yield source[:-1], translation[:-1]
    for stop, its in JOINTS:
        ours, theirs = re.split(stop, source), re.split(its, translation)
        if 1 < len(ours) == len(theirs):
            pairs = zip(ours, theirs, strict=True)
            yield from (pair for pair in pairs if values_of(pair[1]) <= values_of(pair[0]))


def all_parts_of(source: str, translation: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of an entry and theirs."""
    for part in parts_of(source, translation):
        yield part
        yield from parts_of(*part)


@cache
def catalogue(language: str) -> Catalogue:
    """Return the catalogue of a language."""
    from babel.messages.pofile import read_po  # which English need not wait for

    with (FOLDER / f"{language}.po").open("rb") as file:
        entries = [message for message in read_po(file) if message.id and message.string]
    return Catalogue.of((message.id, message.string) for message in entries)
