"""A device's start, clocks, memory and traces, with a made-up torch_npu where one is needed."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.distributed as dist

import neoxlib
from neoxlib.errors import SettingsError, torch_npu_error
from neoxlib.inference.timing import Case
from neoxlib.machine import runtime
from neoxlib.ranks import collectives, worker
from neoxlib.ranks.collectives import TorchGroup

CPU = torch.device("cpu")
BROKEN = """
raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")
"""


def run_beside_a_broken_torch_npu(
    folder: Path, *arguments: str, **env: str
) -> subprocess.CompletedProcess:
    """Run Python beside an installed torch_npu, found by its entry point, that cannot load."""
    (folder / "torch_npu.py").write_text(BROKEN)
    about = folder / "torch_npu-2.13.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-npu\nVersion: 2.13.0\n")
    (about / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    path = {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, *arguments], env=path | env, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import neoxlib; neoxlib.load('x')"),
        ("-c", "from neoxlib.inference import timing"),
        ("-m", "neoxlib", "verify", "x"),
        ("-c", "import neoxlib; neoxlib.Session('x')"),
    ],
)
def test_a_torch_npu_that_cannot_be_loaded_is_named_with_its_cure(tmp_path, arguments):
    done = run_beside_a_broken_torch_npu(tmp_path, *arguments)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert "SettingsError: torch cannot be imported: torch_npu is installed" in said
    assert "libhccl.so: cannot open shared object file" in said
    assert "set_env.sh` before Python" in said and "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in said


def test_where_cann_is_sourced_the_doctor_is_named(tmp_path):
    done = run_beside_a_broken_torch_npu(
        tmp_path, "-m", "neoxlib", "verify", "x", ASCEND_HOME_PATH="/usr/local/Ascend"
    )
    assert "python -m neoxlib doctor" in done.stderr and "set_env.sh" not in done.stderr


def test_the_cure_that_is_named_is_one(tmp_path):
    code = "import neoxlib; print(neoxlib.load.__name__)"
    done = run_beside_a_broken_torch_npu(tmp_path, "-c", code, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.stdout == "load\n", done.stderr


def test_other_errors_are_left_alone():
    assert torch_npu_error(ImportError("no module named numpy")) is None
    with pytest.raises(AttributeError, match="nothing"):
        neoxlib.nothing  # noqa: B018


class FakeEvent:
    """Events that are 5 ms apart."""

    count = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.count += 1
        self.at = FakeEvent.count

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 5.0 * (end.at - self.at)


@pytest.fixture
def torch_npu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch_npu that notes what is asked of it."""
    asked: list = []
    options = SimpleNamespace(hccl_config={})
    npu = SimpleNamespace(
        set_device=lambda index: asked.append(("set_device", index)),
        set_compile_mode=lambda **mode: asked.append(("set_compile_mode", mode)),
        Event=FakeEvent,
        max_memory_allocated=lambda: 7e6,
        memory_allocated=lambda: 5e6,
        mem_get_info=lambda: (40e6, 64e6),
    )
    package = ModuleType("torch_npu")
    package._C = SimpleNamespace(
        _distributed_c10d=SimpleNamespace(ProcessGroupHCCL=SimpleNamespace(Options=lambda: options))
    )
    monkeypatch.setitem(sys.modules, "torch_npu", package)
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda device: npu)
    return SimpleNamespace(asked=asked, options=options, package=package)


def test_an_npu_is_set_before_its_compile_mode(torch_npu):
    runtime.start_npu(3)
    assert torch_npu.asked == [("set_device", 3), ("set_compile_mode", {"jit_compile": False})]
    runtime.start_npu()
    assert torch_npu.asked[2:] == [("set_compile_mode", {"jit_compile": False})]


def test_an_hccl_group_gets_its_buffer_from_the_environment(torch_npu, monkeypatch):
    monkeypatch.setenv("HCCL_BUFFSIZE", "110")
    assert runtime.hccl_options().hccl_config == {"group_name": "neoxlib", "hccl_buffer_size": 110}
    monkeypatch.delenv("HCCL_BUFFSIZE")
    assert runtime.hccl_options().hccl_config == {"group_name": "neoxlib"}
    del torch_npu.package._C._distributed_c10d.ProcessGroupHCCL.Options  # an older one
    assert runtime.hccl_options() is None


