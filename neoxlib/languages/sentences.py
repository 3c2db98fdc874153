"""Texts in the language that is spoken: whole, by their pattern, or part by part."""

import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import NamedTuple

from neoxlib.languages.catalogue import MARKS, Catalogue, Entry, catalogue, plain
from neoxlib.languages.language import current

ENGLISH = re.compile(r"[a-z]{2,}")
LEFT = re.compile(r"(?<![\w./=-])[a-z]{2,}[,;:]? [a-z]+[,;:]? [a-z]{2,}(?![\w/=-])")
LOOSE = re.compile(r"(?<![\w./=-])[A-Za-z]?[a-z]+(?![\w/=-])")
QUOTED = re.compile(r"“[^“”]*”")  # somebody's words: a model's, a user's
NAMES = re.compile(r" and run ")  # between names, which stay
# What a text is split by, the strongest first -> what its translated parts are joined by.
STOPS = (
    (re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9`'\"“(])"), ""),
    (re.compile(r"; "), "；"),
    (re.compile(r" · "), " · "),
    (re.compile(r": "), "："),
    (re.compile(r" — "), " — "),
    (re.compile(r", and |, "), "，"),
    (NAMES, " 和运行 "),
)
LIST = re.compile(r"[\w.]+(?:, (?:and )?[\w.]+)+")
LISTED = re.compile(r"[,;:] ")
BRACKETS = re.compile(r"(.*\S) \(([^()]+)\)([.:,;]?)|()\(([^()]+)\)([.:,;]?)")
# A name with its figure: "sums 61 %", "first token 3.5 ms"; a unit that is a word is an entry.
FIGURE = re.compile(
    r"([^,;:]*[a-z)]) ([-+]?[\d.,]+(?: (?:%|m?s|[kMG]?B|GB/s|TFLOPS|tokens/s))?)( .+)?"
)
RANK = re.compile(r"(rank \d+(?: \([^()]*\))?) ([a-z].*)")  # and what it did
DEEPEST = 6  # a sentence within a sentence within …
LABEL = "label: "  # begins the entry of a widget's word
MOST = 4000  # letters of a text that is looked up as one


def said(text: str) -> str:
    """Return a text in the language that is spoken; what is not in the catalogue stays."""
    if current() == "en" or not ENGLISH.search(text):
        return text
    return translated(text, current())


def said_whole(text: str) -> str:
    """Return a text in the language that is spoken if it is an entry as it stands."""
    if current() == "en":
        return text
    return catalogue(current()).texts.get(plain(text), text)


def label(text: str) -> str:
    """Return the word of a widget: "label: seed" is "seed", or its word in another language.

    Entries of their own keep such words, which are names of parameters, as they are in sentences.
    """
    told = said_whole(text)
    return text.removeprefix(LABEL) if told == text else told


@lru_cache(maxsize=2**15)
def translated(text: str, language: str) -> str:
    """Return a text in another language, with the white space around it and the quotes in it."""
    core = text.strip()
    start = text[: len(text) - len(text.lstrip())]
    end = text[len(text.rstrip()) :]
    quotes = QUOTED.findall(core)
    numbered = QUOTED.sub(lambda found: f"“{quotes.index(found[0])}”", core)
    told = _words(language).lines(numbered)
    return start + QUOTED.sub(lambda found: quotes[int(found[0][1:-1])], told) + end


def is_left(text: str) -> bool:
    """Whether English is left in a text: three words after another in small letters."""
    return bool(LEFT.search(text))


def padded(text: str, columns: int) -> str:
    """Return a text with blanks up to so many columns of a terminal."""
    return text + " " * (columns - width(text))


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: a Chinese character takes two."""
    import wcwidth  # which English need not wait for

    return wcwidth.width(text)


@cache
def _words(language: str) -> "_Words":
    return _Words(catalogue(language))


class Told(NamedTuple):
    """A translation, and how many English words are left in it but for an entry's own."""

    text: str
    left: int


class _Words:
    """Looks texts up in a catalogue; a part of one is looked up in the same way."""

    def __init__(self, found: Catalogue) -> None:
        self.catalogue = found
        self.known: dict[str, Told | None] = {}
        self.ways: tuple[Callable[[str, int], Told | None], ...] = (
            self._exact,
            self._quoted,
            self._simple,
            self._after_mark,
            self._of_rank,
            self._figure,
            self._pair,
            self._parts,
            self._sentence,
            self._in_brackets,
        )

    def lines(self, text: str) -> str:
        """A text of several lines is one entry, or each of its lines is looked up."""
        if "\n" not in text:
            return self._line(text)
        if len(text) <= MOST and (whole := self._entry(plain(text))):
            return whole.text
        return "\n".join(self._line(line) for line in text.split("\n"))

    def _line(self, line: str) -> str:
        blank = line[: len(line) - len(line.lstrip())]
        found = self.one(plain(line)) if len(line) <= MOST else None
        return line if found is None else blank + found.text

    def one(self, text: str, depth: int = 0) -> Told | None:
        """Return the translation of a text without line breaks, or None."""
        if depth > DEEPEST or not ENGLISH.search(text):
            return None
        if text not in self.known:
            self.known[text] = _best(way(text, depth) for way in self.ways)
        return self.known[text]

    def _part(self, text: str, depth: int) -> Told:
        """The translation of a part of a text, or the part as it is."""
        found = self.one(text.strip(), depth + 1)
        return found or Told(text, self.left(text))

    def left(self, text: str) -> int:
        """Return how many English words a text has, without terms and names."""
        return sum(word not in self.catalogue.kept for word in LOOSE.findall(text))

    def _exact(self, text: str, _: int) -> Told | None:
        texts = self.catalogue.texts
        told = (texts[form] + end for form, end in _forms(text) if form in texts)
        return next((Told(found, 0) for found in told), None)

    def _simple(self, text: str, depth: int) -> Told | None:
        return self._sentence(text, depth, simple=True)

    def _sentence(self, text: str, depth: int, simple: bool = False) -> Told | None:
        """A text by the pattern of an entry; in a `simple` one no value is a list or a sentence."""
        return _best(
            self._filled(entry, values, end, depth)
            for form, end in [*_forms(text), (f"{text} ", "")]
            for entry, values in self.catalogue.matching(form)
            if form[:1] == text[:1] or entry.first  # a value keeps its first letter
            if not simple or not any(LISTED.search(value) for value in values.values())
        )

    def _filled(self, entry: Entry, values: dict[str, str], end: str, depth: int) -> Told:
        told = {name: self._part(value, depth) for name, value in values.items()}
        text = entry.translation.format(**{name: part.text for name, part in told.items()})
        return Told((text + end).strip(), sum(part.left for part in told.values()))

    def _after_mark(self, text: str, depth: int) -> Told | None:
        """What goes on after another text: ", and so on"."""
        found = self.one(text[1:].lstrip(), depth + 1) if text[:1] in MARKS else None
        return found and Told(MARKS[text[0]] + found.text, found.left)

    def _of_rank(self, text: str, depth: int) -> Told | None:
        """What a rank did; its name stays."""
        found = RANK.fullmatch(text)
        rest = self.one(found[2], depth + 1) if found else None
        return rest and Told(f"{found[1]} {rest.text}", rest.left)

    def _quoted(self, text: str, depth: int) -> Told | None:
        """What goes on after somebody's words."""
        found = re.fullmatch(rf"({QUOTED.pattern})(.+)", text)
        rest = self.one(found[2], depth + 1) if found else None
        return rest and Told(found[1] + rest.text, rest.left)

    def _figure(self, text: str, depth: int) -> Told | None:
        found = FIGURE.fullmatch(text)
        unit = self.catalogue.texts.get((found[3] or "").strip()) if found else None
        if not found or (found[3] and unit is None):
            return None
        name = self.one(found[1], depth + 1)
        words = filter(None, (found[2], unit))
        return name and Told(" ".join([name.text, *words]), name.left)

    def _pair(self, text: str, _: int) -> Told | None:
        """A name and its value: two entries side by side."""
        texts = self.catalogue.texts
        cuts = ((text[: at.start()], text[at.end() :]) for at in re.finditer(" ", text))
        told = (f"{texts[a]} {texts[b]}" for a, b in cuts if a in texts and b in texts)
        return next((Told(found, 0) for found in told), None)

    def _in_brackets(self, text: str, depth: int) -> Told | None:
        found = BRACKETS.fullmatch(text)
        if not found:
            return None
        before, within, after = found.groups()[:3] if found[2] else found.groups()[3:]
        outer, inner = self._part(before, depth), self._part(within, depth)
        if (outer.text, inner.text) == (before, within):
            return None
        said = f"{outer.text}（{inner.text}）{MARKS.get(after, after)}"
        return Told(said, outer.left + inner.left)

    def _parts(self, text: str, depth: int) -> Told | None:
        if LIST.fullmatch(text) and "_" in text:
            return None  # names of parameters or columns
        for stop, joint in STOPS:
            parts = self._told_by(stop, text, depth)
            if any(part != told.text for part, told in parts) or (parts and stop is NAMES):
                left = sum(told.left for _, told in parts)
                return Told(joint.join(told.text for _, told in parts), left)
        return None

    def _told_by(self, stop: re.Pattern[str], text: str, depth: int) -> list[tuple[str, Told]]:
        """Split a text, each part as long as an entry goes; return them and their translations."""
        ends = [found.span() for found in stop.finditer(text) if _is_outside(text, found.start())]
        ends.append((len(text), len(text)))
        parts: list[tuple[str, Told]] = []
        at = 0
        while at < len(text):
            after = [(end, to) for end, to in ends if end > at and (at, end) != (0, len(text))]
            if not after:
                return []
            whole = ((text[at:end], self._entry(text[at:end]), to) for end, to in after[::-1])
            next_one = text[at : after[0][0]]
            part, told, to = next(
                (found for found in whole if found[1]),
                (next_one, self._part(next_one, depth), after[0][1]),
            )
            parts.append((part, told))
            at = to
        return parts

    def _entry(self, text: str) -> Told | None:
        """The translation of a text that is one entry in full."""
        found = self._exact(text, 0) or self._simple(text, DEEPEST - 1)
        return found if found and not found.left else None


def _best(tried: Iterable[Told | None]) -> Told | None:
    """Return the first translation with the fewest English words; none is tried in vain."""
    best = None
    for found in tried:
        if found and (best is None or found.left < best.left):
            best = found
        if best and not best.left:
            break
    return best


def _is_outside(text: str, at: int) -> bool:
    """Whether a place in a text is in no brackets."""
    return text.count("(", 0, at) <= text.count(")", 0, at)


def _forms(text: str) -> list[tuple[str, str]]:
    """Return a text as it is, with its first letter changed, and both without the mark at its end.

    Each form comes with the mark that its translation then ends in.
    """
    forms = [(text, ""), (text[:1].swapcase() + text[1:], "")]
    if end := MARKS.get(text[-1:], ""):
        forms += [(form[:-1], end) for form, _ in forms]
    return forms
