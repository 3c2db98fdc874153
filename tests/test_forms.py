"""JSON of others: what no program could use is refused, and every difference of a form is told."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxlib import forms
from neoxlib.forms import COUNT, FLAG, INSIDE, NUMBER, SIZE, TEXT, Maybe, Named, one_of, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FORM = {"files": Named({"bytes": SIZE, "cut": Maybe(one_of(0, 1))}), "ids": [[SIZE]]}


@given(JSON)
def test_json_is_read_as_python_reads_it(value):
    assert parse(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested too deeply"),
        ("9" * 5000, "integer string conversion"),
        (r'["\ud800"]', "half of a character"),
        (r'{"\udc00": 1}', "half of a character"),
        ("{", "Expecting"),
        ("", "Expecting"),
        (b"\xff", "can't decode"),
    ],
)
def test_what_no_program_could_use_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_a_whole_pair_is_a_character_and_a_name_may_have_to_be_unique():
    assert parse(r'["\ud83d\ude00", "\\ud800"]') == ["😀", "\\ud800"]
    assert parse('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="'a' is there twice"):
        parse('{"b": {"a": 1, "a": 2}}', unique=True)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"files": {"x": {"bytes": 3, "cut": None}}, "ids": [[1], []], "more": 1}, []),
        ({"files": {}}, ["ids is missing"]),
        ([], ["it is [], expected an object"]),
        ({"files": [], "ids": {}}, ["files is []", "ids is an object of 0, expected a list"]),
        (
            {"files": {"x": {"bytes": True, "cut": 2}}, "ids": [[1, "a"]]},
            ["files.x.bytes is true", "files.x.cut is 2, expected 0 or 1", 'ids[0][1] is "a"'],
        ),
    ],
)
def test_every_difference_of_a_form_is_told_with_its_place(value, told):
    found = forms.problems(value, FORM)
    assert len(found) == len(told)
    assert all(line.startswith(words) for line, words in zip(found, told, strict=True))


@pytest.mark.parametrize(
    ("kind", "fit", "misfit"),
    [
        (SIZE, [0, 2**63 - 1], [-1, True, 1.0, "1", None, 2**63]),
        (COUNT, [1], [0, False]),
        (FLAG, [True, False], [0, 1, None]),
        (TEXT, ["", "a"], [None, 1, ["a"]]),
        (NUMBER, [0, -1.5, 1e308], [math.nan, math.inf, 10**400, True, "1"]),
        (INSIDE, ["a", "part_model/0/a.b"], ["", "/a", "../a", "a/../b", "a//b", ".", "a\0", 1]),
        (one_of(1, "a", None), [1, "a", None], [True, 1.0, 2, [], {}]),
    ],
)
def test_kinds_take_what_they_say(kind, fit, misfit):
    assert [kind.fits(value) for value in fit] == [True] * len(fit)
    assert [kind.fits(value) for value in misfit] == [False] * len(misfit)


@given(JSON)
def test_a_value_is_shown_in_a_short_line(value):
    shown = forms.shown(value)
    assert len(shown) < 100 and "\n" not in shown
