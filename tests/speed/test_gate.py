"""The tests behind the gate keep their level and find what they promise."""

import itertools
import math

import numpy as np
import pytest

from neoxlib.speed import gate


def test_students_tail_is_that_of_the_tables():
    """One-sided 5 % and 0.1 % points of a printed table (Abramowitz and Stegun, 26.10)."""
    for freedom, five, tenth in ((1, 6.314, 318.309), (2, 2.92, 22.327), (5, 2.015, 5.893),
                                 (10, 1.812, 4.144), (30, 1.697, 3.385)):  # fmt: skip
        assert gate.student_tail(five, freedom) == pytest.approx(0.05, rel=2e-3)
        assert gate.student_tail(tenth, freedom) == pytest.approx(0.001, rel=2e-3)
    assert gate.student_tail(-2.015, 5) == pytest.approx(0.95, rel=1e-3)
    assert gate.student_tail(3.0, math.inf) == pytest.approx(0.00135, rel=1e-3)


def test_holms_values_are_those_of_its_definition():
    """Times the number that is left, in order, and never falling."""
    assert gate.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert gate.holm([0.9, 0.5]) == [1.0, 1.0] and gate.holm([]) == []


def brute_force(logs: np.ndarray) -> list[float]:
    """Westfall and Young's step-down maxT of signed ranks, as its definition says it."""
    rounds, columns = logs.shape
    ranks = np.array([[sorted(abs(logs[:, c])).index(abs(x)) + 1 for x in logs[:, c]]
                      for c in range(columns)])  # fmt: skip
    signed = np.sign(logs.T) * ranks
    seen = signed.sum(axis=1)
    order = sorted(range(columns), key=lambda c: -seen[c])
    found, worst = {}, 0.0
    for step, c in enumerate(order):
        ways = list(itertools.product((1, -1), repeat=rounds))
        hits = sum(max((signed[d] * way).sum() for d in order[step:]) >= seen[c] for way in ways)
        worst = max(worst, hits / len(ways))
        found[c] = worst
    return [found[c] for c in range(columns)]


def test_values_in_turns_are_those_of_all_ways_to_swap_the_sides():
    logs = np.random.default_rng(0).normal(0.3, 1, (6, 3))
    assert gate.in_turns(logs, 0.0).p_values == pytest.approx(brute_force(logs))
    alone = gate.in_turns(logs[:, :1], 0.0)
    assert alone.p_values == pytest.approx([alone.p_all])


def test_a_slowdown_in_every_round_is_significant_from_9_rounds_on():
    for rounds in (8, 9, 17):
        logs = np.linspace(0.04, 0.06, rounds)[:, None].repeat(2, axis=1)
        found = gate.in_turns(logs, 0.0)
        assert found.all_slower is (rounds >= gate.LEAST_ROUNDS == 9)
        assert not gate.in_turns(logs, 0.1).all_slower and not gate.in_turns(-logs, 0.0).all_slower


def test_one_slow_case_is_named_and_no_other():
    draws = np.random.default_rng(1)
    logs = draws.normal(0, 0.01, (16, 10))
    logs[:, 3] += math.log(1.05)
    found = gate.in_turns(logs, 0.0)
    assert [place for place, slow in enumerate(found.slower) if slow] == [3]
    assert not found.all_slower


@pytest.mark.parametrize("noise", ["normal", "heavy", "bursts shared by all cases"])
def test_without_a_slowdown_hardly_any_comparison_in_turns_alarms(noise):
    draws = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        logs = draws.normal(0, 0.03, (10, 6))
        if noise == "heavy":
            logs = 0.02 * draws.standard_t(1.5, (10, 6))
        if noise.startswith("bursts"):
            logs += draws.choice([-1, 1], (10, 1)) * draws.exponential(0.2, (10, 1))
        found = gate.in_turns(logs, 0.0)
        alarms += found.all_slower or any(found.slower)
    assert alarms <= 6, "at a level of 0.5 %, 7 of 300 come by chance in 1 of 1000 tries"


@pytest.mark.parametrize("rounds", [9, 16])
@pytest.mark.parametrize("noise", ["normal", "heavy", "bursts"])
def test_what_is_called_detectable_is_found_so_often(noise, rounds):
    draws = np.random.default_rng(3)

    def logs() -> np.ndarray:
        if noise == "heavy":
            return 0.02 * draws.standard_t(2, (rounds, 1))
        burst = 0.3 * draws.choice([-1, 0, 1], (rounds, 1), p=[0.1, 0.8, 0.1])
        return draws.normal(0, 0.03, (rounds, 1)) + burst * (noise == "bursts")

    seen = [gate.in_turns(logs(), 0.0).detectable for _ in range(40)]
    slowdown = math.log1p(float(np.median(seen)))
    found = [gate.in_turns(logs() + slowdown, 0.0) for _ in range(100)]
    assert sum(one.all_slower for one in found) >= (70 if noise == "heavy" else 85)


def test_a_slowdown_that_is_surely_found_is_called_detectable():
    logs = np.random.default_rng(4).normal(0, 0.01, (16, 2))
    found = gate.in_turns(logs, 0.0)
    assert gate.in_turns(logs + math.log1p(2 * found.detectable), 0.0).all_slower
    assert found.detectable < 0.02 < gate.in_turns(3 * logs, 0.0).detectable
    assert gate.in_turns(logs, 0.1).detectable == pytest.approx(1.1 * (1 + found.detectable) - 1)
    assert math.isinf(gate.in_turns(logs[:8], 0.0).detectable)


def test_two_runs_differ_by_more_than_their_intervals_say():
    ends = [(1.05, 1.06), (0.995, 1.005)]
    found = gate.Compared.of((1.055, 1.0), ends, (30, 30))
    assert found.sd > gate.BETWEEN_RUNS["own"] and found.freedom > 100
    unseen = gate.Compared.of((1.2, 1.0), ends, (30, 30), machine="virtual")
    assert unseen.p_slower(0.0) > 0.01 and unseen.detectable(0.0, 1) > found.detectable(0.0, 1)
    assert found.p_slower(0.0) > 0.01 > gate.Compared.of((1.2, 1.0), ends, (30, 30)).p_slower(0.0)
    assert found.detectable(0.1, 50) > found.detectable(0.1, 1) > 0.1
