"""One kind of fact, and the sentences that tell and ask it."""

from dataclasses import dataclass

from neoxlib.demo.making import facts
from neoxlib.demo.making.facts import shifted


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its (thing, value) pairs and the sentences that tell and ask them."""

    subject: str
    facts: list[tuple[str, str]]
    tell: list[str]  # Chinese statements
    ask: list[str]  # Chinese questions
    tell_en: list[str]  # English statements; "{X}" is the thing at the start of a sentence
    ask_en: list[str]  # English questions
    extra: tuple[str, ...] = ()  # values that are never right, for questions with too few others


def english(word: str) -> str:
    """A table word in English; numbers and English words stay."""
    return facts.ENGLISH.get(word, word)


def after(names: list[str]) -> Relation:
    return Relation(
        "days_and_months",
        shifted(names, 1),
        ["{x}过后是{y}。", "紧接在{x}后面的是{y}。"],
        [
            "{x}过后是____。",
            "紧接在{x}后面的是____。",
            "{x}的下一个是____。",
            "{x}结束以后就到了____。",
        ],
        ["After {x} comes {y}.", "{X} is followed by {y}."],
        ["What comes after {x}?"],
    )


def before(names: list[str]) -> Relation:
    return Relation(
        "days_and_months",
        shifted(names, -1),
        ["{x}之前是{y}。", "在{x}前面的是{y}。"],
        ["{x}之前是____。", "在{x}前面的是____。", "{x}的上一个是____。", "{x}到来以前是____。"],
        ["Before {x} comes {y}.", "{X} follows {y}."],
        ["What comes before {x}?"],
    )
