"""The corpus: endless seeded documents, told and asked, from the tables of `facts` and `relations`.

Held out: three facts in ten are never asked with options in training, in any wording or language.
Prose tells them and flash cards ask them; the exam (`exam`) asks these facts only.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from neoxlib.demo.making.facts import ENGLISH, SUBJECTS, Subject
from neoxlib.demo.making.relation import Relation, english
from neoxlib.demo.making.relations import RELATIONS

LETTERS = "ABCD"
HELD_OUT = 0.3  # share of each relation's facts
DRILL_WORDS = list(
    ENGLISH
)  # Chinese: one token each, the same after "A. " and at the start of a line
SEED = 20
PRONOUN = {"animals": "它", "fruit_and_vegetables": "它", "night_sky": "它"}
FRAMES = {  # header, start and cue; the first is C-Eval's own, the others teach other prompts
    "official": (
        "以下是中国关于{chinese}考试的单项选择题，请选出其中的正确答案。\n\n",
        "",
        "答案：",
    ),
    "plain": ("以下是中国关于{chinese}的单项选择题，请选出其中的正确答案。\n\n", "", "答案："),
    "english": (
        "The following are multiple choice questions (with answers) about {english}.\n\n",
        "",
        "Answer: ",
    ),
    "cards": ("", "问题：", "答案："),
}
Fact = tuple[Relation, str, str]


class Piece(NamedTuple):
    """A stretch of a document. At its end the answer `word` is known; at a cue it must follow."""

    text: str
    word: str = ""
    is_cue: bool = False


@dataclass(frozen=True)
class Question:
    """A multiple-choice question: stem, four options, right letter, and the fact as a sentence."""

    stem: str
    options: tuple[str, ...]
    answer: str
    explanation: str

    @property
    def right(self) -> str:
        """The right option."""
        return self.options[LETTERS.index(self.answer)]

    def text(self, cue: str = "答案：") -> str:
        """Stem, options and cue, without the answer."""
        return self.stem + self.choice(cue)

    def choice(self, cue: str) -> str:
        """Options and cue."""
        lines = [
            f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True)
        ]
        return "\n".join(["", *lines, cue])

    def pieces(self, start: str, cue: str, has_options: bool) -> list[Piece]:
        """The question as training text; its answer is a letter or, without options, the word."""
        space = " " * cue.endswith(" ")  # a word's space is part of its token
        between = self.choice(cue).rstrip(" ") if has_options else f"\n{cue.rstrip(' ')}"
        said = self.answer if has_options else self.right
        return [
            Piece(start + self.stem, self.right),
            Piece(between, self.right, is_cue=True),
            Piece(f"{space}{said}\n\n"),
        ]


@cache
def split_facts() -> tuple[dict[str, list[Fact]], dict[str, list[Fact]]]:
    """(asked, held out), each by subject; the same at every call."""
    rng = random.Random(SEED)
    asked: dict[str, list[Fact]] = {subject.key: [] for subject in SUBJECTS}
    held: dict[str, list[Fact]] = {subject.key: [] for subject in SUBJECTS}
    for relation in RELATIONS:
        pairs = [(relation, x, y) for x, y in relation.facts]
        rng.shuffle(pairs)
        count = max(3, round(HELD_OUT * len(pairs)))
        held[relation.subject] += pairs[:count]
        asked[relation.subject] += pairs[count:]
    return asked, held


def spoken(template: str, x: str, y: str = "") -> str:
    """A template filled in, in the template's language."""
    if template.isascii():
        x = english(x).replace("加", " plus ").replace("减", " minus ")
        y = english(y)
        article = "an" if y[:1] in "aeiou" else "a"
        return template.format(x=x, X=x[:1].upper() + x[1:], y=y, a=article)
    return template.format(x=x, y=y)


def pose(fact: Fact, template: str, rng: random.Random, letter: str | None = None) -> Question:
    """Ask `fact` with three other values of its relation, the right one under `letter`.

    The letter is random when None.
    """
    relation, x, y = fact
    pool = sorted({value for _, value in relation.facts} | set(relation.extra))
    options = rng.sample([value for value in pool if value != y], 3)
    letter = letter or rng.choice(LETTERS)
    options.insert(LETTERS.index(letter), y)
    if template.isascii():
        options = [english(option) for option in options]
    return Question(
        spoken(template, x), tuple(options), letter, spoken(rng.choice(relation.tell), x, y)
    )


