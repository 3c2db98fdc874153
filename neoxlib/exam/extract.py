"""Read the chosen letter out of a generated text: one function per published rule."""

import re
from collections.abc import Callable


def first_letter(text: str) -> str:
    """The first ASCII letter anywhere, as a capital: T for "The answer is B".

    The Ascend SDK's rule, unchanged.
    """
    found = re.search("[A-Za-z]", text)
    return found.group().upper() if found else ""


# In the order of the official script; the first that matches anywhere in the text decides.
_WORDINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"答案(?:应该?)?(?:是|为|选)?\s?[：:]?\s?([ABCD])",
        r"选择\s?([ABCD])",
        r"只有选?项?\s?([ABCD])\s?(?:是?[对错]|不?正确|错误)",
        r"说法(?:不?对|不?正确|错误)选?项?的?是\s?([ABCD])",
        r"([ABCD])\s?是正确(?:的|答案)",
        r"选项\s?([ABCD])\s?正确",
        r"所以答\s?([ABCD])",
        r"^1\.\s?([ABCD])[.。$]?$",
        r"(?:所[以有]|因此|显然|[\s，,：:][故即])\s?([ABCD])[.。]?$",
        r"[\s，：:,是为。]\s?([ABCD])[。，,.]?$",
    )
)


def reasoned(text: str) -> str:
    """The letter that a Chinese chain of thought concludes, by the wordings of C-Eval's authors."""
    text = "1." + text.rstrip()  # the cue's first step belongs to the text
    return next((found.group(1) for wording in _WORDINGS if (found := wording.search(text))), "")


EXTRACTIONS: dict[str, Callable[[str], str]] = {"first_letter": first_letter, "reasoned": reasoned}
