"""Texts in the language that is spoken: whole, by their pattern, or part by part."""

import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from unicodedata import east_asian_width

from neoxlib.languages.catalogue import MARKS, Catalogue, catalogue, plain
from neoxlib.languages.language import current

ENGLISH = re.compile(r"[a-z]{2,}")
LEFT = re.compile(r"(?<![\w./=-])[a-z]+[,;:]? [a-z]+[,;:]? [a-z]+(?![\w/=-])")
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
# A name with its figure: "sums 61 %", "first token 3.5 ms".
FIGURE = re.compile(r"(.*[a-z)]) ([-+]?[\d.,]+(?: (?:%|m?s|[kMG]?B|GB/s|TFLOPS|tokens/s))?)")
DEEPEST = 6  # a sentence within a sentence within …
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
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


@cache
def _words(language: str) -> "_Words":
    return _Words(catalogue(language))


class _Words:
    """Looks texts up in a catalogue; a part of one is looked up in the same way."""

    def __init__(self, found: Catalogue) -> None:
        self.catalogue = found
        self.known: dict[str, str | None] = {}
        self.ways: tuple[Callable[[str, int], str | None], ...] = (
            self._exact,
            self._quoted,
            self._simple,
            self._after_mark,
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
        flat = plain(text) if len(text) <= MOST else ""
        for way in (self._exact, self._simple):
            if (whole := way(flat, 0)) is not None and not is_left(whole):
                return whole
        return "\n".join(self._line(line) for line in text.split("\n"))

    def _line(self, line: str) -> str:
        blank = line[: len(line) - len(line.lstrip())]
        found = self.one(plain(line)) if len(line) <= MOST else None
        return line if found is None else blank + found

    def one(self, text: str, depth: int = 0) -> str | None:
        """Return the translation of a text without line breaks, or None."""
        if depth > DEEPEST or not ENGLISH.search(text):
            return None
        if text not in self.known:
            self.known[text] = self._best(way(text, depth) for way in self.ways)
        return self.known[text]

    def _best(self, tried: Iterable[str | None]) -> str | None:
        """Return the first translation with the fewest English words; none is tried in vain."""
        best, fewest = None, 0
        for found in filter(None, tried):
            left = self.left(found)
            if best is None or left < fewest:
                best, fewest = found, left
            if not left:
                break
        return best

    def left(self, text: str) -> int:
        """Return how many English words are left in a text, without terms and names."""
        return sum(word not in self.catalogue.kept for word in LOOSE.findall(text))

    def _exact(self, text: str, _: int) -> str | None:
        texts = self.catalogue.texts
        return next((texts[form] + end for form, end in _forms(text) if form in texts), None)

    def _simple(self, text: str, depth: int) -> str | None:
        return self._sentence(text, depth, simple=True)

    def _sentence(self, text: str, depth: int, simple: bool = False) -> str | None:
        """A text by the pattern of an entry; in a `simple` one no value is a list or a sentence."""
        forms = [*_forms(text), (f"{text} ", "")]
        return self._best(
            (entry.translation.format(**self._values(values, depth)) + end).strip()
            for form, end in forms
            for entry, values in self.catalogue.matching(form)
            if form[:1] == text[:1] or entry.first  # a value keeps its first letter
            if not simple or not any(LISTED.search(value) for value in values.values())
        )

    def _values(self, values: dict[str, str], depth: int) -> dict[str, str]:
        """The values of a sentence; Chinese sentences have no blanks between them."""
        return {name: self.one(value.strip(), depth + 1) or value for name, value in values.items()}

    def _after_mark(self, text: str, depth: int) -> str | None:
        """What goes on after another text: ", and so on"."""
        found = self.one(text[1:].lstrip(), depth + 1) if text[:1] in MARKS else None
        return None if found is None else MARKS[text[0]] + found

    def _figure(self, text: str, depth: int) -> str | None:
        found = FIGURE.fullmatch(text)
        name = self.one(found[1], depth + 1) if found else None
        return None if name is None else f"{name} {found[2]}"

    def _pair(self, text: str, _: int) -> str | None:
        """A name and its value: two entries side by side."""
        texts = self.catalogue.texts
        cuts = ((text[: at.start()], text[at.end() :]) for at in re.finditer(" ", text))
        return next((f"{texts[a]} {texts[b]}" for a, b in cuts if a in texts and b in texts), None)

    def _in_brackets(self, text: str, depth: int) -> str | None:
        found = BRACKETS.fullmatch(text)
        if not found:
            return None
        before, within, after = found.groups()[:3] if found[2] else found.groups()[3:]
        outer, inner = self.one(before, depth + 1), self.one(within, depth + 1)
        if outer is None and inner is None:
            return None
        return f"{outer or before}（{inner or within}）{MARKS.get(after, after)}"

    def _quoted(self, text: str, depth: int) -> str | None:
        """What goes on after somebody's words."""
        found = re.fullmatch(rf"({QUOTED.pattern})(.+)", text)
        rest = self.one(found[2], depth + 1) if found else None
        return None if rest is None else found[1] + rest

    def _parts(self, text: str, depth: int) -> str | None:
        if LIST.fullmatch(text) and "_" in text:
            return None  # names of parameters or columns
        for stop, joint in STOPS:
            told = self._told_by(stop, text, depth)
            if any(one is not None for _, one in told) or (told and stop is NAMES):
                return joint.join(one or part for part, one in told)
        return None

    def _told_by(
        self, stop: re.Pattern[str], text: str, depth: int
    ) -> list[tuple[str, str | None]]:
        """Split a text, each part as long as an entry goes; return them and their translations."""
        ends = [
            found.span()
            for found in stop.finditer(text)
            if text.count("(", 0, found.start()) <= text.count(")", 0, found.start())
        ]
        ends.append((len(text), len(text)))
        told: list[tuple[str, str | None]] = []
        at = 0
        while at < len(text):
            after = [(end, to) for end, to in ends if end > at and (at, end) != (0, len(text))]
            if not after:
                return []
            whole = ((text[at:end], self._entry(text[at:end]), to) for end, to in after[::-1])
            part, one, to = next(
                (found for found in whole if found[1]),
                (text[at : after[0][0]], self.one(text[at : after[0][0]], depth + 1), after[0][1]),
            )
            told.append((part, one))
            at = to
        return told

    def _entry(self, text: str) -> str | None:
        """The translation of a text that is one entry in full."""
        found = self._exact(text, 0) or self._simple(text, DEEPEST - 1)
        return found if found and not self.left(found) else None


def _forms(text: str) -> list[tuple[str, str]]:
    """Return a text as it is, with its first letter changed, and both without the mark at its end.

    Each form comes with the mark that its translation then ends in.
    """
    forms = [(text, ""), (text[:1].swapcase() + text[1:], "")]
    if end := MARKS.get(text[-1:], ""):
        forms += [(form[:-1], end) for form, _ in forms]
    return forms
