"""What ran on an NPU is told by the lane and the task type that the vendor's writer gives it."""

import json
from pathlib import Path

import pytest

from neoxlib.errors import DataError
from neoxlib.speed import lanes, traces
from tests.support.npu import trace_events as made


def read(tmp_path: Path, events: list[lanes.Event]) -> lanes.Lanes:
    folder = tmp_path / "rank3_7_ascend_pt" / "ASCEND_PROFILER_OUTPUT"
    folder.mkdir(parents=True)
    (folder / "trace_view.json").write_text(json.dumps(events))
    (found,) = lanes.read_lanes(tmp_path)
    return found


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (made.task("MatMulV2", "AI_CORE", 0, 1), "computing"),
        (made.task("aclnnAdd", "AI_VECTOR_CORE", 0, 1), "computing"),
        (made.task("MatMulV3", "MIX_AIC", 0, 1), "computing"),
        (made.task("FusedInferAttentionScore", "KERNEL_MIX_AIC", 0, 1), "computing"),
        (made.task("Cumsum", "AI_CPU", 0, 1), "computing"),
        (made.task("MEMCPY_ASYNC", "MEMCPY_ASYNC", 0, 1), "copying"),
        (made.task("EVENT_WAIT", "EVENT_WAIT_SQE", 0, 1), "waiting"),
        (made.task("Notify Wait", "Notify Wait", 0, 1), "waiting"),
        (made.task("EVENT_RECORD", "EVENT_RECORD", 0, 1), "other"),
        (made.task("new", "A TYPE OF TOMORROW", 0, 1), "other"),
        (made.task("hcom_allReduce_AivKernel", "AI_VECTOR_CORE", 0, 1), "communication"),
        (made.collective("hcom_allReduce__654_0_1", 0, 1)[0], "communication"),
        (made.launch("Node@launch", 0, 1), "other"),
        (made.launch("AscendCL@HcclAllReduce", 0, 1), "other"),
        (made.operator("aten::mm", 0, 1), "other"),
        (made.operator("c10d::allreduce_", 0, 1), "communication"),
        (made.step("prefill", 0, 1), "prefill"),
    ],
)
def test_the_task_type_and_the_lane_tell_the_kind(tmp_path: Path, event, kind):
    found = read(tmp_path, [*made.names(), event])
    assert found.kind(found.events[0]) == kind and found.rank == "rank3"


@pytest.mark.parametrize("lane", ["Communication", "HCCL"])
def test_no_time_is_counted_twice(tmp_path: Path, lane: str):
    """Neither the summary of the overlap lane nor what runs inside a collective is."""
    found = read(tmp_path, made.decoding(lane))
    device = [event["name"] for event in found.counted() if found.on_device(event)]
    assert device == [
        *("MatMulV2", "aclnnAdd_AddAiCore_Add", "hcom_allReduce__654_0_1"),
        *("EVENT_WAIT", "MEMCPY_ASYNC"),
    ]


def test_a_collectives_kernel_counts_where_there_is_no_lane_of_collectives(tmp_path: Path):
    kernel = made.task("hcom_allReduce_AivKernel", "COMMUNICATION", 0, 20)
    assert read(tmp_path, [*made.names(), kernel]).counted() == [kernel]


def test_a_recorded_trace_of_one_card_is_read(tmp_path: Path):
    found = read(tmp_path, made.RECORDED)
    kinds = {event["name"]: found.kind(event) for event in found.counted()}
    assert kinds == {
        "EVENT_RECORD": "other",
        "main_kernel": "computing",
        "PROFILING_DISABLE": "other",
        "AscendCL@aclrtSynchronizeStream": "other",
    }
    threads = [found.thread(event) for event in found.events]
    assert threads[1] == "Ascend Hardware, Stream 62" and threads[3] == "2797085951/2731529"


@pytest.mark.parametrize("text", ["", "[{", '{"events": []}'])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str):
    (tmp_path / "trace_view.json").write_text(text)
    with pytest.raises(DataError, match=r"trace_view.json is no trace .*trace again"):
        list(lanes.read_lanes(tmp_path))


def test_half_a_character_in_a_name_or_place_is_a_question_mark(tmp_path: Path):
    event = made.operator("aten::mm\ud800", 0, 1) | {"tid": "\udc00"}
    (found,) = read(tmp_path, [event]).events
    assert (found["name"], found["tid"]) == ("aten::mm?", "?")
    assert traces.read_trace(tmp_path)["name"].tolist() == ["aten::mm?"]


def test_a_folder_without_a_trace_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="has no trace"):
        list(lanes.read_lanes(tmp_path))
