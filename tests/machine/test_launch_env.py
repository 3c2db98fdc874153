"""The environment variables of ranks, against the recipes of the vendor's guide."""

import os

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine import recipe
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.launch_env import kept, launch_env
from neoxlib.machine.recipe import Launch

ONE_910B = {
    "ATB_USE_TILING_COPY_STREAM": "0",
    "ATB_LAYER_INTERNAL_TENSOR_REUSE": "1",
    "ATB_OPERATION_EXECUTE_ASYNC": "1",
    "TASK_QUEUE_ENABLE": "2",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
}
DOCKER = {"ATB_OPERATION_EXECUTE_ASYNC": "0"}
GUIDES = {"TASK_QUEUE_ENABLE": "1"}
GUIDES_DOCKER = DOCKER | {"TASK_QUEUE_ENABLE": "0"}
CARDS = {
    "HCCL_CONNECT_TIMEOUT": "600",
    "HCCL_EXEC_TIMEOUT": "1800",
    "HCCL_EVENT_TIMEOUT": "1832",
    "HCCL_BUFFSIZE": "110",
    "HCCL_WHITELIST_DISABLE": "1",
    "HCCL_OP_BASE_FFTS_MODE_ENABLE": "TRUE",
    "BACKEND": "hccl",
}
ROUNDED = {"HCCL_EXEC_TIMEOUT": "1768"}
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
    ("910B3", 1, {"era": "guide"}, ONE_910B | GUIDES),
    ("910B3", 1, {"container": True, "era": "guide"}, ONE_910B | GUIDES_DOCKER),
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
    ("310P3", 4, {}, ONE_310P | CARDS | ROUNDED),
    ("300I Duo", 2, {"container": True}, ONE_310P | CARDS | ROUNDED | DOCKER),
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
    assert {(row.name, row.value) for row in recipe.RECIPE} <= reached


# The settings of the vendor's guide, row by row: chips, world sizes, options, the variable and its
# value (None: unset, or not read).
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
    (A2 + INFER, (1, 2), {"era": "guide"}, "TASK_QUEUE_ENABLE", "1"),
    (A2 + INFER, (1, 2), {"container": True, "era": "guide"}, "TASK_QUEUE_ENABLE", "0"),
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
        assert recipe.REPLACED[variable]


def test_asking_for_an_environment_changes_none(monkeypatch):
    before = dict(os.environ)
    launch_env("910B3", 8, container=True, deterministic=True)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("chip", "world_size", "era", "words"),
    [
        ("910C", 1, "today", "'910C' is not in the table"),
        ("910B3", 0, "today", "world_size is 0"),
        ("910B3", "2", "today", "world_size is '2'"),
        ("910B3", True, "today", "world_size is True"),
        ("910B3", 1, "2023", "era is '2023'; choose today or guide"),
        ("310B4", 2, "today", "use one rank"),
        ("910A", 3, "today", "1, 2, 4 or 8 ranks"),
    ],
)
def test_an_environment_for_nothing_there_is_refused(chip, world_size, era, words):
    with pytest.raises(SettingsError, match=words):
        launch_env(chip, world_size, era=era)


@pytest.mark.parametrize("chip", ["310P3", "300I Duo", "910A"])
def test_lccl_is_refused_where_it_does_not_exist(chip):
    with pytest.raises(SettingsError, match=f"{chip} has no lccl; use hccl"):
        launch_env(CHIPS[chip], 2, backend="lccl")


@pytest.mark.parametrize("ids", [(1, 0), (0, 0), (0,), (0, 1, 2), (-1, 0)])
def test_device_ids_that_torch_npu_would_read_as_none_are_refused(ids):
    with pytest.raises(SettingsError, match="strictly ascending"):
        launch_env(CHIPS["910B3"], 2, device_ids=ids)


def test_a_variable_that_the_user_exported_is_left_as_it_is_and_listed_as_kept():
    exported = {"TASK_QUEUE_ENABLE": "1", "HCCL_BUFFSIZE": "200", "HOME": "/root"}
    plain = launch_env("910B3", 2)
    env = launch_env("910B3", 2, exported=exported)
    assert env == {name: plain[name] for name in plain if name not in exported}
    at = Launch(CHIPS["910B3"], 2, container=False, deterministic=False)
    assert kept(env, at, exported) == {"TASK_QUEUE_ENABLE": "1", "HCCL_BUFFSIZE": "200"}
    assert kept(plain, at) == {}


@pytest.mark.parametrize("chip", ["910B3", "A3", "310P3", "910A"])
def test_the_two_allocator_variables_never_go_out_together(chip):
    """torch_npu ends when it finds both (NPUAllocatorConfig.cpp:52)."""
    new = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert "PYTORCH_NPU_ALLOC_CONF" in launch_env(chip, 1)
    assert "PYTORCH_NPU_ALLOC_CONF" not in launch_env(chip, 1, exported=new)
    at = Launch(CHIPS[chip], 1, container=False, deterministic=False)
    assert kept(launch_env(chip, 1, exported=new), at, new) == new


@pytest.mark.parametrize(
    ("chip", "size", "exported", "words"),
    [
        (
            "910B3",
            1,
            {"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_NPU_ALLOC_CONF": "a:1"},
            "PYTORCH_ALLOC_CONF=a:1.*NPUAllocatorConfig.cpp:52.*unset PYTORCH_ALLOC_CONF",
        ),
        ("A3", 1, {"INF_NAN_MODE_ENABLE": "0"}, "NpuVariables.cpp:83.*unset INF_NAN_MODE_ENABLE"),
        ("300I Duo", 2, {"BACKEND": "lccl"}, "310P has no lccl.*unset BACKEND"),
        (
            "300I Duo",
            2,
            {"BACKEND": "lccl", "PYTORCH_ALLOC_CONF": "", "PYTORCH_NPU_ALLOC_CONF": ""},
            "unset PYTORCH_ALLOC_CONF BACKEND",
        ),
    ],
)
def test_exported_values_that_end_every_rank_are_refused_with_their_source(
    chip, size, exported, words
):
    with pytest.raises(SettingsError, match=words):
        launch_env(chip, size, exported=exported)


@pytest.mark.parametrize(
    ("chip", "size", "exported"),
    [
        ("cpu", 2, {"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_NPU_ALLOC_CONF": "a:1"}),
        ("310P3", 1, {"INF_NAN_MODE_ENABLE": "0"}),
        ("910B3", 1, {"INF_NAN_MODE_ENABLE": "0", "INF_NAN_MODE_FORCE_DISABLE": "1"}),
        ("910B3", 2, {"BACKEND": "lccl"}),
        ("300I Duo", 1, {"BACKEND": "lccl"}),
    ],
)
def test_values_that_end_no_rank_are_not_refused(chip, size, exported):
    launch_env(chip, size, exported=exported)


def test_the_chips_that_are_visible_decide_whether_hccl_serves_them():
    with pytest.raises(SettingsError, match="0 to 3"):
        launch_env("910A", 2, exported={"ASCEND_RT_VISIBLE_DEVICES": "3,4"})
    launch_env("910A", 2, exported={"ASCEND_RT_VISIBLE_DEVICES": "4,5"})
