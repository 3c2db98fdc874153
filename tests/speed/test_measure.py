"""Rows, medians and order, on clocks made up so that every figure is known."""

import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from neoxlib.errors import SettingsError
from neoxlib.inference.timing import Case
from neoxlib.machine.limits import Memory
from neoxlib.speed import measure
from neoxlib.speed.measure import COLUMNS
from tests.support.timed_cases import clocks

CONFIG = SimpleNamespace(num_hidden_layers=2, hidden_size=8)
ABOUT = {"model_dir": "m", "device": "cpu", "dtype": "float32"}


class Clockwork:
    """An engine that takes, for a case of n tokens, 100 ms for the first and 10 ms for each later
    one.
    """

    config = CONFIG

    def __init__(self, **about: Any) -> None:
        self.about = ABOUT | about
        self.asked = []

    def describe(self) -> dict[str, Any]:
        return self.about

    def profile(self, case: Case) -> list[dict[str, list[float]]]:
        self.asked.append(case)
        return [clocks(100, *[10] * (case.output_len - 1))] * case.repeats


class Notes:
    """The values that a run keeps, by name."""

    def __init__(self) -> None:
        self.kept = {}

    def save(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        self.kept[name] = table
        return table

    def text(self, name: str, text: str) -> None:
        self.kept[name] = text

    def metrics(self, **values: Any) -> None:
        self.kept |= values

    def noisy(self, why: str) -> None:
        self.kept["noisy"] = why


class Loads:
    """A machine whose other load is, case after case, what a test says; then it is quiet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *others: float) -> None:
        self.others = list(others)
        monkeypatch.setattr(measure.watch, "LoadWatch", lambda pids: self)

    def __enter__(self) -> "Loads":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def row(self) -> dict[str, float]:
        others = self.others.pop(0) if self.others else 0.0
        return {"others_cores": others, "stolen_cores": 0.0, "cores": 2}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what else this machine does."""
    Loads(monkeypatch)


def test_a_row_is_medians_with_their_interval_and_percentiles_over_all_steps():
    row = measure.summarise(
        Case(4, 16, 3), [clocks(94, 10, 20), clocks(114, 11, 19), clocks(104, 12, 60)]
    )
    assert [row[f"first_token_ms{end}"] for end in ("", "_low", "_high", "_p50")] == [
        110,
        100,
        120,
        110,
    ]
    assert [row[f"next_token_ms{end}"] for end in ("", "_low", "_high")] == [21, 21, 42], (
        "of 21, 21 and 42"
    )
    assert [row[f"next_token_ms_{end}"] for end in ("p50", "p90", "p99")] == [21.5, 66, 66]
    assert (row["next_forward_ms"], row["next_communication_ms"], row["first_forward_ms"]) == (
        15.5,
        2,
        106,
    )
    assert (
        row["total_ms"] == 120 + 17 + 25
        and row["tokens_per_second"] == 1e3 * 4 * 3 / row["total_ms"]
    )
    assert (row["repeats"], row["warmups"], row["warmup_s"], row["text_ms"]) == (3, 2, 0.5, 500)


def test_one_token_has_no_next_token_time():
    row = measure.summarise(Case(1, 16, 1), [clocks(94)])
    assert row["first_token_ms"] == 100 and all(
        row[name] is None for name in COLUMNS if name.startswith("next_")
    )


def test_the_end_to_end_clock_and_an_npus_own_are_apart_from_the_steps():
    runs = [clocks(94, 10, device=[90, 8], end_to_end=[105.0]), clocks(94, 10, device=[92, 9])]
    row = measure.summarise(Case(1, 16, 2), runs)
    assert (row["end_to_end_ms"], row["first_device_ms"], row["next_device_ms"]) == (105, 91, 8.5)
    assert measure.summarise(Case(1, 16, 2), [clocks(94, 10)])["end_to_end_ms"] is None


def test_a_step_far_from_its_kind_is_counted_and_stays_in_the_row():
    steady = [clocks(100, *[10, 10.1, 9.9] * 10) for _ in range(5)]
    assert measure.summarise(Case(1, 8, 31), steady)["outliers"] == 0
    row = measure.summarise(Case(1, 8, 31), [*steady, clocks(300, *[10] * 29, 50)])
    assert row["outliers"] == 2 and row["first_token_ms_high"] == 306 and row["repeats"] == 6


def test_the_slowest_rank_is_that_of_most_next_steps():
    runs = [
        clocks(94, 10, 10, slowest=1),
        clocks(94, 10, 10, slowest=1),
        clocks(94, 10, 10, slowest=0),
    ]
    assert measure.summarise(Case(1, 8, 3), runs)["slowest_rank"] == 1


def test_rows_have_the_columns_that_are_explained_and_each_ranks_memory():
    (row,) = measure.time_cases(Clockwork(), [Case(1, 8, 2)], Notes()).to_dict("records")
    assert set(row) == set(COLUMNS) | {"rank0_rss_peak_mb"}
    assert row["rank_rss_peak_mb"] == row["rank0_rss_peak_mb"] > 10
    assert row["device_peak_mb"] is None or math.isnan(row["device_peak_mb"])


def test_the_order_is_shuffled_by_the_seed_and_the_table_is_not():
    cases = [Case(1, length, 2) for length in range(1, 30)]
    orders = []
    for seed in (0, 0, 1):
        engine = Clockwork()
        table = measure.time_cases(engine, cases, Notes(), seed)
        assert table["input_len"].tolist() == list(range(1, 30))
        orders.append([case.input_len for case in engine.asked[:-1]])
    assert (
        orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(1, 30)) != orders[0]
    )


