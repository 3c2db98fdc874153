"""Where the time of an answer goes, as two bars: its first token, and a typical next one."""

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from neoxlib.inference.figures import PARTS as COLOURS
from neoxlib.inference.printer import Times
from neoxlib.inference.tables import PARTS as WORDS
from neoxlib.workbook import markup

if TYPE_CHECKING:
    from neoxlib.inference.text import Completion

UNPARTED = "all after the inputs"  # an accelerator's step, whose phases nothing waits for
LEAST = 0.005  # of the whole: a smaller part is not named
CELL = "display:inline-block;vertical-align:middle"


class Row(NamedTuple):
    """One bar: what it is of, its milliseconds, and the share of each part in the order of PARTS.

    A part that was not measured by itself is NaN.
    """

    name: str
    ms: float
    shares: dict[str, float]

    @property
    def named(self) -> dict[str, float]:
        """The parts that are large enough to be seen."""
        return {part: share for part, share in self.shares.items() if share >= LEAST}

    def told(self) -> str:
        """Return the row in words."""
        parts = ", ".join(f"{self.word(part)} {share:.0%}" for part, share in self.named.items())
        return f"{self.name} {self.ms:.1f} ms: {parts}" if parts else f"{self.name}: not timed"

    def word(self, part: str) -> str:
        """Return what a part is called."""
        whole = part == "forward" and math.isnan(self.shares["post"])
        return UNPARTED if whole else WORDS[part]


class TimeBars:
    """The times of an answer's steps as two bars; each is as wide as its own whole."""

    def __init__(self, clocks: Sequence[Times]) -> None:
        self.clocks = list(clocks)

    @classmethod
    def of(cls, answer: "Completion") -> "TimeBars":
        """Return the bars of a finished answer."""
        t = answer.timings
        parts = t.pre_ms, t.forward_ms, t.communication_ms, t.post_ms
        return cls(list(zip(*parts, strict=True)))

    def rows(self) -> list[Row]:
        """Return the bar of the first token and that of the next ones, as far as there are any."""
        later = len(self.clocks) - 1
        named = [("first token", self.clocks[:1])]
        named.append(("next token" if later == 1 else f"each of {later} next", self.clocks[1:]))
        return [_row(name, clocks) for name, clocks in named if clocks]

    def _repr_html_(self) -> str:
        rows = "".join(map(_bar, self.rows()))
        return markup.block(f'<div style="min-height:3.6em">{rows}</div>')

    def __repr__(self) -> str:
        return "\n".join(row.told() for row in self.rows())


def _row(name: str, clocks: Sequence[Times]) -> Row:
    """The median step, and the parts of all steps together."""
    wholes = [sum(part for part in clock if not math.isnan(part)) for clock in clocks]
    sums = dict(zip(COLOURS, map(sum, zip(*clocks, strict=True)), strict=True))
    whole = sum(wholes)
    return Row(name, median(wholes), {p: ms / whole if whole else 0.0 for p, ms in sums.items()})


def _bar(row: Row) -> str:
    """Return a row as HTML: name, milliseconds, bar, and the parts in words."""
    segments = "".join(
        _box(part, f"{100 * share:.2f}%", "1em") for part, share in row.named.items()
    )
    keys = "".join(
        f'<span style="white-space:nowrap"> {_box(part, ".7em", ".7em")}'
        f" <span>{row.word(part)}</span> {share:.0%}</span>"
        for part, share in row.named.items()
    )
    name = f'<span style="{CELL};width:9em;white-space:nowrap">{row.name}</span>'
    ms = f'<span style="{CELL};width:6em;text-align:right">{row.ms:.1f} ms</span>'
    bar = f'<span style="{CELL};width:14em;white-space:nowrap">{segments}</span>'
    return f'<div style="line-height:1.8">{name} {ms} {bar}{keys}</div>'


def _box(part: str, width: str, height: str) -> str:
    style = f"{CELL};width:{width};height:{height};background:{COLOURS[part]}"
    return f'<span aria-hidden="true" style="{style}"></span>'
