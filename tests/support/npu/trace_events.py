"""Events of a trace_view.json as the vendor's writers make them: fields, names, number formats.

No NPU wrote these. Sources:
- RECORDED: values of a public record of one card on CANN 8.5.2, neo-pan/ascend-msprof-skill
  8d845a46, tests/fixtures/tilelang_design_feedback/pipeline_expression/serial, msprof_2026...json
- device lanes: msprof 66c00af8 (kali20gakki/msprof, a copy of Ascend/msprof),
  analysis/csrc/application/timeline/ascend_hardware_assembler.cpp:57-66, hccl_assembler.cpp:38-66,
  overlap_analysis_assembler.cpp:33-62, with the expected texts of their unit tests in
  test/msprof_cpp/analysis_ut/application/assemble/test; process ids by GetFormatPid there
- host lanes: torch_npu 9e73e708, torch_npu/profiler/analysis/prof_common_func/
  _trace_event_manager.py:19-41; names of the task queue in prof_bean/_op_mark_bean.py:78-80
Microseconds: `ts` is text and `dur` a number, as both writers have it.
"""

from typing import Any

from neoxlib.speed.lanes import Event

HOST = 2731529
HARDWARE = HOST << 10 | 14 << 5  # the process's pid, its lane's place in the list, its NPU
COMMUNICATION = HOST << 10 | 16 << 5
OVERLAP = HOST << 10 | 31 << 5
CANN = HOST << 10 | 7 << 5
OVERLAP_THREADS = ("Computing", "Communication", "Communication(Not Overlapped)", "Free")
NO_MODEL = 4294967295


def _process(pid: int, name: str, label: str, sort: int) -> list[Event]:
    told = [("process_name", {"name": name}), ("process_labels", {"labels": label})]
    told += [("process_sort_index", {"sort_index": sort})]
    return [{"name": what, "pid": pid, "tid": 0, "ph": "M", "args": args} for what, args in told]


def _thread(pid: int, tid: int, name: str) -> list[Event]:
    told = [("thread_name", {"name": name}), ("thread_sort_index", {"sort_index": tid})]
    return [{"name": what, "pid": pid, "tid": tid, "ph": "M", "args": args} for what, args in told]


def names(communication: str = "Communication") -> list[Event]:
    """The events that name the lanes; the collectives' lane was called HCCL in earlier releases."""
    return [
        *_process(HOST, "Python", "CPU", 0),
        *_thread(HOST, HOST, f"Thread {HOST}"),
        *_process(CANN, "CANN", "CPU", 7),
        *_process(HARDWARE, "Ascend Hardware", "NPU 0", 14),
        *_thread(HARDWARE, 2, "Stream 2"),
        *_process(COMMUNICATION, communication, "NPU 0", 16),
        *_thread(COMMUNICATION, 0, "Group 16898834563344171674 Communication"),
        *_thread(COMMUNICATION, 1, "Plane 0"),
        *_process(OVERLAP, "Overlap Analysis", "NPU 0", 31),
        *(event for n, name in enumerate(OVERLAP_THREADS) for event in _thread(OVERLAP, n, name)),
    ]


def _whole(name: str, pid: int, tid: int, start: float, us: float, args: dict[str, Any]) -> Event:
    event = {"name": name, "pid": pid, "tid": tid, "ts": f"{start:.3f}", "dur": us, "ph": "X"}
    return event | {"args": args}


def step(name: str, start: float, us: float) -> Event:
    """A phase of neoxlib, which the framework's lane has by the name it was marked with."""
    return _whole(name, HOST, HOST, start, us, {"Sequence number": -1}) | {"cat": "cpu_op"}


def operator(name: str, start: float, us: float) -> Event:
    """An operator of PyTorch on the host."""
    return step(name, start, us)


def launch(name: str, start: float, us: float) -> Event:
    """A call of CANN on the host, `AscendCL@…` or `Node@launch`."""
    level, _, call = name.partition("@")
    args = {"Thread Id": HOST, "Mode": call, "level": level.lower(), "id": "0", "item_id": "0"}
    return _whole(name, CANN, HOST, start, us, args | {"connection_id": 62})


