"""Cases, medians and the vendor's table, on clocks made up so that every figure is known."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from neoxlib import bench
from neoxlib.engine import Case
from neoxlib.errors import DataError, SettingsError


def clocks(first: float, *later: float) -> dict[str, list[float]]:
    """A repeat whose steps take these forward times, and 1 + 2 + 3 ms for pre, communication and post."""
    steps = [first, *later]
    return {"pre": [1.0] * len(steps), "forward": steps, "communication": [2.0] * len(steps),
            "post": [3.0] * len(steps), "text": [500.0]}  # fmt: skip


class Clockwork:
    """An engine that takes, for a case of n tokens, 100 ms for the first and 10 ms for each later one."""

    def profile(self, case: Case) -> list[dict[str, list[float]]]:
        return [clocks(100, *[10] * (case.output_len - 1))] * case.repeats


class Notes:
    """What a run keeps: tables by name, checks by name."""

    def __init__(self) -> None:
        self.tables, self.checks = {}, {}

    def save(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        self.tables[name] = table
        return table

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.checks[name] = passed


def test_the_grid_is_the_vendors_input_lengths_first():
    cases = bench.grid(None, 5, 10, 2, 2048)
    assert len(cases) == 36
    assert [(c.input_len, c.output_len) for c in cases[:7]] == [(32, 2**j) for j in range(5, 11)] + [(64, 32)]
    assert bench.grid([[3, 4]], 5, 10, 2, 2048) == [Case(2, 3, 4)]


def test_every_case_past_the_window_is_named():
    with pytest.raises(SettingsError, match=r"max_seq_len 100: 64\+64, 99\+2;"):
        bench.grid([[64, 64], [50, 50], [99, 2]], 1, 1, 1, 100)


def test_a_row_is_medians_with_their_range():
    row = bench.summarise(Case(4, 16, 3), [clocks(94, 10, 20), clocks(114, 11, 19), clocks(104, 12, 60)])
    assert (row["first_token_ms"], row["first_token_min_ms"], row["first_token_max_ms"]) == (110, 100, 120)
    assert (row["next_token_ms"], row["next_token_min_ms"], row["next_token_max_ms"]) == (21.5, 16, 66)
    assert (row["next_forward_ms"], row["next_communication_ms"], row["first_forward_ms"]) == (15.5, 2, 106)
    assert row["tokens_per_second"] == 1e3 * 4 * 3 / row["total_ms"]


def test_one_token_has_no_next_token_time():
    row = bench.summarise(Case(1, 16, 1), [clocks(94)])
    assert row["next_token_ms"] is None and row["first_token_ms"] == 100


def test_rows_are_kept_as_soon_as_they_are_measured():
    class Breaks(Clockwork):
        def profile(self, case: Case) -> list:
            if case.output_len == 3:
                raise RuntimeError("card lost")
            return super().profile(case)

    notes = Notes()
    with pytest.raises(RuntimeError):
        bench.measure(Breaks(), [Case(1, 8, 2), Case(1, 8, 3)], notes, report=lambda line: None)
    assert notes.tables["latency"]["output_len"].tolist() == [2]


def test_an_npus_own_count_and_the_fullest_ranks_memory_are_in_the_row():
    runs = [clocks(94, 10, 20) | {"device": [90.0, first, 12.0], "peak_mb": [first]} for first in (8.0, 9.0)]
    row = bench.summarise(Case(1, 16, 3), runs)
    assert (row["first_device_ms"], row["next_device_ms"], row["peak_mb"]) == (90, 10.5, 9)
    assert "next_device_ms" not in bench.summarise(Case(1, 16, 3), [clocks(94, 10, 20)])


def test_a_trace_is_taken_of_the_first_case_only_where_it_is_wanted(tmp_path):
    asked = []
    engine = SimpleNamespace(trace=lambda case, folder: asked.append((case, folder)) or str(folder))
    cases, run = [Case(2, 8, 4), Case(2, 8, 8)], SimpleNamespace(folder=tmp_path)
    assert bench.trace(engine, cases, run, False) == "No trace was asked for." and not asked
    assert bench.trace(engine, cases, run, True) == f"Traces of batch 2, 8 in, 4 out: {tmp_path / 'trace'}"
    assert asked == [(cases[0], tmp_path / "trace")]


def test_the_vendors_csv_has_its_eight_columns_and_meanings(tmp_path):
    table = bench.measure(Clockwork(), [Case(2, 256, 64)], Notes(), report=lambda line: None)
    bench.vendor_table(table).to_csv(tmp_path / "x.csv", index=False)
    header, values = (tmp_path / "x.csv").read_text().splitlines()
    assert header == (
        "batch_size,input_seq_len(Encoding),output_seq_len(Decoding),ResponseTime(s),forward_first_token_time(ms),"
        "forward_next_token_time(ms),pre_next_token_time(ms),post_next_token_time_post(ms)"
    )
    total = (106 + 63 * 16 + 500) / 1000
    assert [float(v) for v in values.split(",")] == [2, 256, 64, round(total, 2), 106, 16, 0, 0]
    detail = bench.vendor_table(table, perf_mode="detail", skip_decode=True).iloc[0].tolist()
    assert detail == [2, 256, 64, round(total - 0.5, 2), 102, 12, 1, 3]


def test_the_vendors_file_name_says_model_device_and_batch():
    about = {"model_dir": "/models/gpt-neox-20b", "device": "npu:0"}
    assert bench.vendor_name(about, 8) == "performance_test_gpt-neox-20b_npu_bs8"


def earlier_run(folder: Path, table: pd.DataFrame, notebook: str = "04_profile") -> Path:
    table.to_csv(folder / "latency.csv", index=False)
    (folder / "results.json").write_text(json.dumps({"notebook": notebook}))
    return folder / "results.json"


def test_only_ranges_apart_are_called_faster_or_slower(tmp_path):
    before = pd.DataFrame([
        bench.summarise(Case(1, length, 3), [clocks(90, 20, 22)]) for length in (8, 16, 32)
    ])  # fmt: skip
    now = pd.DataFrame([
        bench.summarise(Case(1, 8, 3), [clocks(90, 10, 11)]),
        bench.summarise(Case(1, 16, 3), [clocks(90, 21, 30)]),
        bench.summarise(Case(1, 32, 3), [clocks(90, 23, 24)]),
    ])  # fmt: skip
    compared = bench.compare(now, earlier_run(tmp_path, before))
    assert compared["verdict"].tolist() == ["faster", "within noise", "slower"]
    notes = Notes()
    bench.check_baseline(compared, notes)
    assert notes.checks == {"no case slower than the baseline": False}
    assert "nothing to compare" in bench.check_baseline(None, notes)


def test_a_baseline_of_another_kind_is_refused(tmp_path):
    table = pd.DataFrame([bench.summarise(Case(1, 8, 3), [clocks(90, 20, 22)])])
    with pytest.raises(DataError, match="is of 03_ceval"):
        bench.compare(table, earlier_run(tmp_path, table, "03_ceval"))
    with pytest.raises(DataError, match="none of these cases"):
        bench.compare(table.assign(input_len=9), earlier_run(tmp_path, table))
    with pytest.raises(DataError, match="not the results"):
        bench.compare(table, tmp_path / "nothing.json")
