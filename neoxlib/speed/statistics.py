"""What can be said of a few repeated times without assuming how they are distributed."""

import math
from collections.abc import Sequence
from statistics import median

FAR = 5.0  # scaled median deviations; normal noise passes this about once in two million
SCALE = 1.4826  # makes the median deviation of normal noise its standard deviation
FEWEST = 6  # values of a 95 % interval of the median: of 5, all lie on one side in 6 % of cases
LEAST = 0.01  # of the median: deviations are not taken to be finer than this


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The median's 95 % interval by order statistics; of fewer than FEWEST values their range.

    Between the k-th smallest and the k-th largest of n values lies the median, unless fewer than k of them fell on one
    side of it, which is a matter of tossing n coins.
    """
    n = len(values)
    ordered = sorted(values)
    k = 1
    while 2 * sum(math.comb(n, fewer) for fewer in range(k + 1)) / 2**n <= 0.05:
        k += 1
    return ordered[k - 1], ordered[-k]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed."""
    return sorted(values)[max(math.ceil(percent / 100 * len(values)), 1) - 1]


def outliers(values: Sequence[float]) -> int:
    """How many of `values` lie FAR from their median, in scaled median absolute deviations."""
    if not values:
        return 0
    middle = median(values)
    deviation = SCALE * median(abs(value - middle) for value in values)
    return sum(abs(value - middle) > FAR * max(deviation, LEAST * middle) for value in values)
