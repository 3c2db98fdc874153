"""What is known about each chip, which device and dtype a run gets, and the environment its ranks are started with.

No accelerator is initialised here, and torch is not imported: that alone fails where torch_npu lacks its libraries.
"""

import glob
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from neoxlib import smi
from neoxlib.errors import SettingsError

log = logging.getLogger("neoxlib")

_THIRD = "third-party pages; no vendor data sheet was read"
_SMI = "npu-smi output in public bug reports"
_ALLOCATOR = "total named in public out-of-memory messages, 60.96 of 64 GiB"
_310P_USABLE = f"{_SMI}: 21525 MB in total, up to 1.8 GB of it in use at idle"
_SCALED = "scaled from the larger or smaller card of the same family"


@dataclass(frozen=True)
class Chip:
    """One device as a rank sees it. A figure that no source gives is None; `sources` says where each one comes from."""

    name: str
    family: str
    soc: tuple[int, ...] = ()  # codes of torch_npu's NpuVariables.h
    memory_gib: float | None = None
    usable_gib: float | None = None  # what is left for weights, cache and workspace
    fp16_tflops: float | None = None  # peak, dense
    bandwidth_gb_s: float | None = None  # device memory, peak, 1e9 bytes/s
    likely: tuple[float, float] | None = None  # share of the bandwidth bound that published decoding reaches, low, high
    link: str | None = None
    dtypes: tuple[str, ...] = ("float16",)
    collectives: tuple[str, ...] = ("hccl",)
    note: str = ""
    sources: dict[str, str] = field(default_factory=dict)


_A2 = {"family": "A2", "dtypes": ("float16", "bfloat16"), "collectives": ("hccl", "lccl"), "likely": (0.57, 0.62)}
_A2_LINK = "HCCS full mesh, 392 GB/s in total"
_310P = {"family": "310P", "link": "PCIe 4.0 x16, no card-to-card link", "likely": (0.63, 0.66)}
_310P |= {"fp16_tflops": 70.0, "bandwidth_gb_s": 204.8}
_LIKELY = {"likely": "published next-token times of 7B and 14B models on the same family, against the same bound"}
_SOURCES = dict.fromkeys(("fp16_tflops", "bandwidth_gb_s", "link"), _THIRD) | _LIKELY

_ROWS = (
    Chip("910B1", soc=(220,), memory_gib=64, usable_gib=60.9, **_A2,
         sources={"memory_gib": _SMI, "usable_gib": _ALLOCATOR} | _LIKELY),
    Chip("910B2", soc=(221, 222), **_A2, sources=_LIKELY),
    Chip("910B3", soc=(223,), memory_gib=64, usable_gib=60.9, fp16_tflops=313.0, bandwidth_gb_s=1600.0, link=_A2_LINK,
         **_A2, note="pages give 256 to 320 TFLOPS and 0.4 to 1.6 TB/s, as '910B' names several bins",
         sources=_SOURCES | {"memory_gib": _SMI, "usable_gib": _ALLOCATOR}),
    Chip("910B4", soc=(224,), memory_gib=32, usable_gib=30.4, fp16_tflops=280.0, bandwidth_gb_s=800.0,
         link=_A2_LINK, **_A2, sources=_SOURCES | {"memory_gib": _SMI, "usable_gib": _SCALED}),
    Chip("910B4-1", soc=(225,), **_A2, sources=_LIKELY),
    Chip("A3", "A3", soc=(250, 251, 252, 253, 254, 255, 256), memory_gib=64, usable_gib=60.9,
         dtypes=("float16", "bfloat16"), note="two chips to an NPU; npu-smi prints Ascend910",
         sources={"memory_gib": _SMI, "usable_gib": _SCALED}),
    Chip("310P3", soc=(202,), memory_gib=24, usable_gib=19.2, **_310P,
         note="300I Pro, 300V Pro, and each of the two chips of a 48 GB 300I Duo",
         sources=_SOURCES | {"memory_gib": _THIRD, "usable_gib": _310P_USABLE}),
    Chip("300I Duo", soc=(202,), memory_gib=48, usable_gib=40.2, **_310P,
         note="one of the two chips of a 96 GB card; npu-smi prints 310P3",
         sources=_SOURCES | {"memory_gib": _THIRD, "usable_gib": _SCALED}),
    Chip("910A", "910A", soc=(102,), memory_gib=32, note="the first generation; npu-smi prints a bare 910B for it",
         sources={"memory_gib": _SMI}),
    Chip("cpu", "cpu", dtypes=("float32", "float16", "bfloat16"), collectives=("gloo",)),
)  # fmt: skip
CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ROWS}

DEVICES = ("auto", "cpu", "npu")
DTYPES = ("auto", "float32", "float16", "bfloat16")
_SMI_NAMES = {"910b": "910a", "ascend910": "a3", "910b2c": "910b2"}