@pytest.mark.parametrize(
    "family, variables, vector",
    [
        ("A2", {}, True),
        ("A3", {"HCCL_DETERMINISTIC": "false"}, True),
        ("", {}, False),  # several servers, which may not be symmetric
        ("A2", {"HCCL_DETERMINISTIC": "true"}, False),
        ("A2", {"HCCL_DETERMINISTIC": "strict"}, False),
        ("A2", {"HCCL_OP_EXPANSION_MODE": "HOST"}, False),  # the user's own
        ("310P", {}, False),
        ("910A", {}, False),
    ],
)
def test_small_sums_run_on_vector_cores_where_they_may(
    torch_npu, monkeypatch, family, variables, vector
):
    for name in ("HCCL_BUFFSIZE", "HCCL_DETERMINISTIC", "HCCL_OP_EXPANSION_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = runtime.hccl_options(family).hccl_config
    assert config.get("hccl_op_expansion_mode") == (3 if vector else None)


def test_an_accelerators_sums_are_timed_by_its_events_where_detail_is_asked_for(
    torch_npu, monkeypatch
):
    given = {}
    monkeypatch.setattr(
        collectives.dist,
        "init_process_group",
        lambda backend, **rest: given.update(rest, backend=backend),
    )
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda x, group=None: None)
    monkeypatch.setattr(collectives.dist, "new_group", lambda backend: backend)
    monkeypatch.setattr(runtime, "open_communicator", lambda *_: None)
    monkeypatch.setattr(collectives, "prove_members", lambda *_: None)  # there is no other rank
    group = TorchGroup(0, 2, store=dist.HashStore(), backend="hccl", device="privateuseone:0")
    monkeypatch.setattr(group, "_prove", lambda *call: None)  # it would need such a device
    assert given["backend"] == "hccl" and given["pg_options"] is torch_npu.options
    assert group.host == "gloo"
    for detail in (False, True):
        group.detail = detail
        for _ in range(3):
            group.all_reduce(torch.ones(1))
        assert group.reset_clock() == pytest.approx(3 * 5e-3 * detail)
    assert group.reset_clock() == 0


def test_a_communicator_is_made_by_asking_for_its_name_where_that_can_be_asked():
    asked = []
    named = SimpleNamespace(get_hccl_comm_name=lambda rank: asked.append(rank))
    for backend in (named, SimpleNamespace()):  # of an older torch_npu
        group = SimpleNamespace(_get_backend=lambda device, backend=backend: backend)
        runtime.open_communicator(group, CPU, 3)
    assert asked == [3]


def test_stretches_add_up_and_a_cpu_has_no_events(torch_npu):
    timer = runtime.Timer(torch.device("privateuseone:0"))
    for _ in range(2):
        with timer.span():
            pass
    assert timer.take() == 10.0 and timer.take() == 0
    made = {id(event) for event in timer.idle}
    with timer.span():
        pass
    assert len(made) == 4 and {id(event) for event in timer.spans[0]} <= made  # used again
    plain = runtime.Timer(CPU)
    with plain.span():
        pass
    assert plain.take() is None


def test_memory_is_the_devices_or_the_processs(torch_npu):
    found = runtime.memory_mb(torch.device("privateuseone:0"))
    assert found == {"peak": 7.0, "allocated": 5.0, "in_use": 24.0}
    assert 10 < runtime.memory_mb(CPU)["peak"] < 1e6


def test_a_trace_is_written_for_a_case(checkpoint, tmp_path):
    with neoxlib.load(checkpoint) as engine:
        assert engine.trace(Case(1, 4, 2, warmup=0), tmp_path) == str(tmp_path)
        (file,) = tmp_path.glob("rank0*.pt.trace.json")
        names = {event.get("name") for event in json.loads(file.read_text())["traceEvents"]}
        assert {"prefill", "decode"} <= names
        assert engine.memory()[0]["peak"] > 10


def test_an_npus_trace_is_torch_npus(torch_npu, monkeypatch, tmp_path):
    given = {}
    module = ModuleType("torch_npu.profiler")
    module.ProfilerActivity = SimpleNamespace(CPU="cpu", NPU="npu")
    module.tensorboard_trace_handler = lambda folder, worker_name: (folder, worker_name)
    module.profile = lambda **options: given.update(options)
    monkeypatch.setitem(sys.modules, "torch_npu.profiler", module)
    runtime.profiler(SimpleNamespace(type="npu"), tmp_path, "rank1")
    assert given == {"activities": ["cpu", "npu"], "on_trace_ready": (str(tmp_path), "rank1")}


def test_the_error_is_a_users(tmp_path):
    assert issubclass(type(torch_npu_error(RuntimeError("torch_npu"))), SettingsError)


def test_a_rank_is_bound_to_its_cores_before_its_npu_is_started(monkeypatch):
    order = []
    monkeypatch.setattr(worker, "pick_device", lambda device: device)
    monkeypatch.setattr(worker, "bind", lambda index, ranks: order.append(("bind", index, ranks)))
    monkeypatch.setattr(worker, "start_npu", lambda index: order.append(("start", index)))
    assert worker._place("npu", 1, 4) == ("npu", "npu:1", "hccl")
    assert order == [("bind", 1, 4), ("start", 1)]
    assert worker._place("cpu", 1, 4) == ("cpu", "cpu", "gloo") and len(order) == 2
