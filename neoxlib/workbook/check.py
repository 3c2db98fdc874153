"""A condition that a run must meet, and how a run with its checks ends."""

from collections.abc import Iterable
from dataclasses import dataclass

from neoxlib.errors import show_controls

WORDS = {True: "PASS", False: "FAIL", None: "NOT JUDGED"}


@dataclass(frozen=True)
class Check:
    """A condition that must hold for the run to count, with the figures it was judged by.

    `passed` is None where the figures are too uncertain for a verdict.
    """

    name: str
    passed: bool | None
    detail: str = ""

    @property
    def word(self) -> str:
        """The verdict as reports show it."""
        return WORDS[self.passed]

    def __repr__(self) -> str:
        return show_controls(f"{self.word}  {self.name}: {self.detail}")


def status_of(checks: Iterable[Check], noise: Iterable[str]) -> str:
    """Return the status of a run that came to its end: the worst that is true of it."""
    verdicts = [check.passed for check in checks]
    if False in verdicts:
        return "check-failed"
    if None in verdicts:
        return "not-judged"
    return "noisy" if any(noise) else "ok"
