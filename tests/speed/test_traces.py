"""Traces: a few steps of each phase are in them, and times inside others are counted once."""

import gzip
import json
from pathlib import Path

import pytest

import neoxlib
from neoxlib.errors import DataError
from neoxlib.inference import trace
from neoxlib.inference.timing import Case
from neoxlib.speed import traces
from tests.support.npu import trace_events as made


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> neoxlib.Engine:
    return neoxlib.load(checkpoint)


def test_a_trace_has_one_prefill_and_three_decoding_steps_and_what_is_in_them(
    engine, tmp_path: Path
):
    plain = engine.group.all_reduce
    assert engine.trace(Case(2, 8, 20), tmp_path) == str(tmp_path)
    events = traces.read_trace(tmp_path)
    counts = events["kind"].value_counts()
    assert (counts["prefill"], counts["decode"]) == (1, 3)
    steps = events[events["kind"].isin(trace.PHASES)]
    assert events["self_ms"].min() > -1e-6 and events["start_ms"].min() == 0
    assert events["self_ms"].sum() == pytest.approx(steps["ms"].sum(), rel=0.1)
    assert engine.group.all_reduce == plain and "all_reduce" not in vars(engine.group)


def test_the_compiled_layers_are_in_the_trace(engine, tmp_path: Path):
    if engine.model.executor is None:
        pytest.skip("no compiler here")
    engine.trace(Case(1, 8, 2), tmp_path)
    top = traces.top_operations(traces.read_trace(tmp_path))
    calls = dict(zip(top["name"], top["calls"], strict=True))
    assert calls["layers (compiled)"] == 2 and top["share"].sum() <= 1 + 1e-9
    assert top["self_ms"].is_monotonic_decreasing


def event(name: str, start: float, length: float, **more: object) -> dict:
    return {"ph": "X", "pid": 1, "tid": 1, "name": name, "ts": start, "dur": length} | more


def test_time_inside_another_event_is_that_events_no_more(tmp_path: Path):
    events = [
        event("decode", 0, 1000),
        event("a", 100, 800),
        event("b", 200, 300),
        event("b", 600, 100),
        event("c", 0, 500, tid=2),
        event("Trace", 0, 9e9, cat="Trace"),
        {"ph": "M", "name": "x"},
    ]
    with gzip.open(tmp_path / "rank0.1.pt.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    found = traces.read_trace(tmp_path)
    times = found.groupby("name")["self_ms"].sum().to_dict()
    assert times == pytest.approx({"decode": 0.2, "a": 0.4, "b": 0.4, "c": 0.5})
    assert "decode" not in set(traces.top_operations(found)["name"])


def test_of_an_npus_trace_the_operations_are_those_of_the_device(tmp_path: Path):
    for rank in range(2):
        folder = tmp_path / f"rank{rank}_7_ascend_pt" / "ASCEND_PROFILER_OUTPUT"
        folder.mkdir(parents=True)
        (folder / "trace_view.json").write_text(json.dumps(made.decoding()))
    found = traces.read_trace(tmp_path)
    assert set(found["rank"]) == {"rank0", "rank1"} and found["self_ms"].min() > -1e-6
    top = traces.top_operations(found)
    assert list(zip(top["name"], top["kind"], top["calls"], strict=True)) == [
        ("hcom_allReduce__654_0_1", "communication", 1),  # of a rank
        ("MatMulV2", "computing", 1),
        ("aclnnAdd_AddAiCore_Add", "computing", 1),
        ("MEMCPY_ASYNC", "copying", 1),
    ]
    assert top["self_ms"].tolist() == pytest.approx([0.020, 0.018, 0.012, 0.004])
    assert top["share"].sum() == pytest.approx(1)


def test_a_folder_without_a_trace_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="has no trace"):
        traces.read_trace(tmp_path)
