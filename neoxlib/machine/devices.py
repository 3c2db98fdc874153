"""The device and the dtype of a run on this machine.

No accelerator is initialised here, and torch is not imported: with a torch_npu that cannot find
its libraries, the import alone fails.
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
from neoxlib.machine.chips import CHIPS, Chip, chip_of_card

log = logging.getLogger("neoxlib")

DEVICES = ("auto", "cpu", "npu")
DTYPES = ("auto", "float32", "float16", "bfloat16")


@cache
def chip_here() -> Chip | None:
    """Return the chip of this machine; None without a card or if the table lacks its name."""
    answer = npu_smi.query()
    if answer and answer.failure:
        log.warning("npu-smi's output was read only in part: %s", answer.failure)
    if not answer or not answer.cards:
        return None
    return chip_of_card(answer.cards[0].name, answer.cards[0].total_mib)


def chip_for(device: str) -> Chip:
    """Return the chip for a result of `pick_device`; for an unknown NPU one without figures."""
    if device == "cpu":
        return CHIPS["cpu"]
    return chip_here() or Chip("unknown NPU", "unknown")


def pick_device(device: str) -> str:
    """Return the device type for "auto", "cpu" or "npu".

    "auto" is the NPU if torch_npu, device nodes and CANN are present and a child process counts at
    least one device. Raises SettingsError for other names and for an NPU that cannot be used.
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
    """List every reason why no NPU can be used here; empty if one can. Cached per process."""
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
    """Count the devices in a child process: in this one torch_npu would stay initialised."""
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
            "torch_npu sees no device "
            "(ASCEND_RT_VISIBLE_DEVICES must be strictly ascending ids that exist)",
        )
    return ()


def pick_dtype(
    dtype: str, device: str, config_dtype: str | None = None, on: Chip | None = None
) -> str:
    """Return the dtype a model runs in.

    "auto" is float32 on the CPU; on an NPU the checkpoint's own, else float16. `device` is a result
    of `pick_device`; `on` is the chip, by default this machine's. Raises SettingsError for a dtype
    that the chip lacks: the fused attention takes 16-bit types only, and 310P has no bfloat16.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if device == "cpu":
        return "float32" if dtype == "auto" else dtype
    on = on or chip_for(device)
    if dtype == "auto":
        return _checkpoints_own(config_dtype, on)
    if dtype in on.dtypes:
        return dtype
    why = "the chip's ops have no such type"
    if dtype == "float32":
        why = "the fused ops take 16-bit types only"
    use = " or ".join(on.dtypes)
    raise SettingsError(f"dtype {dtype} cannot be used on {on.name}: {why}; use {use}")


def _checkpoints_own(config_dtype: str | None, on: Chip) -> str:
    if config_dtype in on.dtypes:
        return config_dtype
    if config_dtype == "bfloat16":
        log.warning(
            "the checkpoint is bfloat16, which %s lacks: values beyond 65504 overflow in float16",
            on.name,
        )
    return "float16"