def task(name: str, kind: str, start: float, us: float, stream: int = 2) -> Event:
    """A task of the device, by its "Task Type"."""
    args = {"Model Id": NO_MODEL, "Task Type": kind, "Physic Stream Id": stream, "Task Id": 10}
    args |= {"Batch Id": 0, "Subtask Id": NO_MODEL, "connection_id": 2345}
    return _whole(name, HARDWARE, stream, start, us, args)


def collective(name: str, start: float, us: float) -> list[Event]:
    """A collective, and one of the tasks that it has inside on a plane of the links."""
    args = {"rank_size": 8, "connection_id": 2762, "model id": NO_MODEL, "data_type": "FP16"}
    args |= {"alg_type": "MESH-RING", "count": 6144, "relay": "no", "retry": "no"}
    inside = {"notify_id": "456", "duration estimated(us)": 20.0, "stream id": 1, "task id": 1}
    inside |= {"context id": 1, "task type": "Notify_Wait", "src rank": 0, "dst rank": 1}
    return [
        _whole(name, COMMUNICATION, 0, start, us, args),
        _whole("Notify_Wait", COMMUNICATION, 1, start, us / 2, inside),
    ]


def overlap(name: str, start: float, us: float) -> Event:
    """An event of the lane "Overlap Analysis"."""
    return _whole(name, OVERLAP, OVERLAP_THREADS.index(name), start, us, {})


def flow(start: float) -> list[Event]:
    """The two ends of an arrow from the host to the device, which are no work."""
    base = {"bp": "e", "name": "torch_to_npu", "id": start, "ts": f"{start:.3f}"}
    base |= {"cat": "async_npu"}
    return [base | {"ph": "s", "pid": HOST, "tid": HOST}, base | {"ph": "f", "pid": HARDWARE}]


def decoding(communication: str = "Communication") -> list[Event]:
    """A decode step of 100 us: 30 us of kernels, 20 of an all-reduce, 5 of them at once."""
    return [
        *names(communication),
        step("decode", 1000, 100),
        operator("aten::mm", 1005, 30),
        launch("Node@launch", 1010, 5),
        launch("AscendCL@aclnnMatmul", 1008, 20),
        *flow(1020.0),
        task("MatMulV2", "AI_CORE", 1020, 18),
        task("aclnnAdd_AddAiCore_Add", "AI_VECTOR_CORE", 1040, 12),
        *collective("hcom_allReduce__654_0_1", 1047, 20),
        task("hcom_allReduce_AivKernel", "COMMUNICATION", 1047, 20, stream=5),
        task("EVENT_WAIT", "EVENT_WAIT_SQE", 1052, 15),
        task("MEMCPY_ASYNC", "MEMCPY_ASYNC", 1080, 4),
        overlap("Computing", 1020, 18),
        overlap("Computing", 1040, 12),
        overlap("Communication", 1047, 20),
        overlap("Communication(Not Overlapped)", 1052, 15),
        overlap("Free", 1038, 2),
        overlap("Free", 1067, 17),
    ]


def _recorded(name: str, kind: str, stream: int, start: str, us: float) -> Event:
    args = {"Batch Id": 0, "Model Id": NO_MODEL, "Physic Stream Id": stream, "Task Type": kind}
    event = {"args": args, "dur": us, "name": name, "ph": "X", "pid": 2797086112, "tid": stream}
    return event | {"ts": start}


RECORDED: list[Event] = [
    _recorded("EVENT_RECORD", "EVENT_RECORD", 60, "1780747943471224.990", 0.02),
    _recorded("main_kernel", "MIX_AIC", 62, "1780747958575020.950", 92.6),
    _recorded("PROFILING_DISABLE", "PROFILING_DISABLE", 60, "1780747959507003.230", 0.02),
    *_process(2797086112, "Ascend Hardware", "NPU 0", 13),
    *_thread(2797086112, 60, "Stream 60"),
    *_thread(2797086112, 62, "Stream 62"),
    *_process(2797085951, "CANN", "CPU", 7),
    *_thread(2797085951, 2731529, "Thread 2731529"),
    _whole(
        "AscendCL@aclrtSynchronizeStream",
        2797085951,
        2731529,
        1780747958501449.420,
        15.76,
        {"Mode": "ACL_RTS", "Thread Id": 2731529, "connection_id": 24, "level": "acl"},
    ),
]
