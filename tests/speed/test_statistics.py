"""Intervals and outliers of few values, against what is known of them."""

import math
import random
from statistics import median

from neoxlib.speed import statistics


def test_the_interval_holds_the_median_about_as_often_as_it_says():
    draw = random.Random(0)
    for n, exact in ((6, 0.969), (9, 0.961), (20, 0.959)):
        hits = 0
        for _ in range(4000):
            low, high = statistics.interval([draw.lognormvariate(0, 1) for _ in range(n)])
            hits += low <= 1 <= high  # the true median of that distribution
        assert abs(hits / 4000 - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000)


def test_the_interval_is_the_tables_pair_of_order_statistics():
    for n, low, high in (
        (1, 1, 1),
        (2, 1, 2),
        (5, 1, 5),
        (6, 1, 6),
        (8, 1, 8),
        (9, 2, 8),
        (20, 6, 15),
        (100, 40, 61),
    ):
        values = list(range(1, n + 1))
        random.Random(n).shuffle(values)
        assert statistics.interval(values) == (low, high)
        assert low <= median(values) <= high


def test_a_percentile_is_a_value_that_so_many_do_not_exceed():
    values = list(range(1, 201))
    assert [statistics.percentile(values, p) for p in (50, 90, 99)] == [100, 180, 198]
    assert statistics.percentile([7.0], 99) == 7


def test_only_values_far_from_the_rest_are_outliers():
    draw = random.Random(1)
    values = [draw.gauss(10, 0.5) for _ in range(500)]
    assert statistics.outliers(values) == 0 and statistics.outliers([*values, 20, 25]) == 2
    assert (
        statistics.outliers([10.0] * 50) == 0 and statistics.outliers([10.0] * 50 + [10.4, 11]) == 1
    )
    assert statistics.outliers([]) == statistics.outliers([3.0]) == 0
