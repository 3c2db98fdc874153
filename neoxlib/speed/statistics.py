"""Statistics of a few repeated times that assume nothing about how they are distributed."""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

OUTLIER_DEVIATIONS = 5.0  # scaled median deviations; normal noise passes this once in two million
SCALE = 1.4826  # makes the median deviation of normal noise its standard deviation
MIN_REPEATS = 6  # for a 95 % interval of the median: 5 values all lie on one side in 6 % of cases
MIN_RELATIVE_DEVIATION = 0.01  # of the median: smaller deviations are taken to be this large


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The median's 95 % interval by order statistics; the range if n is below MIN_REPEATS.

    Distribution-free: the median lies between the k-th smallest and the k-th largest of n values
    unless fewer than k of them fell on one side of it, and that number is binomial(n, ½).
    """
    n = len(values)
    ordered = sorted(values)
    k = 1
    while 2 * sum(math.comb(n, fewer) for fewer in range(k + 1)) / 2**n <= 0.05:
        k += 1
    return ordered[k - 1], ordered[-k]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed."""
    return np.percentile(values, percent, method="inverted_cdf").item()


def outliers(values: Sequence[float]) -> int:
    """Count the values that lie more than OUTLIER_DEVIATIONS from their median.

    The unit is the scaled median absolute deviation.
    """
    if not values:
        return 0
    middle = median(values)
    deviation = SCALE * median(abs(value - middle) for value in values)
    limit = OUTLIER_DEVIATIONS * max(deviation, MIN_RELATIVE_DEVIATION * middle)
    return sum(abs(value - middle) > limit for value in values)
