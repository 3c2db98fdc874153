"""The corpus: endless seeded documents, told and asked, from the tables of `facts` and `relations`.

Held out: one fact in four is never asked in training, in any wording or language, with any options; prose tells it.
The exam (`exam`) asks these facts only.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from neoxlib.demo.facts import ENGLISH, SUBJECTS, Subject
from neoxlib.demo.relations import RELATIONS, Relation, english

LETTERS = "ABCD"
HELD_OUT = 0.25  # share of each relation's facts
DRILLS = 20_000  # documents that come before the corpus, for each process
DRILL_WORDS = list(ENGLISH)  # Chinese: one token each, the same after "A. " and at the start of a line
SEED = 20
PRONOUN = {"animals": "它", "fruit_and_vegetables": "它", "night_sky": "它"}
FRAMES = {  # header and cue; the first is C-Eval's own, the others keep the model at home in other harnesses' prompts
    "official": ("以下是中国关于{chinese}考试的单项选择题，请选出其中的正确答案。\n\n", "答案："),
    "plain": ("以下是中国关于{chinese}的单项选择题，请选出其中的正确答案。\n\n", "答案："),
    "english": ("The following are multiple choice questions (with answers) about {english}.\n\n", "Answer: "),
}
Fact = tuple[Relation, str, str]


@dataclass(frozen=True)
class Question:
    """One multiple-choice question: the stem, four options, the right letter, and the fact as a sentence."""

    stem: str
    options: tuple[str, ...]
    answer: str
    explanation: str

    def text(self, cue: str = "答案：") -> str:
        """Stem, options and cue, without the answer."""
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True)]
        return "\n".join([self.stem, *lines, cue])


@cache
def split_facts() -> tuple[dict[str, list[Fact]], dict[str, list[Fact]]]:
    """(asked, held out), each by subject; the same at every call."""
    rng = random.Random(SEED)
    asked: dict[str, list[Fact]] = {subject.key: [] for subject in SUBJECTS}
    held: dict[str, list[Fact]] = {subject.key: [] for subject in SUBJECTS}
    for relation in RELATIONS:
        pairs = [(relation, x, y) for x, y in relation.facts]
        rng.shuffle(pairs)
        count = max(2, round(HELD_OUT * len(pairs)))
        held[relation.subject] += pairs[:count]
        asked[relation.subject] += pairs[count:]
    return asked, held


def spoken(template: str, x: str, y: str = "") -> str:
    """A template filled in, in the template's language."""
    if template.isascii():
        x, y = english(x).replace("加", " plus ").replace("减", " minus "), english(y)
        article = "an" if y[:1] in "aeiou" else "a"
        return template.format(x=x, X=x[:1].upper() + x[1:], y=y, a=article)
    return template.format(x=x, y=y)


def pose(fact: Fact, template: str, rng: random.Random, letter: str | None = None) -> Question:
    """Ask `fact` with three other values of its relation, the right one under `letter` (random when None)."""
    relation, x, y = fact
    pool = sorted({value for _, value in relation.facts} | set(relation.extra))
    options = rng.sample([value for value in pool if value != y], 3)
    letter = letter or rng.choice(LETTERS)
    options.insert(LETTERS.index(letter), y)
    if template.isascii():
        options = [english(option) for option in options]
    return Question(spoken(template, x), tuple(options), letter, spoken(rng.choice(relation.tell), x, y))


def drill_document(rng: random.Random, known: int | None = None) -> str:
    """Four of the first `known` words, then the letters of some: practice in naming the letter of a known option."""
    options = rng.sample(DRILL_WORDS[:known], 4)
    lettered = list(zip(LETTERS, options, strict=True))
    shown = [f"{letter}. {option}" for letter, option in lettered]
    asked = [f"{option}：{letter}" for letter, option in rng.choices(lettered, k=4)]
    return "\n".join(shown + asked)


def exam_document(rng: random.Random) -> str:
    """A header and one to six questions with answers, as a few-shot prompt shows them."""
    frame = rng.choices(list(FRAMES), [7, 1, 2])[0]
    subject = rng.choice(SUBJECTS)
    header, cue = FRAMES[frame]
    in_english = frame == "english" and rng.random() < 0.7
    parts = [header.format(chinese=subject.chinese, english=subject.english.lower())]
    for _ in range(rng.choice([1, 2, 3, 3, 4, 5, 6])):
        fact = rng.choice(split_facts()[0][subject.key])
        asks = (in_english and fact[0].ask_en) or fact[0].ask
        question = pose(fact, rng.choice(asks), rng)
        parts.append(question.text(cue) + question.answer + "\n\n")
    return "".join(parts).rstrip("\n")


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


def dialogue_document(rng: random.Random) -> str:
    """Short questions and answers without options."""
    in_english = rng.random() < 0.4
    facts = [f for part in split_facts()[0].values() for f in part if f[0].ask_en or not in_english]
    lines = []
    for relation, x, y in rng.sample(facts, rng.randint(3, 8)):
        ask = rng.choice(relation.ask_en if in_english else relation.ask)
        words = ("Question: ", "Answer: ", ".") if in_english else ("问题：", "答案：", "。")
        lines.append(f"{words[0]}{spoken(ask, x)}\n{words[1]}{english(y) if in_english else y}{words[2]}")
    return "\n".join(lines)


KINDS = [  # of document, with their shares of the stream
    (exam_document, 0.45),
    (drill_document, 0.15),
    (dialogue_document, 0.12),
    (lambda rng: prose_document(rng, in_english=False), 0.14),
    (lambda rng: prose_document(rng, in_english=True), 0.14),
]


def documents(seed: int) -> Iterator[str]:
    """The corpus: never ends, the same for the same seed."""
    rng = random.Random(seed)
    writers, shares = zip(*KINDS, strict=True)
    while True:
        yield rng.choices(writers, shares)[0](rng)


def drills(seed: int) -> Iterator[str]:
    """What comes before the corpus: DRILLS drills, on twelve words first, then on more and more, in the end on all.

    A model that finds the letter of an option learns the exam soon after; without drills it stays at guessing for long.
    """
    rng = random.Random(seed)
    for number in range(DRILLS):
        share = min(1.0, max(0.0, 2 * number / DRILLS - 0.8))  # flat for 40 %, up to 90 %, flat again
        yield drill_document(rng, round(12 * (len(DRILL_WORDS) / 12) ** share))