def chip(name: str) -> Chip:
    """The row of CHIPS with this name; case, blanks, dashes and a leading "Ascend" do not matter; SettingsError."""
    found = {_plain(row): CHIPS[row] for row in CHIPS}.get(_plain(name).removeprefix("ascend"))
    if found is None:
        raise SettingsError(f"chip {name!r} is not in the table; known are {', '.join(CHIPS)}")
    return found


def chip_of_card(name: str, total_mib: int | None = None) -> Chip | None:
    """The chip behind a name that npu-smi prints, or None where the table has none.

    Two names mislead: a bare "910B" is the first generation, not the A2 series, and a 310P3 with more than 24 GiB is
    half of a 96 GB 300I Duo.
    """
    plain = _plain(name)
    if plain == "310p3" and (total_mib or 0) > 24 * 1024:
        return CHIPS["300I Duo"]
    plain = _SMI_NAMES.get(plain, plain)
    return next((row for row in CHIPS.values() if _plain(row.name) == plain), None)


@cache
def chip_here() -> Chip | None:
    """The chip of this machine as npu-smi names it; None where there is none or the name is not in the table."""
    answer = smi.read()
    return chip_of_card(answer.cards[0].name, answer.cards[0].total_mib) if answer and answer.cards else None


def chip_for(device: str) -> Chip:
    """The chip behind what `pick_device` gave. An NPU that the table does not have counts as one without figures."""
    return CHIPS["cpu"] if device == "cpu" else chip_here() or Chip("unknown NPU", "unknown")


def pick_device(device: str) -> str:
    """The device type for "auto", "cpu" or "npu"; SettingsError for others, and for an NPU that cannot be used.

    "auto" is the NPU only where torch_npu, device nodes and CANN are there and a throw-away process counts a device.
    """
    if device not in DEVICES:
        raise SettingsError(f"device {device!r} is not known; choose one of {', '.join(DEVICES)}")
    if device == "cpu":
        return "cpu"
    problems = npu_problems()
    if device == "npu" and problems:
        raise SettingsError("device 'npu' cannot be used here: " + "; ".join(problems) + '. Or run with device="cpu".')
    return "cpu" if problems else "npu"


@cache
def npu_problems() -> tuple[str, ...]:
    """Every reason why no NPU can be used from this environment; empty where one can. Asked once per process."""
    problems = []
    if importlib.util.find_spec("torch_npu") is None:
        problems.append("torch_npu is not installed (pip install 'neoxlib[npu]')")
    if not glob.glob("/dev/davinci[0-9]*"):
        problems.append("there is no /dev/davinci* (no card, no driver, or a container without the devices)")
    if not os.environ.get("ASCEND_HOME_PATH"):
        problems.append("CANN is not sourced (source /usr/local/Ascend/ascend-toolkit/set_env.sh before Python)")
    return tuple(problems) or _count_problem()


def _count_problem() -> tuple[str, ...]:
    """Let a throw-away process count the devices: asking torch_npu here would initialise it for good."""
    ask = "import torch, torch_npu; print('NPUs', torch.npu.device_count())"
    try:
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return ("torch_npu did not answer within 120 s (npu-smi info shows the cards' health)",)
    if done.returncode:
        return ("torch_npu cannot be imported: " + (done.stderr.strip().splitlines() or ["no message"])[-1],)
    if done.stdout.split()[-1] == "0":
        return ("torch_npu sees no device (ASCEND_RT_VISIBLE_DEVICES must be strictly ascending ids that exist)",)
    return ()


