"""The environment variables that ranks start with, from a table of the guide's and later advice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neoxlib.errors import SettingsError
from neoxlib.machine import chips
from neoxlib.machine.chips import Chip


@dataclass(frozen=True)
class Launch:
    """The facts that decide a rank's environment.

    `deterministic` asks for all-reduces and matrix products in a fixed order.
    """

    chip: Chip
    world_size: int
    container: bool
    deterministic: bool
    backend: str


@dataclass(frozen=True)
class Setting:
    """One environment variable: its value, its condition, the reason and whose advice it is."""

    name: str
    value: str
    when: Callable[[Launch], bool]
    why: str
    source: str


GUIDE = "vendor's guide"
TORCH_NPU = "torch_npu's docs"
VENDOR = "vendor's later scripts"
OURS = "neoxlib"


def _npu(at: Launch) -> bool:
    return at.chip.name != "cpu"


def _many(at: Launch) -> bool:
    return _npu(at) and at.world_size > 1


# HCCL_EVENT_TIMEOUT must exceed HCCL_EXEC_TIMEOUT. Defaults: EXEC 1836 s, EVENT 1868 s,
# CONNECT 120 s.
# ATB_* matter to the vendor's own graphs and to torch_npu's ATB ops; today's ATB no longer reads
# ..._WITH_TILING.
RECIPE: tuple[Setting, ...] = (
    Setting(
        "TORCH_DEVICE_BACKEND_AUTOLOAD",
        "0",
        lambda at: not _npu(at),
        "a CPU rank must not load torch_npu",
        TORCH_NPU,
    ),
    Setting(
        "ATB_USE_TILING_COPY_STREAM",
        "1",
        lambda at: at.chip.family == "310P",
        "310P: works round a slow copy",
        GUIDE,
    ),
    Setting(
        "ATB_USE_TILING_COPY_STREAM",
        "0",
        lambda at: _npu(at) and at.chip.family != "310P",
        "needed on 310P only",
        GUIDE,
    ),
    Setting(
        "ATB_LAUNCH_KERNEL_WITH_TILING",
        "1",
        lambda at: _npu(at) and at.world_size == 8,
        "the guide's 8-card run",
        GUIDE,
    ),
    Setting(
        "ATB_LAYER_INTERNAL_TENSOR_REUSE", "1", _npu, "a layer's temporaries share memory", GUIDE
    ),
    Setting(
        "ATB_OPERATION_EXECUTE_ASYNC",
        "1",
        lambda at: _npu(at) and not at.container,
        "two-stage op pipeline",
        GUIDE,
    ),
    Setting(
        "ATB_OPERATION_EXECUTE_ASYNC",
        "0",
        lambda at: _npu(at) and at.container,
        "synchronous in a container",
        GUIDE,
    ),
    Setting(
        "TASK_QUEUE_ENABLE",
        "1",
        lambda at: _npu(at) and not at.container,
        "host-side op queue",
        GUIDE,
    ),
    Setting(
        "TASK_QUEUE_ENABLE",
        "0",
        lambda at: _npu(at) and at.container,
        "no op queue in a container",
        GUIDE,
    ),
    Setting(
        "PYTORCH_NPU_ALLOC_CONF",
        "expandable_segments:True",
        lambda at: at.chip.family in ("A2", "A3"),
        "the allocator's cure for fragmentation",
        TORCH_NPU,
    ),
    Setting(
        "PYTORCH_NPU_ALLOC_CONF",
        "max_split_size_mb:2048",
        lambda at: at.chip.family in ("310P", "910A"),
        "keeps large blocks whole",
        GUIDE,
    ),
    Setting(
        "HCCL_CONNECT_TIMEOUT",
        "1800",
        _many,
        "ranks may finish loading minutes apart (120 s by default)",
        OURS,
    ),
    Setting(
        "HCCL_EXEC_TIMEOUT", "1800", _many, "longest wait inside one collective, in seconds", OURS
    ),
    Setting("HCCL_EVENT_TIMEOUT", "1832", _many, "must exceed HCCL_EXEC_TIMEOUT", TORCH_NPU),
    Setting(
        "HCCL_BUFFSIZE",
        "110",
        _many,
        "MB of device memory per communicator (200 by default)",
        GUIDE,
    ),
    Setting("HCCL_WHITELIST_DISABLE", "1", _many, "no whitelist file on a single machine", VENDOR),
    Setting(
        "HCCL_OP_BASE_FFTS_MODE_ENABLE",
        "TRUE",
        _many,
        "scheduling mode of single collectives",
        GUIDE,
    ),
    Setting(
        "BACKEND",
        "hccl",
        lambda at: _many(at) and at.backend == "hccl",
        "overrides an inherited lccl",
        GUIDE,
    ),
    Setting("BACKEND", "lccl", lambda at: _many(at) and at.backend == "lccl", "asked for", GUIDE),
    Setting(
        "HCCL_DETERMINISTIC",
        "true",
        lambda at: _npu(at) and at.deterministic,
        "repeatable all-reduces",
        VENDOR,
    ),
    Setting(
        "LCCL_DETERMINISTIC",
        "1",
        lambda at: _npu(at) and at.deterministic,
        "repeatable all-reduces",
        VENDOR,
    ),
    Setting(
        "ATB_MATMUL_SHUFFLE_K_ENABLE",
        "0",
        lambda at: _npu(at) and at.deterministic,
        "repeatable matmul order",
        VENDOR,
    ),
)

# Variables of the guide that nothing here needs, and their replacements.
REPLACED: dict[str, str] = {
    "RETURN_PERF_DETAIL": "the decode loop's own clocks: perf_mode=detail in 04_profile; "
    "no patched file",
    "TIMEIT": "the same clocks, always on",
    "ATB_SPEED_HOME_PATH": "no part of the vendor's model repository is used",
}


def launch_env(
    chip: Chip | str,
    world_size: int,
    container: bool = False,
    deterministic: bool = False,
    backend: str = "hccl",
    max_seq_len: int | None = None,
    device_ids: Sequence[int] | None = None,
    preload: str = "",
) -> dict[str, str]:
    """Return the environment variables for ranks on `chip`, a row of CHIPS or its name.

    A pure function. `device_ids` become ASCEND_RT_VISIBLE_DEVICES (one per rank), `preload` is the
    libgomp path that aarch64 may need. Raises SettingsError for an unknown chip, an impossible
    world size, a collective library that the chip lacks, and ids that make torch_npu silently see
    no device.
    """
    chip = chips.chip(chip) if isinstance(chip, str) else chip
    _check(chip, world_size, backend)
    at = Launch(chip, world_size, container, deterministic, backend)
    env = {row.name: row.value for row in RECIPE if row.when(at)}
    if max_seq_len is not None:
        env["MAX_SEQ_LEN"] = str(max_seq_len)
    if preload:
        env["LD_PRELOAD"] = preload
    if device_ids is not None and chip.name != "cpu":
        env["ASCEND_RT_VISIBLE_DEVICES"] = _visible(device_ids, world_size)
    return env


def _check(chip: Chip, world_size: int, backend: str) -> None:
    if type(world_size) is not int or world_size < 1:
        raise SettingsError(f"world_size is {world_size!r}; it is the number of ranks, 1 or more")
    needed = world_size > 1 or chip.collectives  # one rank of a chip without any needs none
    if chip.name != "cpu" and needed and backend not in chip.collectives:
        rather = " or ".join(chip.collectives) or "one rank"
        raise SettingsError(f"{chip.name} has no {backend}; use {rather}")


def _visible(ids: Sequence[int], world_size: int) -> str:
    if list(ids) != sorted(set(ids)) or len(ids) != world_size or min(ids, default=-1) < 0:
        raise SettingsError(
            f"device ids {list(ids)} do not name one card for each of {world_size} ranks in "
            "strictly ascending order, e.g. 0,1,2,3 (torch_npu sees no device otherwise)"
        )
    return ",".join(str(i) for i in ids)
