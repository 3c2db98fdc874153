"""The words of errors: a hint names what is near, and nothing else."""

import pytest

from neoxlib.errors import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "most", "hint"),
    [
        ("colur", 1, "; did you mean 'colour'?"),
        ("colou", 2, "; did you mean 'colour' or 'colours'?"),
        ("colour", 1, "; did you mean 'colour'?"),
        ("zzz", 2, ""),
        ("", 2, ""),
    ],
)
def test_a_hint_names_the_nearest_names_in_quotes(name, most, hint):
    assert did_you_mean(name, iter(["shots", "colours", "colour"]), most) == hint


def test_a_higher_cutoff_leaves_out_names_that_resemble_less():
    assert nearest("8bit", ["int8"], cutoff=0.5) == ["int8"]
    assert nearest("8bit", ["int8"]) == []
