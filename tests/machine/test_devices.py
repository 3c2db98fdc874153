"""The choice of device and dtype."""

import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine import devices
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.devices import pick_device, pick_dtype
from neoxlib.machine.launch_env import launch_env
from neoxlib.machine.npu_smi import Card, Smi


@pytest.fixture
def npu_host(monkeypatch):
    """A machine that has everything an NPU needs; `answer` is what the throw-away process says."""

    def make(
        answer="NPUs 8",
        code=0,
        package=True,
        nodes=("/dev/davinci0",),
        cann="/usr/local/Ascend/latest",
    ):
        done = subprocess.CompletedProcess([], code, stdout=answer, stderr=answer)
        monkeypatch.setattr(
            devices.importlib.util, "find_spec", lambda name: object() if package else None
        )
        monkeypatch.setattr(
            devices.glob, "glob", lambda pattern: list(nodes) if "davinci" in pattern else []
        )
        monkeypatch.setattr(devices.subprocess, "run", lambda *a, **k: done)
        monkeypatch.setenv("ASCEND_HOME_PATH", cann)

    devices.take_answers(None)
    yield make
    devices.take_answers(None)


def test_a_310b_runs_one_rank_in_float16_and_is_refused_more():
    board = CHIPS["310B4"]
    assert pick_dtype("auto", "npu", "bfloat16", board) == "float16"
    assert "ASCEND_RT_VISIBLE_DEVICES" not in launch_env(board, 1)
    with pytest.raises(SettingsError, match="2 ranks on 310B4 cannot run: use one rank"):
        launch_env(board, 2)


def test_this_machine_without_an_npu_runs_on_the_cpu(npu_host):
    npu_host(package=False, nodes=(), cann="")
    assert pick_device("auto") == pick_device("cpu") == "cpu"


def test_an_npu_that_works_is_picked(npu_host):
    npu_host()
    assert pick_device("auto") == pick_device("npu") == "npu"
    assert pick_device("cpu") == "cpu"


def test_every_reason_against_the_npu_is_named_at_once(npu_host):
    npu_host(package=False, nodes=(), cann="")
    with pytest.raises(
        SettingsError, match=r"torch_npu is not installed.*/dev/davinci.*CANN is not sourced.*cpu"
    ):
        pick_device("npu")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"answer": "NPUs 0"}, "ASCEND_RT_VISIBLE_DEVICES"),
        ({"answer": "ImportError: libhccl.so: no such file", "code": 1}, "libhccl.so"),
        ({"answer": "", "code": -9}, "no message"),
        ({"cann": ""}, "set_env.sh"),
        ({"nodes": ()}, "/dev/davinci"),
    ],
)
def test_an_npu_that_is_there_but_does_not_work_is_not_picked(npu_host, made, reason):
    npu_host(**made)
    assert pick_device("auto") == "cpu"
    with pytest.raises(SettingsError, match=reason):
        pick_device("npu")


def test_a_torch_npu_that_hangs_is_given_up(npu_host, monkeypatch):
    npu_host()

    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(devices.subprocess, "run", hang)
    assert pick_device("auto") == "cpu"


