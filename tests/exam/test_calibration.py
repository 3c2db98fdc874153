"""Confidence against accuracy, by numbers worked out by hand."""

import math

import pandas as pd
import pytest

from neoxlib.exam.calibration import (
    calibration_sentence,
    confidence_bins,
    expected_calibration_error,
)
from neoxlib.exam.scores import wilson
from tests.support.exam_results import answers, yes_or_no


def test_a_bin_holds_its_questions_mean_confidence_and_accuracy():
    table = confidence_bins(yes_or_no())
    assert table["questions"].tolist() == [1, 1, 1]
    assert table["from"].tolist() == [0.5, 0.7, 0.9] and table["to"].tolist() == [0.6, 0.8, 1.0]
    assert table["confidence"].tolist() == [0.55, 0.75, 0.95]
    assert table["accuracy"].tolist() == [1, 1, 0]
    assert (table["low"].iloc[0], table["high"].iloc[0]) == wilson(1.0, 1)
    assert expected_calibration_error(table) == pytest.approx((0.45 + 0.25 + 0.95) / 3)


def test_questions_that_were_not_asked_have_no_confidence():
    table = confidence_bins(answers())
    assert table["questions"].tolist() == [4] and table["accuracy"].tolist() == [0.75]
    assert expected_calibration_error(table) == pytest.approx(0.35)


@pytest.mark.parametrize(("share", "low"), [(0.5, 0.4), (0.51, 0.5), (1.0, 0.9), (0.0, 0.0)])
def test_a_bin_holds_its_upper_end(share, low):
    table = pd.DataFrame({"p_no": [share], "p_yes": [0.0], "correct": [True], "expected": ["no"]})
    assert confidence_bins(table)["from"].tolist() == [low]


def test_a_model_as_right_as_it_is_sure_has_no_error():
    rows = pd.DataFrame(
        {
            "p_A": [0.75] * 4,
            "p_B": [0.25] * 4,
            "correct": [True] * 3 + [False],
            "expected": ["A"] * 4,
        }
    )
    table = confidence_bins(rows)
    assert expected_calibration_error(table) == 0
    assert "over 4 questions" in calibration_sentence(
        table
    ).lower() and "error 0.000" in calibration_sentence(table)


def test_without_answers_or_probabilities_there_is_nothing_to_compare():
    generated = answers().assign(**dict.fromkeys(("p_A", "p_B", "p_C", "p_D"), math.nan))
    for results in (answers(labelled=False), generated):
        table = confidence_bins(results)
        assert table.empty and math.isnan(expected_calibration_error(table))
        assert calibration_sentence(table).startswith("Nothing to calibrate")
