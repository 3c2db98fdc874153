"""The table of environment variables for ranks: value, condition, reason, adviser, effect here.

Facts only; `launch_env.py` applies it. Pages named `X.md:line` are those of torch_npu 9e73e708
(docs/zh/api/environment_variable) and of hccl 09300b70 (docs/zh/user_guide/hccl_env).
"""

from collections.abc import Callable
from dataclasses import dataclass

from neoxlib.machine.chips import Chip


@dataclass(frozen=True)
class Launch:
    """The facts that decide a rank's environment.

    `deterministic` asks for all-reduces and matrix products in a fixed order. `era` is a name of
    versions.ERAS: "guide" takes the guide's own value where later advice differs.
    """

    chip: Chip
    world_size: int
    container: bool
    deterministic: bool
    backend: str = "hccl"
    era: str = "today"


@dataclass(frozen=True)
class Setting:
    """One environment variable: its value, its condition, the reason and whose advice it is.

    `unused` is the reason why it has no effect on a run of neoxlib; "" if it has one.
    """

    name: str
    value: str
    when: Callable[[Launch], bool]
    why: str
    source: str
    unused: str = ""


GUIDE = "vendor's guide"
TORCH_NPU = "torch_npu's docs"
HCCL = "HCCL's docs"
VENDOR = "vendor's later scripts"
OURS = "neoxlib"

# kernels/npu.py calls operators of aclnn and aten; the names ATB_* and LCCL_* are in no source of
# torch_npu 9e73e708, op-plugin 517f2e7d and hccl 09300b70.
NO_ATB = "neoxlib calls no operator of ATB"
NO_LCCL = "LCCL belongs to ATB, which neoxlib does not call"
NOT_READ = "the vendor's own scripts read it; torch_npu does not"
DEFAULT = "1 is HCCL's default (HCCL_WHITELIST_DISABLE.md:10)"
NO_PAGE = "hccl 09300b70 names it in no page and no source"


def _npu(at: Launch) -> bool:
    return at.chip.name != "cpu"


def _many(at: Launch) -> bool:
    return _npu(at) and at.world_size > 1


def _a2(at: Launch) -> bool:
    return at.chip.family in ("A2", "A3")


def _older(at: Launch) -> bool:
    return at.chip.family in ("310P", "910A")


def _guides_container(at: Launch) -> bool:
    return _npu(at) and at.container and at.era == "guide"


def _guides_host(at: Launch) -> bool:
    return _npu(at) and not at.container and at.era == "guide"


def _repeatable(at: Launch) -> bool:
    return _npu(at) and at.deterministic