@pytest.mark.parametrize("device", ["cuda", "npu:0", "", "CPU"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(SettingsError, match="auto, cpu, npu"):
        pick_device(device)


def test_asking_for_the_device_imports_neither_torch_nor_torch_npu():
    """A notebook's kernel starts no accelerator, and without CANN `import torch` may fail."""
    code = "import sys, neoxlib.machine.devices as d; d.pick_device('auto')"
    code += "; print({'torch', 'torch_npu'} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )


@pytest.mark.parametrize(
    ("dtype", "device", "config_dtype", "chip", "picked"),
    [
        ("auto", "cpu", "float16", None, "float32"),
        ("bfloat16", "cpu", "float16", None, "bfloat16"),
        ("auto", "npu", "float16", "910B3", "float16"),
        ("auto", "npu", "bfloat16", "910B3", "bfloat16"),
        ("auto", "npu", "float32", "910B3", "float16"),
        ("auto", "npu", None, "910B3", "float16"),
        ("auto", "npu", "bfloat16", "310P3", "float16"),
        ("float16", "npu", "bfloat16", "310P3", "float16"),
    ],
)
def test_auto_is_float32_on_the_cpu_and_the_checkpoints_own_on_an_npu(
    dtype, device, config_dtype, chip, picked
):
    assert pick_dtype(dtype, device, config_dtype, chip and CHIPS[chip]) == picked


@pytest.mark.parametrize(
    ("dtype", "chip", "reason"),
    [
        ("bfloat16", "310P3", "310P3.*no such type.*use float16"),
        ("float32", "910B3", "16-bit.*float16 or bfloat16"),
    ],
)
def test_a_dtype_the_chip_lacks_is_refused_with_the_reason(dtype, chip, reason):
    with pytest.raises(SettingsError, match=reason):
        pick_dtype(dtype, "npu", "float16", CHIPS[chip])


def test_a_bfloat16_checkpoint_on_a_chip_without_it_is_said_aloud(caplog):
    pick_dtype("auto", "npu", "bfloat16", CHIPS["310P3"])
    assert "overflow" in caplog.text


def test_an_npu_that_is_not_in_the_table_gets_float16(monkeypatch):
    monkeypatch.setattr(devices, "chip_here", lambda: None)
    assert pick_dtype("auto", "npu", "bfloat16") == "float16"
    with pytest.raises(SettingsError, match="unknown NPU"):
        pick_dtype("bfloat16", "npu", "bfloat16")


def test_an_unknown_dtype_is_refused():
    with pytest.raises(SettingsError, match=r"fp16.*float16"):
        pick_dtype("fp16", "cpu", None)


def started(monkeypatch, code):
    """As in a process that has started an NPU whose SoC has this code."""
    utils = SimpleNamespace(get_soc_version=lambda: code)
    npu = SimpleNamespace(is_initialized=lambda: code is not None, utils=utils)
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace(npu=npu))


@pytest.fixture
def cards(monkeypatch):
    """A machine whose npu-smi shows these names and sizes, or is not there."""

    def make(*shown):
        found = [Card(n, 0, name, "OK", None, 0, mib) for n, (name, mib) in enumerate(shown)]
        answer = Smi(cards=tuple(found)) if shown else None
        monkeypatch.setattr(devices.npu_smi, "query", lambda: answer)

    devices.take_answers(None)
    yield make
    devices.take_answers(None)


@pytest.mark.parametrize(
    ("shown", "code", "chip"),
    [
        ((("910B3", 65536),), None, "910B3"),
        ((("910B3", 65536),), 223, "910B3"),
        ((("910B3", 65536),), 224, "910B4"),  # the code decides
        ((("310P3", 44280),), 202, "300I Duo"),  # the card's memory, which no code has
        ((("310P3", 21525),), 202, "300I Pro"),
        ((), 202, "310P"),
        ((), 200, "310P"),
        ((), 101, "910A"),
        ((("Atlas 9000", 65536),), 250, "A3"),
    ],
)
def test_inside_a_rank_the_soc_code_names_the_chip_and_npu_smi_its_card(
    monkeypatch, cards, shown, code, chip
):
    cards(*shown)
    started(monkeypatch, code)
    assert devices.chip_for("npu") is CHIPS[chip]


def test_where_nothing_names_the_chip_that_is_said_aloud(monkeypatch, cards, caplog):
    cards()
    started(monkeypatch, 999)
    assert devices.chip_for("npu").family == "unknown"
    assert "PyTorch's own operators" in devices.chip_for("npu").name
    assert "999" in caplog.text and "slower" in caplog.text


def test_without_npu_smi_a_child_process_is_asked_for_the_code_once(npu_host, cards, monkeypatch):
    npu_host("NPUs 8\nSoC 223")
    cards()
    asked = []
    run = devices.subprocess.run
    monkeypatch.setattr(
        devices.subprocess, "run", lambda *a, **k: asked.append(a[0][-1]) or run(*a, **k)
    )
    assert devices.chip_for("npu") is devices.chip_for("npu") is CHIPS["910B3"]
    assert sum("get_soc_version" in code for code in asked) == 1


def test_a_rank_that_was_handed_its_drivers_answers_asks_nobody(npu_host, cards, monkeypatch):
    npu_host()
    cards(("910B3", 65536))
    answers = pickle.loads(pickle.dumps(devices.npu_answers()))

    def refuse(*args, **kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr(devices.subprocess, "run", refuse)
    monkeypatch.setattr(devices.npu_smi, "query", refuse)
    devices.take_answers(answers)
    assert pick_device("npu") == "npu" and devices.chip_for("npu") is CHIPS["910B3"]
    assert devices.smi_here() == answers.smi
