"""The three-way verdict: reference, the same dtype on the CPU, and the target, step by step.

How far the target is from the reference says little by itself: a dtype has roundings. The same
dtype in plain layers on one CPU shows how far these alone lead.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from neoxlib.align import limits
from neoxlib.align.distances import Drift, OwnError
from neoxlib.align.estimates import ROUNDING, numerics
from neoxlib.align.joins import Bits, place_of
from neoxlib.align.localize import Alignment, Finding
from neoxlib.align.reader import Capture

RIGHT = "right"
GUILTY = "guilty"  # by its own error
DTYPE = "the dtype"  # its own error is past the limits, and so is the same dtype's
CARRIED = "carried"  # farther than the dtype explains, by a guilty step before it
FARTHER = "farther"  # farther than the dtype explains, by small errors or other formulas


@dataclass(frozen=True)
class Witness:
    """What the same dtype in plain layers on one CPU makes of the same tokens."""

    drifts: list[Drift] = field(default_factory=list)  # its distance from the checkpoint
    findings: list[Finding] = field(default_factory=list)  # its own errors
    beside: list[Drift] = field(default_factory=list)  # the target's distance from it


@dataclass(frozen=True)
class Other:
    """A capture as reference: how far the target and the same dtype are from it."""

    target: list[Drift]
    same: list[Drift]
    bits: list[Bits] = field(default_factory=list)  # of a second run of the same
    same_weights: bool = True  # quantized as the target's are
    unit: float = 0.0  # one rounding of the coarser dtype of both
    judged: bool = True  # whether the distance of each step is: see `beside`


class Line(NamedTuple):
    """One step of one pass, the ranks' parts joined."""

    name: str
    pass_: int
    same: float  # relative L2 of the same dtype from the reference
    target: float  # of the target
    own: float  # the target's greatest own error, in roundings, over all ranks
    own_same: float
    times: float  # target over same, or over the same dtype's from the checkpoint, or a rounding
    word: str


def with_witness(found: Alignment, witness: Witness) -> Alignment:
    """The alignment, each finding with the own error of the same dtype beside its own."""
    same = {(one.name, one.pass_): one.error for one in witness.findings}
    findings = [replace(one, same=same.get((one.name, one.pass_))) for one in found.findings]
    return replace(found, findings=findings)


def rounding(found: Capture) -> float:
    """One rounding of the way a capture was computed, relative."""
    about = found.manifest
    how = numerics(about["dtype"], about["quant"], found.compiled)
    return max(how.out, how.cache, how.inner, how.row)


def beside(
    found: Capture, truth: Capture, target: list[Drift], same: list[Drift], twice: list[Bits]
) -> Other:
    """The capture `truth` as reference of `found`.

    The compiled kernels round inputs of packed weights to 8 bits, which the plain layers do not:
    then the distance of each step is told and not judged.
    """
    quant = found.manifest["quant"]
    theirs = ROUNDING.get(truth.manifest["dtype"], 0.0)
    weights = quant == truth.manifest.get("quant")
    judged = weights and not (quant and found.compiled)
    return Other(target, same, twice, weights, max(rounding(found), theirs), judged)


def lines(found: Alignment, witness: Witness, other: Other | None, unit: float) -> list[Line]:
    """A line for each step of which both distances are known, in the order of computing.

    `other` is the reference, or None for the checkpoint; `unit` one rounding of the target.
    """
    ranks = defaultdict(list)
    for one in found.findings:
        ranks[one.name, one.pass_].append(one)
    same = _by_step(other.same if other else witness.drifts)
    usual = _by_step(witness.drifts)
    first = min((place_of(one.name, one.pass_) for one in found.first), default=None)
    rows = []
    for key, distance in _by_step(other.target if other else found.drifts).items():
        if key in same:
            times = distance / max(same[key], usual.get(key, 0.0), unit)
            word = _word(ranks[key], times, first is not None and place_of(*key) > first)
            own = (
                _greatest(one.error for one in ranks[key]),
                _greatest(o.same for o in ranks[key]),
            )
            rows.append(Line(*key, same[key], distance, *own, times, word))
    return rows


def _by_step(drifts: Sequence[Drift]) -> dict[tuple[str, int], float]:
    ordered = sorted(drifts, key=lambda one: place_of(one.name, one.pass_))
    return {(one.name, one.pass_): one.distance.relative_l2 for one in ordered}


def _word(ranks: Sequence[Finding], times: float, after: bool) -> str:
    if any(one.guilty for one in ranks):
        return GUILTY
    if any(one.excused for one in ranks):
        return DTYPE
    if limits.TIMES_L2.broken(times):
        return CARRIED if after else FARTHER
    return RIGHT


def _greatest(errors: Iterable[OwnError | None]) -> float:
    return max((error.greatest for error in errors if error), default=float("nan"))
