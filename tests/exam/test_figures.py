"""Figures of an exam say what its tables say."""

import io
import math
import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib import font_manager

from neoxlib.exam import figures
from neoxlib.exam.calibration import confidence_bins
from neoxlib.exam.data.subjects import Subject
from tests.support.exam_results import answers, yes_or_no

SCORES = pd.DataFrame(
    [
        {
            "subject": "law",
            "name": "Law",
            "class": "Humanities",
            "questions": 20,
            "accuracy": 0.4,
            "low": 0.2,
            "high": 0.6,
        },
        {
            "subject": "physics",
            "name": "Physics",
            "class": "STEM",
            "questions": 10,
            "accuracy": 0.1,
            "low": 0,
            "high": 0.4,
        },
        {
            "subject": "biology",
            "name": "Biology",
            "class": "STEM",
            "questions": 30,
            "accuracy": 0.9,
            "low": 0.7,
            "high": 1,
        },
    ]
)
SUBJECTS = {
    "law": Subject("Law", "法学", "Humanities"),
    "physics": Subject("Physics", "Physics", "STEM"),
}


@pytest.fixture
def no_chinese_font(monkeypatch):
    monkeypatch.setattr(figures, "chinese_font", lambda: None)


def labels(figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def by_subject(scores=SCORES, guessing=0.25):
    return figures.accuracy_by_subject(scores, guessing, SUBJECTS)


def test_subjects_stand_by_class_and_accuracy_with_their_interval(no_chinese_font):
    axes = by_subject().axes[0]
    assert labels(axes.figure) == ["Biology (30)", "Physics (10)", "Law (20)"]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.1, 0.4]
    spread = axes.collections[0].get_segments()
    assert [sorted(x for x, _ in ends) for ends in spread] == [
        pytest.approx(ends) for ends in ([0.7, 1.0], [0.0, 0.4], [0.2, 0.6])
    ]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("guessing", [0.25, 0.5])
def test_the_guessing_line_is_where_guessing_is(guessing):
    for figure in (by_subject(guessing=guessing), figures.accuracy_by_class(SCORES, guessing)):
        line = next(
            line for line in figure.axes[0].lines if line.get_label().startswith("guessing")
        )
        assert (
            list(line.get_xdata()) == [guessing, guessing]
            and f"{guessing:.0%}"[:-1] in line.get_label()
        )


def test_classes_carry_their_value():
    axes = figures.accuracy_by_class(SCORES.drop(columns=["name", "subject"]), 0.25).axes[0]
    assert [text.get_text() for text in axes.texts] == ["40.0%", "10.0%", "90.0%"]
    assert [bar.get_width() for bar in axes.patches] == [0.4, 0.1, 0.9]


def test_a_class_that_no_benchmark_knows_is_drawn_too():
    figure = by_subject(SCORES.assign(**{"class": "Reading"}))
    assert len(labels(figure)) == 3


def test_classes_of_ones_own_have_colours_of_their_own(no_chinese_font):
    own = SCORES.assign(**{"class": ["Art", "Nursing", "STEM"]})
    for axes in (by_subject(own).axes[0], figures.accuracy_by_class(own, 0.25).axes[0]):
        assert len({bar.get_facecolor() for bar in axes.patches}) == 3
    legend = by_subject(own).legends[0]
    colours = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=False)
    }
    bars = by_subject(own).axes[0].patches
    assert [colours[name] for name in ("STEM", "Art", "Nursing")] == [
        bar.get_facecolor() for bar in bars
    ]


def test_a_dollar_in_the_name_of_a_class_is_a_dollar(no_chinese_font):
    own = SCORES.assign(**{"class": ["$\\bad$", "a $ b $", "_c"]})
    for figure in (by_subject(own), figures.accuracy_by_class(own, 0.25)):
        figure.savefig(io.BytesIO(), format="svg")
    assert {text.get_text() for text in by_subject(own).legends[0].get_texts()} > set(own["class"])


def test_a_split_without_answers_is_drawn_as_such():
    empty = SCORES.assign(accuracy=math.nan, low=math.nan, high=math.nan)
    for figure in (by_subject(empty), figures.accuracy_by_class(empty, 0.25)):
        figure.canvas.draw()
        assert [text.get_text() for text in figure.axes[0].texts] == ["no answers in this split"]


def test_chinese_names_are_drawn_where_a_font_has_them_and_left_out_where_none_has(monkeypatch):
    if figures.chinese_font() is None:
        pytest.skip("this machine has no font with Chinese characters that matplotlib finds")
    assert labels(by_subject()) == ["Biology (30)", "Physics (10)", "Law 法学 (20)"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has warns
        by_subject().canvas.draw()
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    figures.chinese_font.cache_clear()
    assert labels(by_subject()) == ["Biology (30)", "Physics (10)", "Law (20)"]
    monkeypatch.undo()
    figures.chinese_font.cache_clear()


def test_a_dollar_in_a_name_is_a_dollar(no_chinese_font):
    odd = SCORES.assign(name="a $\\frac{ <b>$", **{"class": "c $\\frac{ <i>$"})
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        by_subject(odd).savefig(buffer, format="svg")
    assert "a $\\frac{ &lt;b&gt;$ (20)" in buffer.getvalue()
    assert "c $\\frac{ &lt;i&gt;$" in buffer.getvalue()


def test_reliability_draws_accuracy_over_confidence_and_counts_the_questions():
    upper, lower = figures.reliability(confidence_bins(yes_or_no())).axes
    points = upper.containers[0].lines[0]
    assert list(zip(*points.get_data(), strict=True)) == [(0.55, 1), (0.75, 1), (0.95, 0)]
    assert [bar.get_height() for bar in lower.patches] == [1, 1, 1] and [
        t.get_text() for t in lower.texts
    ] == ["1"] * 3
    diagonal = next(line for line in upper.lines if line.get_label() == "as right as it is sure")
    assert list(zip(*diagonal.get_data(), strict=True)) == [(0, 0), (1, 1)]


def test_reliability_without_questions_says_so():
    figure = figures.reliability(confidence_bins(answers(labelled=False)))
    figure.canvas.draw()
    assert "no probabilities" in figure.axes[0].texts[0].get_text()
