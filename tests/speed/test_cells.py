"""Numbers as people read them."""

import math

import pytest

from neoxlib.speed import cells


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mbu", math.nan, "–"),
        ("x", None, "–"),
        ("mbu", 0.1234, "12.3%"),
        ("x", 1234.5, "1,234"),
        ("x", 0.012345, "0.0123"),
        ("x", 3.0, "3"),
        ("x", "a b", "a\u00a0b"),
    ],
)
def test_a_number_has_three_figures_a_share_is_per_cent_and_nothing_is_a_dash(name, value, said):
    assert cells.text(name, value) == said


def test_a_range_of_too_few_repeats_is_not_called_an_interval():
    row = {"ms_low": 1.0, "ms_high": 2.5, "repeats": 6}
    assert cells.interval_text(row, "ms") == "1 to 2.5"
    few = cells.interval_text(row | {"repeats": 5}, "ms")
    assert few == "1 to 2.5 (range of 5, no interval)"
    assert cells.interval_text(row | {"ms_low": None}, "ms") == "–"
