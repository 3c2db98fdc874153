"""The chip table, the choice of device and dtype, and the environment of ranks."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest

from neoxlib.errors import SettingsError
from neoxlib.kernels.npu import OPS
from neoxlib.machine import chips, devices
from neoxlib.machine import launch_env as machine_launch_env
from neoxlib.machine.chips import CHIPS, WITHOUT_OPERATORS
from neoxlib.machine.devices import pick_device, pick_dtype
from neoxlib.machine.launch_env import launch_env

FIGURES = ("memory_gib", "usable_gib", "fp16_tflops", "bandwidth_gb_s", "likely", "likely_peak")


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
        monkeypatch.setattr(devices.glob, "glob", lambda pattern: list(nodes))
        monkeypatch.setattr(devices.subprocess, "run", lambda *a, **k: done)
        monkeypatch.setenv("ASCEND_HOME_PATH", cann)

    devices.npu_problems.cache_clear()
    yield make
    devices.npu_problems.cache_clear()


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_every_figure_names_its_source_and_nothing_else_does(chip):
    given = {name for name in (*FIGURES, "link") if getattr(chip, name) is not None}
    assert given <= set(chip.sources) <= {field.name for field in fields(chip)}
    assert set(chip.sources) == given


def test_usable_memory_is_less_than_what_is_printed_on_the_card():
    for chip in CHIPS.values():
        assert chip.usable_gib is None or 0.75 * chip.memory_gib < chip.usable_gib < chip.memory_gib


def test_a_chip_is_found_however_it_is_spelt():
    assert chips.chip("Ascend910B3") is chips.chip("910b3") is CHIPS["910B3"]
    assert chips.chip("300I-duo") is CHIPS["300I Duo"]
    assert chips.chip("910B4-1") is CHIPS["910B4-1"]


def test_an_unknown_chip_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"'910C'.*910B3.*310P3"):
        chips.chip("910C")


def test_a_card_that_prints_910B_is_the_first_generation():
    """npu-smi prints `910B` for a 910A and `910B3` for A2: taken as it is, a chip without bfloat16 would get it."""
    assert chips.chip_of_card("910B") is CHIPS["910A"]
    assert chips.chip_of_card("910B3").family == "A2"
    assert chips.chip_of_card("Ascend910").family == "A3"
    assert chips.chip_of_card("Atlas 9000") is None


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("310B1", "310B1"),
        ("310B4", "310B4"),
        ("Ascend310B4", "310B4"),
        ("Ascend 910B3", "910B3"),
        ("Ascend950PR", "950"),
        ("Ascend950DT_9581", "950"),
        ("Ascend910_9391", "A3"),
        ("Ascend910", "A3"),
        ("Ascend310P3", "310P3"),
    ],
)
def test_a_name_with_the_series_before_it_or_a_bin_behind_it_is_the_same_chip(name, row):
    assert chips.chip_of_card(name) is CHIPS[row]


def test_families_that_have_no_operators_of_their_own_are_named_so():
    assert {chip.family for chip in CHIPS.values()} - {*OPS, "cpu"} == set(WITHOUT_OPERATORS)
    assert all(chip.note for chip in CHIPS.values() if chip.family in WITHOUT_OPERATORS)


def test_a_310b_runs_one_rank_in_float16_and_is_refused_more():
    board = CHIPS["310B4"]
    assert pick_dtype("auto", "npu", "bfloat16", board) == "float16"
    assert "ASCEND_RT_VISIBLE_DEVICES" not in launch_env(board, 1)
    with pytest.raises(SettingsError, match="310B4 has no hccl; use one rank"):
        launch_env(board, 2)


def test_half_of_a_96_gb_duo_is_told_from_a_24_gb_card():
    assert chips.chip_of_card("310P3", 21525) is CHIPS["310P3"]
    assert chips.chip_of_card("310P3", 44280) is CHIPS["300I Duo"]


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
    """The notebook kernel must never initialise an accelerator, and `import torch` fails where CANN is not sourced."""
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


ONE_910B = {
    "ATB_USE_TILING_COPY_STREAM": "0",
    "ATB_LAYER_INTERNAL_TENSOR_REUSE": "1",
    "ATB_OPERATION_EXECUTE_ASYNC": "1",
    "TASK_QUEUE_ENABLE": "1",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
}
DOCKER = {"ATB_OPERATION_EXECUTE_ASYNC": "0", "TASK_QUEUE_ENABLE": "0"}
CARDS = {
    "HCCL_CONNECT_TIMEOUT": "1800",
    "HCCL_EXEC_TIMEOUT": "1800",
    "HCCL_EVENT_TIMEOUT": "1832",
    "HCCL_BUFFSIZE": "110",
    "HCCL_WHITELIST_DISABLE": "1",
    "HCCL_OP_BASE_FFTS_MODE_ENABLE": "TRUE",
    "BACKEND": "hccl",
}
ONE_310P = ONE_910B | {
    "ATB_USE_TILING_COPY_STREAM": "1",
    "PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:2048",
}
REPEATABLE = {
    "HCCL_DETERMINISTIC": "true",
    "LCCL_DETERMINISTIC": "1",
    "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
}
EIGHT = {"ATB_LAUNCH_KERNEL_WITH_TILING": "1"}

GOLDEN = [
    ("cpu", 1, {}, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}),
    ("cpu", 8, {"container": True, "deterministic": True}, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}),
    ("910B3", 1, {}, ONE_910B),
    ("910B3", 1, {"container": True}, ONE_910B | DOCKER),
    ("910B3", 2, {}, ONE_910B | CARDS),
    ("910B3", 8, {}, ONE_910B | CARDS | EIGHT),
    (
        "910B3",
        8,
        {"container": True, "deterministic": True},
        ONE_910B | CARDS | EIGHT | DOCKER | REPEATABLE,
    ),
    ("910B4", 4, {"backend": "lccl"}, ONE_910B | CARDS | {"BACKEND": "lccl"}),
    ("910B1", 2, {"device_ids": (4, 6)}, ONE_910B | CARDS | {"ASCEND_RT_VISIBLE_DEVICES": "4,6"}),
    ("310P3", 1, {"max_seq_len": 1024}, ONE_310P | {"MAX_SEQ_LEN": "1024"}),
    ("310P3", 4, {}, ONE_310P | CARDS),
    ("300I Duo", 2, {"container": True}, ONE_310P | CARDS | DOCKER),
    (
        "300I Duo",
        1,
        {"preload": "/lib/libgomp.so.1"},
        ONE_310P | {"LD_PRELOAD": "/lib/libgomp.so.1"},
    ),
]


@pytest.mark.parametrize(("chip", "world_size", "options", "env"), GOLDEN)
def test_the_environment_of_ranks_is_the_recipe_and_nothing_else(chip, world_size, options, env):
    assert (
        launch_env(CHIPS[chip], world_size, **options)
        == launch_env(chip, world_size, **options)
        == env
    )


def test_every_row_of_the_recipe_is_reached_by_the_golden_table():
    reached = {pair for *_, env in GOLDEN for pair in env.items()}
    assert {(row.name, row.value) for row in machine_launch_env.RECIPE} <= reached
    assert all(row.why and row.source for row in machine_launch_env.RECIPE)


# What the vendor's guide tells its reader to set, row by row: when, the variable, its value (None: unset, or not read).
A2 = ("910B1", "910B3", "910B4")
INFER = ("310P3", "300I Duo")
GUIDE = [
    (INFER, (1, 2, 4), {}, "ATB_USE_TILING_COPY_STREAM", "1"),
    (A2, (1, 2, 4, 8), {}, "ATB_USE_TILING_COPY_STREAM", "0"),
    (A2, (8,), {}, "ATB_LAUNCH_KERNEL_WITH_TILING", "1"),
    (A2, (1, 2, 4), {}, "ATB_LAUNCH_KERNEL_WITH_TILING", None),
    (A2 + INFER, (1, 2), {}, "ATB_LAYER_INTERNAL_TENSOR_REUSE", "1"),
    (A2 + INFER, (1, 2), {}, "ATB_OPERATION_EXECUTE_ASYNC", "1"),
    (A2 + INFER, (1, 2), {"container": True}, "ATB_OPERATION_EXECUTE_ASYNC", "0"),
    (A2 + INFER, (1, 2), {}, "TASK_QUEUE_ENABLE", "1"),
    (A2 + INFER, (1, 2), {"container": True}, "TASK_QUEUE_ENABLE", "0"),
    (INFER, (1, 2, 4), {}, "PYTORCH_NPU_ALLOC_CONF", "max_split_size_mb:2048"),
    (A2 + INFER, (2, 4), {}, "HCCL_BUFFSIZE", "110"),
    (A2 + INFER, (2, 4), {}, "HCCL_OP_BASE_FFTS_MODE_ENABLE", "TRUE"),
    (INFER, (2, 4), {}, "BACKEND", "hccl"),
    (A2, (2, 8), {"backend": "lccl"}, "BACKEND", "lccl"),
    (A2 + INFER, (1, 2), {"max_seq_len": 2048}, "MAX_SEQ_LEN", "2048"),
    (A2 + INFER, (1,), {"preload": "/x/libgomp.so.1"}, "LD_PRELOAD", "/x/libgomp.so.1"),
    (A2 + INFER, (2,), {"device_ids": (2, 3)}, "ASCEND_RT_VISIBLE_DEVICES", "2,3"),
    (A2 + INFER, (1, 2), {}, "RETURN_PERF_DETAIL", None),
    (A2 + INFER, (1, 2), {}, "TIMEIT", None),
    (A2 + INFER, (1, 2), {}, "ATB_SPEED_HOME_PATH", None),
]


@pytest.mark.parametrize(("names", "sizes", "options", "variable", "value"), GUIDE)
def test_every_row_of_the_guide_is_kept(names, sizes, options, variable, value):
    for name in names:
        for world_size in sizes:
            assert launch_env(name, world_size, **options).get(variable) == value
    if value is None and variable != "ATB_LAUNCH_KERNEL_WITH_TILING":
        assert machine_launch_env.REPLACED[variable]


def test_asking_for_an_environment_changes_none(monkeypatch):
    before = dict(os.environ)
    launch_env("910B3", 8, container=True, deterministic=True)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("chip", "world_size"), [("910C", 1), ("910B3", 0), ("910B3", "2"), ("910B3", True)]
)
def test_an_environment_for_nothing_there_is_refused(chip, world_size):
    with pytest.raises(SettingsError):
        launch_env(chip, world_size)


@pytest.mark.parametrize("chip", ["310P3", "300I Duo", "910A"])
def test_lccl_is_refused_where_it_does_not_exist(chip):
    with pytest.raises(SettingsError, match=f"{chip} has no lccl; use hccl"):
        launch_env(CHIPS[chip], 2, backend="lccl")


@pytest.mark.parametrize("ids", [(1, 0), (0, 0), (0,), (0, 1, 2), (-1, 0)])
def test_device_ids_that_torch_npu_would_read_as_none_are_refused(ids):
    with pytest.raises(SettingsError, match="strictly ascending"):
        launch_env(CHIPS["910B3"], 2, device_ids=ids)