def pick_dtype(dtype: str, device: str, config_dtype: str | None = None, on: Chip | None = None) -> str:
    """The dtype a model runs in. "auto" is float32 on the CPU; on an NPU the checkpoint's own, else float16.

    `device` is what `pick_device` gave; `on` is the chip, by default this machine's. SettingsError says why a dtype is
    refused: the fused attention takes 16-bit types only, and 310P has no bfloat16.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if device == "cpu":
        return "float32" if dtype == "auto" else dtype
    on = on or chip_for(device)
    allowed, name = on.dtypes, on.name
    if dtype == "auto":
        if config_dtype == "bfloat16" and "bfloat16" not in allowed:
            log.warning("the checkpoint is bfloat16, %s has none: values beyond 65504 will overflow in float16", name)
        return config_dtype if config_dtype in allowed else "float16"
    if dtype not in allowed:
        why = "the fused ops take 16-bit types only" if dtype == "float32" else "the chip's ops have no such type"
        raise SettingsError(f"dtype {dtype} cannot be used on {name}: {why}; use {' or '.join(allowed)}")
    return dtype


@dataclass(frozen=True)
class Launch:
    """What the environment of a rank depends on."""

    chip: Chip
    world_size: int
    container: bool
    deterministic: bool
    backend: str


@dataclass(frozen=True)
class Setting:
    """One environment variable of the recipe: its value, when it is set and why."""

    name: str
    value: str
    when: Callable[[Launch], bool]
    why: str


def _npu(at: Launch) -> bool:
    return at.chip.name != "cpu"


def _many(at: Launch) -> bool:
    return _npu(at) and at.world_size > 1


# HCCL_EVENT_TIMEOUT must exceed HCCL_EXEC_TIMEOUT; the defaults are 1836 and 1868 s, that of CONNECT is 120 s.
RECIPE: tuple[Setting, ...] = (
    Setting("TORCH_DEVICE_BACKEND_AUTOLOAD", "0", lambda at: not _npu(at), "a CPU rank must not load torch_npu"),
    Setting("ATB_USE_TILING_COPY_STREAM", "1", lambda at: at.chip.family == "310P", "310P: works round a slow copy"),
    Setting("ATB_USE_TILING_COPY_STREAM", "0", lambda at: _npu(at) and at.chip.family != "310P", "needed on 310P only"),
    Setting("ATB_LAUNCH_KERNEL_WITH_TILING", "1", lambda at: _npu(at) and at.world_size == 8, "the guide's 8-card run"),
    Setting("ATB_OPERATION_EXECUTE_ASYNC", "1", lambda at: _npu(at) and not at.container, "two-stage op pipeline"),
    Setting("ATB_OPERATION_EXECUTE_ASYNC", "0", lambda at: _npu(at) and at.container, "synchronous in a container"),
    Setting("TASK_QUEUE_ENABLE", "1", lambda at: _npu(at) and not at.container, "host-side op queue"),
    Setting("TASK_QUEUE_ENABLE", "0", lambda at: _npu(at) and at.container, "no op queue in a container"),
    Setting("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True", lambda at: at.chip.family in ("A2", "A3"),
            "the allocator's cure for fragmentation"),
    Setting("PYTORCH_NPU_ALLOC_CONF", "max_split_size_mb:2048", lambda at: at.chip.family in ("310P", "910A"),
            "the guide's allocator setting"),
    Setting("HCCL_CONNECT_TIMEOUT", "1800", _many, "ranks may finish loading minutes apart (120 s by default)"),
    Setting("HCCL_EXEC_TIMEOUT", "1800", _many, "longest wait inside one collective, in seconds"),
    Setting("HCCL_EVENT_TIMEOUT", "1832", _many, "must exceed HCCL_EXEC_TIMEOUT"),
    Setting("HCCL_BUFFSIZE", "110", _many, "MB of device memory per communicator (200 by default)"),
    Setting("HCCL_WHITELIST_DISABLE", "1", _many, "no whitelist file on a single machine"),
    Setting("HCCL_OP_BASE_FFTS_MODE_ENABLE", "TRUE", _many, "the guide's scheduling mode of single collectives"),
    Setting("BACKEND", "hccl", lambda at: _many(at) and at.backend == "hccl", "overrides an inherited lccl"),
    Setting("BACKEND", "lccl", lambda at: _many(at) and at.backend == "lccl", "asked for"),
    Setting("HCCL_DETERMINISTIC", "true", lambda at: _npu(at) and at.deterministic, "repeatable sums over ranks"),
    Setting("LCCL_DETERMINISTIC", "1", lambda at: _npu(at) and at.deterministic, "repeatable sums over ranks"),
    Setting("ATB_MATMUL_SHUFFLE_K_ENABLE", "0", lambda at: _npu(at) and at.deterministic, "repeatable matmul order"),
)  # fmt: skip


def launch_env(
    on: Chip,
    world_size: int,
    container: bool = False,
    deterministic: bool = False,
    backend: str = "hccl",
    max_seq_len: int | None = None,
    device_ids: Sequence[int] | None = None,
    preload: str = "",
) -> dict[str, str]:
    """The environment variables that ranks on this chip are started with; a pure function of its arguments.

    `device_ids` become ASCEND_RT_VISIBLE_DEVICES (one per rank), `preload` is the libgomp path that aarch64 may need.
    SettingsError for a collective library that the chip lacks and for ids that torch_npu would silently read as none.
    """
    if on.name != "cpu" and backend not in on.collectives:
        raise SettingsError(f"{on.name} has no {backend}; use {' or '.join(on.collectives)}")
    at = Launch(on, world_size, container, deterministic, backend)
    env = {row.name: row.value for row in RECIPE if row.when(at)}
    if max_seq_len is not None:
        env["MAX_SEQ_LEN"] = str(max_seq_len)
    if preload:
        env["LD_PRELOAD"] = preload
    if device_ids is not None and on.name != "cpu":
        env["ASCEND_RT_VISIBLE_DEVICES"] = _visible(device_ids, world_size)
    return env


def _visible(ids: Sequence[int], world_size: int) -> str:
    if list(ids) != sorted(set(ids)) or len(ids) != world_size or min(ids, default=-1) < 0:
        raise SettingsError(
            f"device ids {list(ids)} do not name one card for each of {world_size} ranks in strictly ascending order, "
            "e.g. 0,1,2,3 (torch_npu sees no device otherwise)"
        )
    return ",".join(str(i) for i in ids)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
