"""Whether a case has become slower: two ways to compare, each with its own uncertainty.

Two runs, one after the other: the intervals within each run say nothing of how a machine differs
between runs, so what BETWEEN_RUNS has for it is added to them, and how much either run drifted
from its start to its end. Holm's correction covers the number of times compared.

In turns: each round gives one ratio of the two sides for each case. The order of the sides is
drawn for each round, so without a difference a ratio is as likely to be above 1 as below it by
the same factor, whatever the noise is: heavy tails, bursts, drift. The test counts how many of
all ways to swap the sides of whole rounds rank as high (Wilcoxon's signed ranks, exact), and for
many cases takes the largest of them (Westfall and Young's step-down maxT), which holds for noise
that cases share. One further row is the median of all cases in each round. As the processes are
started anew for each round, their own differences are noise between rounds as well.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from neoxlib.machine.environment import BETWEEN_RUNS

ALPHA = 0.01  # false alarms of a comparison of two runs, over all its times
TURNS_ALPHA = 0.005  # of a comparison in turns: half for all cases together, half for single ones
POWER = 0.95  # with which the smallest slowdown is found that is called detectable
ENUMERATED = 14  # rounds up to which all ways to swap sides are counted; beyond, DRAWS of them
DRAWS = 10_000
DRAWN = 1000  # samples of the rounds, to tell which slowdown would be found
LEAST_ROUNDS = math.ceil(-math.log2(TURNS_ALPHA / 2))  # fewer cannot be significant


class Compared(NamedTuple):
    """A time of two runs on the scale of logarithms, with its uncertainty."""

    effect: float  # log of now ÷ before
    sd: float  # of that effect
    freedom: float  # degrees of freedom of `sd`

    @classmethod
    def of(
        cls,
        medians: Sequence[float],
        ends: Sequence[tuple[float, float]],
        repeats: Sequence[float],
        drifts: Sequence[float] = (),
        machine: str = "own",
    ) -> "Compared":
        """Now and before: both medians, both 95 % intervals (± 2 standard deviations), repeats.

        `drifts` are the changes of a time within each run, as shares; `machine` is a kind of
        BETWEEN_RUNS.
        """
        own = [(math.log(high / low) / 4) ** 2 for low, high in ends]
        drifted = sum(math.log1p(drift) ** 2 for drift in drifts)
        variance = sum(own) + BETWEEN_RUNS[machine] ** 2 + drifted
        parts = sum(part**2 / (count - 1) for part, count in zip(own, repeats, strict=True))
        freedom = variance**2 / parts if parts else math.inf  # Welch and Satterthwaite's
        return cls(math.log(medians[0] / medians[1]), math.sqrt(variance), freedom)

    def p_slower(self, allowed: float) -> float:
        """Probability of such a ratio if the true one is 1 + `allowed`."""
        return student_tail((self.effect - math.log1p(allowed)) / self.sd, self.freedom)

    @property
    def ends(self) -> tuple[float, float]:
        """The 95 % interval (± 2 standard deviations) of the ratio."""
        return math.exp(self.effect - 2 * self.sd), math.exp(self.effect + 2 * self.sd)

    def detectable(self, allowed: float, times: int) -> float:
        """The slowdown that is found with POWER, among so many times."""
        quantiles = NormalDist().inv_cdf(1 - ALPHA / times) + NormalDist().inv_cdf(POWER)
        return math.expm1(math.log1p(allowed) + quantiles * self.sd)


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's distribution; `freedom` is rounded down.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    if freedom > 1000:
        return 1 - NormalDist().cdf(t)
    n = max(1, math.floor(freedom))
    angle = math.atan(abs(t) / math.sqrt(n))
    cos2 = math.cos(angle) ** 2
    odd = n % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(3 if odd else 2, n - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    within = math.sin(angle) * total if n > 1 else 0.0
    if odd:
        within = 2 / math.pi * (angle + within)
    tail = (1 - within) / 2
    return tail if t > 0 else 1 - tail


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - step) * p_values[place]))
        adjusted[place] = largest
    return adjusted


class Turns(NamedTuple):
    """What rounds of two sides in turns say; one entry per column, and one of all together."""

    p_values: list[float]  # of each column being slower than allowed, adjusted for their number
    p_all: float  # of all columns together
    detectable: float  # slowdown of all columns that is found with POWER

    @property
    def slower(self) -> list[bool]:
        """Which columns are slower."""
        return [p <= TURNS_ALPHA / 2 for p in self.p_values]

    @property
    def all_slower(self) -> bool:
        """Whether all columns together are slower."""
        return self.p_all <= TURNS_ALPHA / 2


def in_turns(logs: np.ndarray, allowed: float, seed: int = 0) -> Turns:
    """Judge the logs of now ÷ before, [rounds, columns], against a slowdown of `allowed`."""
    beyond = logs - math.log1p(allowed)
    together = np.median(beyond, axis=1, keepdims=True)  # [rounds, 1]
    flips = _flips(len(logs), seed)  # [ways, rounds]
    p_all = _p_values(together, flips)[0]
    detectable = math.expm1(math.log1p(allowed) + _shift_found(together[:, 0], flips, seed))
    return Turns(_p_values(beyond, flips), p_all, detectable)


def _shift_found(values: np.ndarray, flips: np.ndarray, seed: int) -> float:
    """The least shift of such values [rounds] that their signed ranks find with POWER.

    The values less their median, with either sign as the sides' order is drawn, are drawn anew
    DRAWN times: a smoothed bootstrap, with Silverman's bandwidth (Density Estimation, 1986, 3.31),
    so heavy tails count. A sample's rank sum is the number of its pairs' means above 0 (Tukey's),
    so the shift that it needs is one of those means.
    """
    rounds = len(values)
    least = _least_pairs(flips)
    if least is None:
        return math.inf
    away = np.abs(values - np.median(values)) * math.sqrt(rounds / max(1, rounds - 1))
    width = 0.9 * 1.4826 * float(np.median(away)) * rounds**-0.2
    draws = np.random.default_rng(seed)
    signs = draws.choice([-1.0, 1.0], (DRAWN, rounds))
    drawn = signs * draws.choice(away, signs.shape) + draws.normal(0, width, signs.shape)
    first, second = np.triu_indices(rounds)
    means = np.sort((drawn[:, first] + drawn[:, second]) / 2, axis=1)[:, ::-1]  # [DRAWN, pairs]
    return float(np.quantile(-means[:, least - 1], POWER))


def _least_pairs(flips: np.ndarray) -> int | None:
    """How many pairs of rounds have to be above 0 to be significant; None if all do not suffice."""
    rounds = flips.shape[1]
    ranks = np.arange(1.0, rounds + 1)
    above = (flips > 0) @ ranks  # [ways]
    found = [int(n) for n in np.unique(above) if (above >= n).mean() <= TURNS_ALPHA / 2]
    return min(found, default=None)


@lru_cache(maxsize=4)
def _flips(rounds: int, seed: int) -> np.ndarray:
    """Signs of whole rounds, [ways, rounds]: all, or the one that was and DRAWS others."""
    if rounds <= ENUMERATED:
        bits = np.arange(2**rounds)[:, None] >> np.arange(rounds) & 1
        return 1.0 - 2.0 * bits
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, rounds))
    return np.vstack([np.ones((1, rounds)), drawn])


def _p_values(beyond: np.ndarray, flips: np.ndarray) -> list[float]:
    """Adjusted p-values of columns [rounds, columns] being above 0."""
    ranks = np.abs(beyond).argsort(axis=0).argsort(axis=0) + 1.0
    signed = np.sign(beyond) * ranks
    order = np.argsort(-signed.sum(axis=0), kind="stable")
    sums = flips @ signed[:, order]  # [ways, columns], the first row as it was
    largest = np.maximum.accumulate(sums[:, ::-1], axis=1)[:, ::-1]
    hits = (largest >= sums[0] - 1e-9).mean(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(hits)
    return adjusted.tolist()
