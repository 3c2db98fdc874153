"""The bars of an answer's time: the shares of its steps' own clocks, in a report as well."""

import math
import re
from statistics import median

import pytest
from bs4 import BeautifulSoup

import neoxlib
from neoxlib.ranks.time_bars import UNPARTED, TimeBars
from neoxlib.workbook import markup
from tests.support.dangers import dangers, text_of

STEPS = [(1.0, 30.0, 8.0, 1.0), (0.1, 2.0, 0.8, 0.1), (0.1, 3.0, 0.8, 0.1)]


def test_the_bars_have_the_shares_and_the_median_of_the_answers_own_timings(checkpoint):
    with neoxlib.load(checkpoint) as engine:
        answer = engine.generate(["a b c"], max_new_tokens=6)[0]
    first, later = TimeBars.of(answer).rows()
    t = answer.timings
    assert first.ms == t.first_token_ms and later.ms == median(t.step_ms[1:])
    assert later.shares["forward"] == pytest.approx(sum(t.forward_ms[1:]) / sum(t.step_ms[1:]))
    assert sum(later.shares.values()) == pytest.approx(1) == sum(first.shares.values())


def test_each_part_is_as_wide_as_its_share_and_named_with_it():
    html = TimeBars(STEPS)._repr_html_()
    assert "first token 40.0 ms" in " ".join(text_of(html).split())
    assert "computing 75%" in text_of(html) and "each of 2 next" in text_of(html)
    widths = re.findall(r"width:([\d.]+)%;height:1em", html)
    assert [float(width) for width in widths[:4]] == [2.5, 75.0, 20.0, 2.5]
    assert repr(TimeBars(STEPS)).splitlines()[0] == (
        "first token 40.0 ms: building the inputs 2%, computing 75%, sums between ranks 20%, "
        "choosing the token 2%"
    )


def test_a_report_keeps_the_bars():
    made = BeautifulSoup(TimeBars(STEPS)._repr_html_(), "html.parser")
    kept = BeautifulSoup(markup.clean(str(made)), "html.parser")
    assert dangers(str(made)) == [] and len(kept.find_all("span")) == len(made.find_all("span"))
    widths = [re.findall(r"width:\s*([\d.]+%)", str(soup)) for soup in (made, kept)]
    made_widths, kept_widths = ([float(width[:-1]) for width in each] for each in widths)
    assert made_widths == kept_widths != []


def test_a_step_that_is_timed_as_a_whole_has_two_parts():
    row = TimeBars([(1.0, 9.0, math.nan, math.nan)]).rows()[0]
    assert row.told() == f"first token 10.0 ms: building the inputs 10%, {UNPARTED} 90%"


def test_without_times_there_are_no_parts():
    assert TimeBars([]).rows() == [] and "div" in TimeBars([])._repr_html_()
    assert repr(TimeBars([(math.nan,) * 4])) == "first token: not timed"
