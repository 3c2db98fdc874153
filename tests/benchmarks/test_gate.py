"""The gate over simulated and recorded noise: the fast part of `make gate-table`."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import gate


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer comparisons than the table rests on."""
    monkeypatch.setattr(gate, "TRIES", 150)
    monkeypatch.setattr(gate, "POWER_TRIES", 40)


@pytest.mark.parametrize("name", gate.SIMULATED)
def test_in_12_turns_hardly_any_comparison_alarms_and_5_percent_are_found(name):
    make = gate.turns_simulated(gate.SIMULATED[name], 12)
    rng = np.random.default_rng(5)
    nothing = gate.shares(gate.judge_turns(make(rng)) for _ in range(gate.TRIES))
    assert nothing.failed <= 4 / 150, "at 0.5 %, 5 of 150 come by chance in 1 of 1000 tries"
    assert gate.found(make, gate.judge_turns, 0.05) >= 0.9


@pytest.mark.parametrize("name", gate.SIMULATED)
def test_two_runs_hardly_ever_alarm_and_find_30_percent_where_they_are_steady(name):
    make = gate.two_runs(gate.SIMULATED[name])
    rng = np.random.default_rng(6)
    nothing = gate.shares(gate.judge_runs(make(rng), 0.0) for _ in range(gate.TRIES))
    assert nothing.failed <= 4 / 150
    if not name.startswith(("drift", "bursts")):
        assert gate.found(make, lambda logs: gate.judge_runs(logs, 0.1), 0.3) >= 0.9


def test_recorded_noise_is_there_and_alarms_hardly_ever():
    assert "recorded: takes, busy" in gate.worlds()
    for draw, table in gate.worlds().values():
        if draw is None:
            rng = np.random.default_rng(7)
            for make, judge in (
                (gate.turns_recorded(table, 12), gate.judge_turns),
                (gate.two_recorded(table), lambda logs: gate.judge_runs(logs, 0.0, "virtual")),
            ):
                assert gate.shares(judge(make(rng)) for _ in range(gate.TRIES)).failed <= 4 / 150


@pytest.mark.parametrize("name", gate.recorded_rounds())
def test_recorded_rounds_of_a_commit_against_itself_alarm_hardly_ever(name):
    make = gate.turns_again(gate.recorded_rounds()[name], 12)
    rng = np.random.default_rng(8)
    assert gate.shares(gate.judge_turns(make(rng)) for _ in range(gate.TRIES)).failed <= 4 / 150


def test_a_planted_slowdown_is_in_this_side_alone():
    logs = np.zeros((2, 3, 4))
    assert np.expm1(gate.planted(logs, 0.05)[0]) == pytest.approx(np.full((3, 4), 0.05))
    assert not gate.planted(logs, 0.05)[1].any() and not logs.any()
    one = gate.planted(np.zeros((5, 3)), 0.05, one=True)
    assert one[:, 0].all() and not one[:, 1:].any()


def test_recorded_sides_are_of_two_processes():
    table = pd.DataFrame(
        {"process": np.repeat([0, 1], 12), "first_token_ms": np.repeat([1, 2], 12)}
    )
    logs = gate.turns_recorded(table.assign(next_token_ms=1.0), 9)(np.random.default_rng(0))
    assert logs.shape == (9, gate.CASES) and set(np.abs(logs).round(3).ravel()) == {0.0, 0.693}