def test_rows_are_kept_as_soon_as_they_are_measured():
    class Breaks(Clockwork):
        def profile(self, case: Case) -> list:
            if len(self.asked) == 2:
                raise RuntimeError("card lost")
            return super().profile(case)

    notes = Notes()
    with pytest.raises(RuntimeError):
        measure.time_cases(Breaks(), [Case(1, 8, n) for n in (2, 3, 4)], notes)
    assert set(notes.kept) == {
        "latency",
        "latency.json",
        "latency.md",
        "performance_test_cpu_m_bs1",
    }
    assert len(notes.kept["latency"]) == len(notes.kept["performance_test_cpu_m_bs1"]) == 2


def test_what_memory_cannot_hold_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(measure.limits, "memory", lambda: Memory(10**9, 10**6))
    engine = Clockwork()
    token = 2 * 2 * 8 * 4  # keys and values, layers, hidden, bytes
    fits = 10**6 // token
    with pytest.raises(SettingsError, match=r"batch 1, 1 in, 7812 out needs 0\.00 GB"):
        measure.time_cases(engine, [Case(1, 8, 2), Case(1, 1, fits)], Notes())
    assert not engine.asked
    measure.time_cases(Clockwork(dtype="bfloat16"), [Case(1, 1, fits)], Notes())
    measure.time_cases(Clockwork(device="npu:0"), [Case(1, 1, fits)], Notes())


def test_timings_are_said_where_the_guides_switch_is_set(monkeypatch, capsys):
    monkeypatch.delenv("TIMEIT", raising=False)
    measure.time_cases(Clockwork(), [Case(1, 8, 2)], Notes())
    assert "first" not in capsys.readouterr().out
    monkeypatch.setenv("TIMEIT", "1")
    measure.time_cases(Clockwork(), [Case(1, 8, 2)], Notes())
    assert capsys.readouterr().out.startswith(
        "batch 1, 8 in, 2 out: first 106.00 ms, next 16.00 ms "
        "(pre 1.00, forward 10.00, communication 2.00, post 3.00), 16 tokens/s\n"
    )


class Restless(Clockwork):
    """An engine whose first tokens differ much in the first six runs, and never again."""

    def profile(self, case: Case) -> list[dict[str, list[float]]]:
        found = super().profile(case)
        if len(self.asked) > 1:
            return found
        return [clocks(first, 10) for first in (100, 150, 100, 150, 100, 150)]


@pytest.mark.parametrize(("most", "times"), [(0.0, 1), (60.0, 3)])
def test_a_case_is_repeated_until_its_intervals_are_narrow_or_its_time_is_over(most, times):
    engine = Restless()
    # 3 of 12 times lie past the interval's end, which is the third largest; of 18 it is the fifth
    found = measure.time_cases(engine, [Case(1, 8, 2, repeats=6)], Notes(), max_seconds=most)
    assert len(engine.asked) == times + 1, "once more at the end: drift"
    assert found["repeats"].tolist() == [6 * times]
    assert (found["noise"].iloc[0] == "") == (most > 0)