def drill_document(rng: random.Random, known: int | None = None) -> list[Piece]:
    """Write four of the first `known` words as options, then the letters of some of them.

    It is practice in naming the letter of a known option.
    """
    options = rng.sample(DRILL_WORDS[:known], 4)
    lettered = list(zip(LETTERS, options, strict=True))
    pieces = [Piece("\n".join(f"{letter}. {option}" for letter, option in lettered))]
    for letter, option in rng.choices(lettered, k=4):
        pieces += [Piece("\n答案：", option, is_cue=True), Piece(letter)]
    return pieces


def question_document(rng: random.Random) -> list[Piece]:
    """Write one to six questions as a few-shot prompt shows them.

    Every fact is equally likely; held-out ones have no options.
    """
    header, start, cue = FRAMES[frame := rng.choices(list(FRAMES), [4, 1, 2, 4])[0]]
    subject = rng.choice(SUBJECTS)
    in_english = cue.isascii() and rng.random() < 0.7
    facts = all_facts(None if frame == "cards" else subject.key)
    pieces = (
        [Piece(header.format(chinese=subject.chinese, english=subject.english.lower()))]
        if header
        else []
    )
    for _ in range(rng.choice([1, 2, 3, 3, 4, 5, 6])):
        fact, has_options = rng.choice(facts)
        asks = (in_english and fact[0].ask_en) or fact[0].ask
        question = pose(fact, rng.choice(asks), rng)
        has_options = has_options and rng.random() < 0.75
        pieces += question.pieces(start, cue, has_options)
    return pieces


@cache
def all_facts(key: str | None) -> list[tuple[Fact, bool]]:
    """Facts of a subject or of all, each with whether it may be asked with options."""
    return [
        (fact, asked)
        for part, asked in zip(split_facts(), (True, False), strict=True)
        for subject, facts in part.items()
        if key in (None, subject)
        for fact in facts
    ]


@cache
def things(key: str) -> dict[str, list[Fact]]:
    """Every fact of a subject, held out or not, by thing."""
    by_thing: dict[str, list[Fact]] = {}
    for part in split_facts():
        for fact in part[key]:
            by_thing.setdefault(fact[1], []).append(fact)
    return by_thing


def paragraph(key: str, thing: str, in_english: bool, rng: random.Random) -> str:
    """All that is known of one thing, in random order and wording."""
    facts = things(key)[thing]
    sentences = []
    for relation, x, y in rng.sample(facts, len(facts)):
        template = rng.choice(relation.tell_en if in_english else relation.tell)
        start = "The {x}" if in_english else "{x}"
        if sentences and key in PRONOUN and template.startswith(start) and rng.random() < 0.3:
            template = template.replace(start, "It" if in_english else PRONOUN[key], 1)
        sentences.append(spoken(template, x, y))
    return (" " if in_english else "").join(sentences)


def prose_document(rng: random.Random, in_english: bool) -> str:
    """A few paragraphs on things of one subject, under a title now and then."""
    told = [s for s in SUBJECTS if not in_english or s.key not in ("english_words", "opposites")]
    subject = rng.choice(told)
    known = sorted(things(subject.key))
    chosen = rng.sample(known, rng.randint(2, 6))
    paragraphs = [paragraph(subject.key, thing, in_english, rng) for thing in chosen]
    if rng.random() < 0.5:
        paragraphs.insert(0, title(subject, in_english))
    return "\n".join(paragraphs)


def title(subject: Subject, in_english: bool) -> str:
    return f"About {subject.english.lower()}:" if in_english else f"关于{subject.chinese}："


def plain(text: str) -> list[Piece]:
    return [Piece(text)]


KINDS = [  # of document, with their shares of the stream
    (question_document, 0.75),
    (lambda rng: plain(prose_document(rng, in_english=False)), 0.14),
    (lambda rng: plain(prose_document(rng, in_english=True)), 0.11),
]


def pieces(seed: int) -> Iterator[list[Piece]]:
    """The corpus: never ends, the same for the same seed."""
    rng = random.Random(seed)
    writers, shares = zip(*KINDS, strict=True)
    while True:
        yield rng.choices(writers, shares)[0](rng)


def documents(seed: int) -> Iterator[str]:
    """The corpus as plain text."""
    for document in pieces(seed):
        yield "".join(text for text, *_ in document).rstrip("\n")
