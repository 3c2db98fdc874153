"""The shares of an NPU's time. Oracle: sums over the microseconds of a made step, one by one."""

import json
import re
from pathlib import Path

import pytest

from neoxlib.speed import overlap
from tests.support.npu import trace_events as made


def shares(tmp_path: Path, *ranks: list[dict]):
    for number, events in enumerate(ranks):
        folder = tmp_path / f"rank{number}_7_ascend_pt"
        folder.mkdir()
        (folder / "trace_view.json").write_text(json.dumps(events))
    return overlap.device_shares(tmp_path)


def by_microsecond(events: list[dict], start: int, end: int) -> list[float]:
    """Shares of computing, only communicating and neither, from the kernels and collectives."""
    on_device = [e for e in events if e["ph"] == "X" and e["pid"] in (made.HARDWARE, 0)]
    kernels = [e for e in on_device if e["args"]["Task Type"].startswith("AI_")]
    sums = [e for e in events if e["ph"] == "X" and e["name"].startswith("hcom_allReduce__")]

    def during(found: list[dict], at: int) -> bool:
        return any(float(e["ts"]) <= at < float(e["ts"]) + e["dur"] for e in found)

    computing = sum(during(kernels, at) for at in range(start, end))
    either = sum(during([*kernels, *sums], at) for at in range(start, end))
    whole = end - start
    return [computing / whole, (either - computing) / whole, (whole - either) / whole]


def test_the_shares_of_a_phase_are_those_of_its_kernels_and_collectives(tmp_path: Path):
    table = shares(tmp_path, made.decoding(), made.decoding("HCCL")).set_index(["rank", "phase"])
    due = by_microsecond(made.decoding(), 1000, 1100)
    for rank in ("rank0", "rank1"):
        row = table.loc[rank, "decode"]
        assert row[["computing", "communication", "free"]].tolist() == pytest.approx(due)
        assert row["ms"] == pytest.approx(0.1)
    assert due == [0.30, 0.15, 0.55]


def test_the_whole_trace_is_what_the_lane_itself_sums(tmp_path: Path):
    whole = shares(tmp_path, made.decoding()).set_index("phase").loc[overlap.WHOLE]
    assert whole["ms"] == pytest.approx((18 + 12 + 15 + 2 + 17) / 1e3)
    assert whole["free"] == pytest.approx(19 / 64)


def test_work_outside_a_phase_is_not_the_phases(tmp_path: Path):
    late = [*made.decoding(), made.overlap("Computing", 1090, 500), made.step("prefill", 0, 10)]
    table = shares(tmp_path, late).set_index("phase")
    assert table.loc["decode", "computing"] == pytest.approx(0.40)
    assert table.loc["prefill", "free"] == 1


@pytest.mark.parametrize(
    ("busy", "answer"),
    [
        ([("Computing", 70)], "computes 70% .* is free 30%: bound by its kernels"),
        ([("Computing", 10)], "free 90%: bound by the host"),
        ([("Communication(Not Overlapped)", 60)], "only communicates 60%.* by the collectives"),
    ],
)
def test_the_largest_share_says_what_decoding_is_bound_by(tmp_path: Path, busy, answer):
    lane = [made.overlap(name, 1000, us) for name, us in busy]
    events = [*made.names(), made.step("decode", 1000, 100), *lane]
    assert re.search(answer, overlap.sentence(shares(tmp_path, events)))


def test_a_trace_of_a_cpu_has_no_shares_and_no_answer(tmp_path: Path):
    table = shares(tmp_path, [made.step("decode", 0, 10), made.operator("aten::mm", 1, 2)])
    assert table.empty and overlap.sentence(table) == ""