def test_what_capturing_decode_took_is_recorded_where_it_was_captured():
    captured = Clockwork(graph="one graph per batch size")
    captured.graph_use = {"captured": 2, "capture_s": 0.5}
    for engine, told in ((captured, True), (Clockwork(graph="off: asked for"), False)):
        notes = Notes()
        measure.time_cases(engine, [Case(1, 2, 3)], notes)
        assert (notes.kept.get("decode_graph_capture_s") == 0.5) == told


@pytest.mark.parametrize("retry", [0, 1, 2])
def test_noisy_cases_are_measured_again_at_the_end_and_the_least_loaded_take_is_kept(
    retry, monkeypatch
):
    Loads(monkeypatch, 0.0, 0.9, 0.5, 0.7, 0.8)
    engine = Clockwork(threads=1, world_size=2)
    notes = Notes()
    cases = [Case(1, 8, 2), Case(1, 16, 2), Case(1, 32, 2)]
    table = measure.time_cases(engine, cases, notes, retry_noisy=retry)
    first = engine.asked[:3]
    assert engine.asked == [*first, *first[1:] * retry, first[0]], "the first once more: drift"
    found = table.set_index("input_len").loc[[case.input_len for case in first]]
    kept = {0: [0.0, 0.9, 0.5], 1: [0.0, 0.7, 0.5], 2: [0.0, 0.0, 0.0]}[retry]
    assert found["others_cores"].tolist() == kept
    assert found["takes"].tolist() == [1, *[1 + retry] * 2]
    assert (found["noise"] != "").tolist() == [False, *[retry < 2] * 2]
    assert notes.kept["latency"].equals(table)


def test_a_noisy_run_is_called_so_with_figures_and_a_clean_one_is_not(monkeypatch):
    notes = Notes()
    cases = [Case(1, 8, 2), Case(1, 16, 2)]
    measure.time_cases(Clockwork(), cases, notes, retry_noisy=1)
    assert "noisy" not in notes.kept
    Loads(monkeypatch, 0.9)
    measure.time_cases(Clockwork(threads=1, world_size=2), cases, notes)
    said = "other processes used 0.9 of 2 cores while 1 of 2 cases were measured"
    assert notes.kept["noisy"] == said


def test_known_rows_are_taken_over_and_not_measured():
    engine = Clockwork()
    cases = [Case(1, 8, 2), Case(1, 16, 2), Case(1, 32, 2)]
    (old,) = measure.time_cases(Clockwork(), [cases[1]], Notes()).to_dict("records")
    known = {1: old | {"from_run": "a", "first_token_ms": 7.0}}
    table = measure.time_cases(engine, cases, Notes(), known=known)
    assert {case.input_len for case in engine.asked} == {8, 32} and len(engine.asked) == 3
    assert table["from_run"].tolist() == ["", "a", ""] and table["first_token_ms"].iloc[1] == 7.0
    everything = dict(enumerate(table.to_dict("records")))
    again = measure.time_cases(engine, cases, Notes(), known=everything)
    assert len(engine.asked) == 3 and again["input_len"].tolist() == [8, 16, 32]


def test_a_machine_that_gets_slower_during_a_run_is_noticed_by_its_first_case():
    class Slower(Clockwork):
        def profile(self, case: Case) -> list[dict[str, list[float]]]:
            self.asked.append(case)
            later = 10 * 1.1 ** len(self.asked)
            return [clocks(100, *[later] * (case.output_len - 1))] * case.repeats

    notes = Notes()
    table = measure.time_cases(Slower(), [Case(1, 8, 2), Case(1, 16, 2), Case(1, 16, 4)], notes)
    drift = (10 * 1.1**4 + 6) / (10 * 1.1 + 6) - 1
    assert table["drift"].tolist() == pytest.approx([drift] * 3)
    said = "the first case took 21% longer at the end than at the start"
    assert notes.kept["noisy"].endswith(said)
    steady = measure.time_cases(Clockwork(), [Case(1, 8, 1)], Notes())
    assert steady["drift"].tolist() == [0.0]
