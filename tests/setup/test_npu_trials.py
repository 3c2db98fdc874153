"""One answer: what is no number fails, and a verdict keeps its figures."""

import json
from dataclasses import asdict

import pytest
import torch

from neoxlib.setup.npu_trials import Trial
from neoxlib.setup.thresholds import judge


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 0.2])
def test_an_error_that_is_large_or_no_number_fails(error):
    trial = Trial.judged("x", "float16", error, 0.1, "", "")
    assert not trial.passed and json.dumps(trial.error, allow_nan=False)


def test_a_warning_passes_and_is_told_and_its_figures_are_kept():
    truth = torch.linspace(1, 2, 1000)
    trial = Trial.by_thresholds("x", "bfloat16", judge(truth * 1.002, truth, "bfloat16"), "op")
    assert trial.passed and trial.detail.startswith("op; warning: 100.0% of the values")
    assert json.loads(json.dumps(asdict(trial), allow_nan=False))["figures"] == trial.figures
