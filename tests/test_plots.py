"""Figures say what their tables say."""

import math

import pandas as pd
import pytest

from neoxlib import plots

SCORES = pd.DataFrame([
    {"name": "Law", "class": "Humanities", "questions": 20, "accuracy": 0.4, "low": 0.2, "high": 0.6},
    {"name": "Physics", "class": "STEM", "questions": 10, "accuracy": 0.1, "low": 0.0, "high": 0.4},
    {"name": "Biology", "class": "STEM", "questions": 30, "accuracy": 0.9, "low": 0.7, "high": 1.0},
])


def test_subjects_stand_by_class_and_accuracy_with_interval_and_guessing_line():
    axes = plots.accuracy_by_subject(SCORES).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Biology (30)", "Physics (10)", "Law (20)"]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.1, 0.4]
    spread = axes.collections[0].get_segments()
    assert [sorted(x for x, _ in ends) for ends in spread] == [
        pytest.approx(ends) for ends in ([0.7, 1.0], [0.0, 0.4], [0.2, 0.6])
    ]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_label().startswith("guessing")] == [[0.25, 0.25]]
    assert axes.yaxis_inverted()


def test_classes_carry_their_value():
    axes = plots.accuracy_by_class(SCORES.drop(columns="name")).axes[0]
    assert [text.get_text() for text in axes.texts] == ["40.0%", "10.0%", "90.0%"]
    assert [bar.get_width() for bar in axes.patches] == [0.4, 0.1, 0.9]


def test_a_split_without_answers_is_drawn_as_such():
    empty = SCORES.assign(accuracy=math.nan, low=math.nan, high=math.nan)
    for draw in (plots.accuracy_by_subject, plots.accuracy_by_class):
        figure = draw(empty)
        figure.canvas.draw()
        assert [text.get_text() for text in figure.axes[0].texts] == ["no answers in this split"]
