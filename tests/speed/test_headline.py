"""The answer of a profile, and its cases in groups, on made-up times."""

import pytest
from bs4 import BeautifulSoup

from neoxlib.inference.parity import UNSPLIT
from neoxlib.inference.timing import Case
from neoxlib.speed import headline
from tests.support.timed_cases import row, table

JUDGED = {"bound": "launch", "first_bound": "compute", "mbu": 0.08, "verdict": "a sentence"}


def judged(*rows, **more):
    return table(*rows).assign(**JUDGED | more)


def results(*checks, noise=()):
    return {
        "checks": list(checks),
        "metrics": {"parity_of_limit": 0.05},
        "model": {"world_size": 2},
        "noise": list(noise),
    }


GOOD = {"name": UNSPLIT, "passed": True, "detail": ""}


def test_it_is_right_and_how_fast_and_what_holds_it_back():
    said = headline.answer(results(GOOD), judged(row(32), row(512, 64)))
    assert said == (
        "Right, and 320 tokens/s for one prompt of 512 tokens, continued by 64: first token "
        "20.0 ms, each next one 2.00 ms. The split model equals the unsplit one (error 1/20 of "
        "the limit). A next token is bound by starting operators and choosing the token, not by "
        "memory or arithmetic."
    )


def test_a_noisy_run_says_nothing_of_the_bound():
    said = headline.answer(results(GOOD, noise=["load 2.3"]), judged())
    assert "bound by" not in said and "tokens/s" in said


def test_a_wrong_model_is_no_fast_one():
    wrong = {"name": UNSPLIT, "passed": False, "detail": "error 9 times the limit"}
    said = headline.answer(results(wrong), judged())
    assert said.startswith("Do not use this. same as the unsplit model: no (error 9 times")


def test_an_answer_of_one_token_has_no_next_one():
    one = judged(row(32, 1, later=None), bound=None, mbu=None)
    assert "each next one" not in headline.answer(results(GOOD), one)
    assert headline.key_figures(one)["longest_next_token_ms"] is None


@pytest.mark.parametrize(("repeats", "has"), [(6, True), (5, False)])
def test_intervals_are_recorded_where_the_repeats_allow_them(repeats, has):
    found = headline.key_figures(judged(row(32, repeats=repeats)))
    assert ("longest_next_token_ms_low" in found) == has
    assert found["longest_mbu"] == 0.08 and found["longest_bound"] == "launch"


def test_a_case_is_in_words():
    assert headline.case_words(Case(4, 32, 16, 8)) == (
        "4 prompts of 32 tokens after 8 in the cache, continued by 16"
    )


def test_cases_of_the_same_bounds_are_one_row_with_the_shares_of_all():
    cases = judged(row(32), row(64), row(128, 1, later=None))
    cases.loc[2, "bound"] = None
    page = BeautifulSoup(headline.Verdicts(cases)._repr_html_(), "html.parser")
    rows = [[cell.text for cell in line.select("td")] for line in page.select("tbody tr")]
    assert [line[:3] for line in rows] == [
        ["starting operators, choosing", "arithmetic", "2 of 3"],
        ["–", "arithmetic", "1 of 3"],
    ]
    assert rows[0][3] == "inputs 10 % · computing 60 % · sums 20 % · choosing and starting 10 %"
    assert rows[1][3] == "–" and len(page.select("details li")) == 3


def test_the_row_of_noisy_cases_says_that_they_are_not_judged():
    cases = judged(row(32), row(64))
    cases.loc[1, ["bound", "first_bound"]] = "not judged"
    page = BeautifulSoup(headline.Verdicts(cases)._repr_html_(), "html.parser")
    rows = [[cell.text for cell in line.select("td")] for line in page.select("tbody tr")]
    assert rows[1][:3] == ["not judged", "not judged", "1 of 2"]
