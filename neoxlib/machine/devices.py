"""Which device and dtype a run gets here. The facts of each chip and the ranks' environment are reached from here, too.

No accelerator is initialised here, and torch is not imported: that alone fails where torch_npu lacks its libraries.
"""

import glob
import importlib.util
import logging
import os
import subprocess
import sys
from functools import cache

from neoxlib.errors import SettingsError, telling
from neoxlib.machine import npu_smi
from neoxlib.machine.chips import CHIPS, Chip, chip, chip_of_card
from neoxlib.machine.launch_env import RECIPE, launch_env

__all__ = [
    "CHIPS",
    "DEVICES",
    "DTYPES",
    "RECIPE",
    "Chip",
    "chip",
    "chip_for",
    "chip_here",
    "chip_of_card",
    "launch_env",
    "npu_problems",
    "pick_device",
    "pick_dtype",
]

log = logging.getLogger("neoxlib")

DEVICES = ("auto", "cpu", "npu")
DTYPES = ("auto", "float32", "float16", "bfloat16")


@cache
def chip_here() -> Chip | None:
    """The chip of this machine as npu-smi names it; None where there is none or the name is not in the table."""
    answer = npu_smi.read()
    if answer and answer.failure:
        log.warning("not all that npu-smi says of this machine is known: %s", answer.failure)
    return (
        chip_of_card(answer.cards[0].name, answer.cards[0].total_mib)
        if answer and answer.cards
        else None
    )


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
        raise SettingsError(
            "device 'npu' cannot be used here: "
            + "; ".join(problems)
            + '. Or run with device="cpu".'
        )
    return "cpu" if problems else "npu"


@cache
def npu_problems() -> tuple[str, ...]:
    """Every reason why no NPU can be used from this environment; empty where one can. Asked once per process."""
    problems = []
    if importlib.util.find_spec("torch_npu") is None:
        problems.append("torch_npu is not installed (pip install 'neoxlib[npu]')")
    if not glob.glob("/dev/davinci[0-9]*"):
        problems.append(
            "there is no /dev/davinci* (no card, no driver, or a container without the devices)"
        )
    if not os.environ.get("ASCEND_HOME_PATH"):
        problems.append(
            "CANN is not sourced (source /usr/local/Ascend/ascend-toolkit/set_env.sh before Python)"
        )
    return tuple(problems) or _count_problem()


def _count_problem() -> tuple[str, ...]:
    """Let a throw-away process count the devices: asking torch_npu here would initialise it for good."""
    ask = "import torch, torch_npu; print('NPUs', torch.npu.device_count())"
    try:
        command = [sys.executable, "-P", "-c", ask]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return ("torch_npu did not answer within 120 s (npu-smi info shows the cards' health)",)
    if done.returncode:
        return ("torch_npu cannot be imported: " + (telling(done.stderr) or ["no message"])[-1],)
    if done.stdout.split()[-1] == "0":
        return (
            "torch_npu sees no device (ASCEND_RT_VISIBLE_DEVICES must be strictly ascending ids that exist)",
        )
    return ()


def pick_dtype(
    dtype: str, device: str, config_dtype: str | None = None, on: Chip | None = None
) -> str:
    """The dtype a model runs in. "auto" is float32 on the CPU; on an NPU the checkpoint's own, else float16.

    `device` is what `pick_device` gave; `on` is the chip, by default this machine's. SettingsError says why a dtype is
    refused: the fused attention takes 16-bit types only, and 310P has no bfloat16.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if device == "cpu":
        return "float32" if dtype == "auto" else dtype
    on = on or chip_for(device)
    allowed = on.dtypes
    name = on.name
    if dtype == "auto":
        if config_dtype == "bfloat16" and "bfloat16" not in allowed:
            log.warning(
                "the checkpoint is bfloat16, %s has none: values beyond 65504 will overflow in float16",
                name,
            )
        return config_dtype if config_dtype in allowed else "float16"
    if dtype not in allowed:
        why = (
            "the fused ops take 16-bit types only"
            if dtype == "float32"
            else "the chip's ops have no such type"
        )
        raise SettingsError(
            f"dtype {dtype} cannot be used on {name}: {why}; use {' or '.join(allowed)}"
        )
    return dtype
