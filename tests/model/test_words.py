"""What ranks tell each other comes back as it was, and no text of it runs code."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxlib.errors import NotFiniteError, RankError, Stopped
from neoxlib.model import words

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_with_its_types(value):
    found = words.decode(words.encode(value))
    assert found == value and repr(found) == repr(value)


def test_numbers_that_are_none_come_back():
    found = words.decode(words.encode([math.inf, math.nan, -0.0]))
    assert found[0] == math.inf and math.isnan(found[1]) and str(found[2]) == "-0.0"


@pytest.mark.parametrize("kind", [Stopped, RankError])
def test_an_error_of_neoxlib_comes_back_as_that_error(kind):
    found = words.decode(words.encode(kind("rank 1, 两个")))
    assert type(found) is kind and found.args == ("rank 1, 两个",)


def test_the_ids_of_an_error_come_back():
    found = words.decode(words.encode(NotFiniteError.of("row 0", [5, 6])))
    assert type(found) is NotFiniteError and found.ids == (5, 6)


class Thing:
    """Of no class that travels."""


@pytest.mark.parametrize("value", [Thing(), {1, 2}, ValueError("x"), print, [1, (Thing(),)]])
def test_anything_else_is_refused_by_who_would_send_it(value):
    with pytest.raises(TypeError, match="cannot tell each other"):
        words.encode(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'["eval","1"]',
        b'["error","os",["tuple"],["dict"]]',
        b'["error","wraps",["tuple"],["dict"]]',
        b'["error","unreadable_is",["tuple","x"],["dict"]]',
        b'["bytes",5]',
        b'["dict",[1]]',
        b"[" * 100_000,
        pickle.dumps([1]),
        json.dumps(["list", {"a": 1}]).encode(),
    ],
)
def test_a_text_that_no_rank_wrote_is_refused(text):
    with pytest.raises(ValueError, match="no value that a rank sends"):
        words.decode(text)