QUEUE = "TASK_QUEUE_ENABLE"
ALLOCATOR = "PYTORCH_NPU_ALLOC_CONF"
RECIPE: tuple[Setting, ...] = (
    Setting(
        "TORCH_DEVICE_BACKEND_AUTOLOAD",
        "0",
        lambda at: not _npu(at),
        "a CPU rank must not load torch_npu",
        TORCH_NPU,
    ),
    Setting(
        QUEUE,
        "2",
        lambda at: _npu(at) and at.era != "guide",
        "operators and their workspaces are sent by a second thread, in containers too; "
        "peak memory may rise (TASK_QUEUE_ENABLE.md:23, 38)",
        TORCH_NPU,
    ),
    Setting(QUEUE, "1", _guides_host, "the guide's: operators are sent by a second thread", GUIDE),
    Setting(
        QUEUE,
        "0",
        _guides_container,
        "the guide's, for its ATB in containers: every operator waits for its host work",
        GUIDE,
    ),
    Setting(
        ALLOCATOR,
        "expandable_segments:True",
        _a2,
        "the allocator's cure for fragmentation",
        TORCH_NPU,
    ),
    Setting(ALLOCATOR, "max_split_size_mb:2048", _older, "keeps large blocks whole", GUIDE),
    # The wait for a link covers start-up only: ranks begin together. 20 s are added to the value.
    Setting(
        "HCCL_CONNECT_TIMEOUT",
        "600",
        _many,
        "longest wait for a link, in seconds (120 by default, HCCL_CONNECT_TIMEOUT.md:7)",
        OURS,
    ),
    Setting(
        "HCCL_EXEC_TIMEOUT",
        "1800",
        lambda at: _many(at) and not _older(at),
        "longest wait inside one collective, in seconds (HCCL_EXEC_TIMEOUT.md:26: default 1836)",
        OURS,
    ),
    Setting(
        "HCCL_EXEC_TIMEOUT",
        "1768",
        lambda at: _many(at) and _older(at),
        "the same; this chip rounds down to a multiple of 68 (HCCL_EXEC_TIMEOUT.md:35, 43)",
        OURS,
    ),
    Setting(
        "HCCL_EVENT_TIMEOUT",
        "1832",
        _many,
        "must exceed HCCL_EXEC_TIMEOUT (HCCL_EVENT_TIMEOUT.md:25)",
        TORCH_NPU,
    ),
    Setting(
        "HCCL_BUFFSIZE",
        "110",
        _many,
        "MB of device memory, twice for each communicator (200 by default, HCCL_BUFFSIZE.md:21)",
        GUIDE,
    ),
    Setting(
        "HCCL_DETERMINISTIC",
        "true",
        lambda at: _repeatable(at) and not _older(at),
        "repeatable all-reduces; 310P and 910A have no such switch (HCCL_DETERMINISTIC.md:85, 88)",
        HCCL,
    ),
    Setting(
        "ATB_USE_TILING_COPY_STREAM",
        "1",
        lambda at: at.chip.family == "310P",
        "310P: works round a slow copy",
        GUIDE,
        NO_ATB,
    ),
    Setting(
        "ATB_USE_TILING_COPY_STREAM",
        "0",
        lambda at: _npu(at) and at.chip.family != "310P",
        "needed on 310P only",
        GUIDE,
        NO_ATB,
    ),
    Setting(
        "ATB_LAUNCH_KERNEL_WITH_TILING",
        "1",
        lambda at: _npu(at) and at.world_size == 8,
        "the guide's 8-card run",
        GUIDE,
        NO_ATB,
    ),
    Setting(
        "ATB_LAYER_INTERNAL_TENSOR_REUSE",
        "1",
        _npu,
        "a layer's temporaries share memory",
        GUIDE,
        NO_ATB,
    ),
    Setting(
        "ATB_OPERATION_EXECUTE_ASYNC",
        "1",
        lambda at: _npu(at) and not at.container,
        "two-stage op pipeline",
        GUIDE,
        NO_ATB,
    ),
    Setting(
        "ATB_OPERATION_EXECUTE_ASYNC",
        "0",
        lambda at: _npu(at) and at.container,
        "synchronous in a container",
        GUIDE,
        NO_ATB,
    ),
    Setting(
        "HCCL_WHITELIST_DISABLE",
        "1",
        _many,
        "no whitelist file on a single machine",
        VENDOR,
        DEFAULT,
    ),
    Setting(
        "HCCL_OP_BASE_FFTS_MODE_ENABLE",
        "TRUE",
        _many,
        "scheduling mode of single collectives",
        GUIDE,
        NO_PAGE,
    ),
    Setting(
        "BACKEND",
        "hccl",
        lambda at: _many(at) and at.backend == "hccl",
        "the vendor's choice of a collective library",
        GUIDE,
        NOT_READ,
    ),
    Setting(
        "BACKEND",
        "lccl",
        lambda at: _many(at) and at.backend == "lccl",
        "asked for",
        GUIDE,
        NOT_READ,
    ),
    Setting("LCCL_DETERMINISTIC", "1", _repeatable, "repeatable all-reduces", VENDOR, NO_LCCL),
    Setting(
        "ATB_MATMUL_SHUFFLE_K_ENABLE", "0", _repeatable, "repeatable matmul order", VENDOR, NO_ATB
    ),
)

# Variables of the guide that nothing here needs, and their replacements.
REPLACED: dict[str, str] = {
    "RETURN_PERF_DETAIL": "the decode loop's own clocks: perf_mode=detail in 04_profile; "
    "no patched file",
    "TIMEIT": "the same clocks, always on",
    "ATB_SPEED_HOME_PATH": "no part of the vendor's model repository is used",
}
