"""Figures over many runs: comparable ones only, false alarms as promised, changes found."""

import json
import math
import os

import numpy as np
import pytest
from click.testing import CliRunner

from neoxlib import history
from neoxlib.__main__ import cli
from neoxlib.errors import ParameterError
from tests.support.past_runs import STEADY, write


def run(*args):
    return CliRunner().invoke(cli, ["history", *map(str, args)], catch_exceptions=False)


def test_false_discoveries_are_adjusted_as_scipy_does():
    stats = pytest.importorskip("scipy.stats")
    p = np.random.default_rng(0).random(23) ** 3
    assert history.adjust(p) == pytest.approx(stats.false_discovery_control(p).tolist())
    assert history.adjust([]) == [] and history.adjust([0.3]) == [0.3]


def test_the_scale_is_scipys_median_absolute_deviation():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).random((4, 9))
    due = stats.median_abs_deviation(values, axis=1, scale="normal")
    assert history.scaled_mad(values) == pytest.approx(due, rel=1e-4)


@pytest.mark.parametrize("count", [5, 8, 20, 50])
def test_of_unchanged_normal_figures_one_in_twenty_has_p_below_a_twentieth(count):
    draws = np.random.default_rng(7).normal(100, 3, (4000, count + 1))
    p = np.array([history.trend("x", row).p for row in draws])
    for level in (0.05, 0.01):
        spread = 4 * math.sqrt(level * (1 - level) / len(p))
        assert abs((p <= level).mean() - level) < spread, (count, level)


@pytest.mark.parametrize("count", [8, 20, 50])
def test_a_change_of_the_detectable_size_is_found_eight_times_in_ten(count):
    draws = np.random.default_rng(8).normal(100, 3, (4000, count + 1))
    sizes = [history.trend("x", row).detectable for row in draws[:500]]
    draws[:, -1] += np.mean(sizes)
    found = np.mean([history.trend("x", row).p <= history.LEVEL for row in draws])
    assert abs(found - history.POWER) < 0.03


def test_limits_are_the_median_and_three_scaled_mad():
    found = history.trend("x", [1, 2, 3, 4, 5, 9])
    assert (found.median, found.low, found.high) == pytest.approx((3, 3 - 4.4478, 3 + 4.4478))
    assert found.newest == 9 and history.spark([1, 2, 9]) == "▁▂█" and history.spark([4, 4]) == "▁▁"


def test_a_figure_that_never_moved_has_changed_as_soon_as_it_moves():
    same = history.trend("questions", [52.0] * 8)
    other = history.trend("questions", [*[52.0] * 8, 51.0])
    assert same.p == 1 and other.p == 0 and other.low == other.high == 52
    often = history.trend("x", [5, 5, 5, 5, 5, 5, 7, 6])
    assert often.p == pytest.approx(2 / 8), "one of seven was as far away"


def test_with_few_earlier_runs_nothing_is_judged(tmp_path):
    for number in range(history.LEAST):
        write(tmp_path, number, {"next_token_ms": 10 + 9 * (number == 4)})
    said = run(tmp_path).output
    assert "not judged: 4 earlier runs, 5 are needed" in said and "changed" not in said


def test_a_change_is_flagged_and_its_neighbour_is_not(tmp_path):
    for number, value in enumerate([*STEADY, 12.0]):
        write(tmp_path, number, {"next_token_ms": value, "first_token_ms": 20 - value % 1})
    rows = {line.split()[0]: line for line in run(tmp_path).output.splitlines()[2:]}
    assert "  changed  " in rows["next_token_ms"] and "+20.0%" in rows["next_token_ms"]
    assert "  no change  " in rows["first_token_ms"]
    assert run(tmp_path).output.startswith("04_profile/20260101T000010Z-abc and 10 comparable runs")


def test_only_comparable_clean_readable_runs_count_and_the_rest_is_said(tmp_path):
    for number, value in enumerate(STEADY):
        write(
            tmp_path,
            number,
            {"next_token_ms": value},
            parameters={"repeats": 6, "baseline": number},
        )
    write(tmp_path, 20, {"next_token_ms": 99.0}, status="noisy")
    write(tmp_path, 21, {"next_token_ms": 99.0}, parameters={"repeats": 7})
    write(tmp_path, 22, {"next_token_ms": 99.0}, environment={"cpu": "another"})
    (write(tmp_path, 23, {}) / "results.json").write_text("{")
    write(tmp_path, 26, {"next_token_ms": 99.0}, model={"model_dir": 5})
    pipe = write(tmp_path, 24, {}) / "results.json"
    pipe.unlink()
    os.mkfifo(pipe)
    write(tmp_path, 25, {"next_token_ms": 10.1, "text": "fast", "right": True, "none": None})
    (found,) = history.histories(tmp_path)
    assert [run.results["metrics"]["next_token_ms"] for run in found.runs] == [*STEADY, 10.1]
    assert found.left_out == {"noisy": 1, "unreadable": 3, "other model, machine or parameters": 2}
    assert [trend.metric for trend in found.trends] == ["next_token_ms"]
    assert len(history.histories(tmp_path, last=3)[0].runs) == 4


def test_one_figure_is_shown_run_by_run_with_what_lies_outside(tmp_path):
    for number, value in enumerate([*STEADY, 12.0]):
        write(tmp_path, number, {"next_token_ms": value}, started=f"day {number}")
    said = run(tmp_path, "--notebook", "04", "--metric", "next_token_ms").output
    rows = said.partition("\n\n")[2].splitlines()[1:]
    assert len(rows) == 11 and [row.endswith("outside") for row in rows] == [False] * 10 + [True]
    write(tmp_path, 0, {"accuracy": 0.5}, notebook="03_ceval")
    assert "accuracy" not in run(tmp_path, "--metric", "next_token_ms").output
    wrong = run(tmp_path, "--notebook", "04", "--metric", "next_tokn_ms")
    assert wrong.exit_code == 2 and "did you mean 'next_token_ms'?" in wrong.stderr


def test_json_has_every_number_and_no_nan(tmp_path):
    for number in range(3):
        write(tmp_path, number, {"x": 1.5})
    found = json.loads(run(tmp_path, "--json").output, parse_constant=pytest.fail)["notebooks"]
    (figure,) = found[0]["figures"]
    assert (
        figure["values"] == [1.5] * 3 and figure["p"] is None and found[0]["notebook"][:2] == "04"
    )


def test_an_unknown_notebook_and_no_runs_are_told(tmp_path):
    write(tmp_path, 0, {"x": 1}, status="failed")
    assert run(tmp_path).output.startswith("There is no finished run")
    assert run(tmp_path, "--notebook", "07").exit_code == 2
    with pytest.raises(ParameterError, match="has no runs; name their folder"):
        history.histories(tmp_path / "none")
