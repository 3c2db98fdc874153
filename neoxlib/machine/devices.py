"""The device and the dtype of a run on this machine.

No accelerator is initialised here, and torch is not imported: with a torch_npu that cannot find
its libraries, the import alone fails.
"""

import glob
import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

from neoxlib.errors import SettingsError, source_command, telling
from neoxlib.machine import npu_smi
from neoxlib.machine.chips import CHIPS, Chip, chip_of_card, chip_of_soc
from neoxlib.machine.npu_smi import Card, Smi

log = logging.getLogger("neoxlib")

DEVICES = ("auto", "cpu", "npu")
DTYPES = ("auto", "float32", "float16", "bfloat16")


UNKNOWN = Chip("unknown NPU (PyTorch's own operators, slower)", "unknown")
CHILD_SECONDS = 120  # a process that imports torch_npu takes 5 to 15 s on a slow host


@dataclass(frozen=True)
class NpuAnswers:
    """What a machine's NPUs answered: the reasons against using one, and npu-smi's table."""

    problems: tuple[str, ...]
    smi: Smi | None


_held = SimpleNamespace(answers=None)  # in a rank: what its driver was answered


def npu_answers() -> NpuAnswers:
    """Return what this machine's NPUs answered, to hand to the ranks of this machine."""
    return NpuAnswers(npu_problems(), smi_here())


def take_answers(answers: NpuAnswers | None) -> None:
    """Use the driver's answers from now on, so that not every rank asks; None asks anew."""
    _held.answers = answers
    for asked in (npu_problems, _named_chip, _chip_of_child):
        asked.cache_clear()


def smi_here() -> Smi | None:
    """Return npu-smi's table: the driver's in a rank that was handed one, else today's."""
    return _held.answers.smi if _held.answers else npu_smi.query()


def chip_at(card: Card, cards: Sequence[Card]) -> Chip | None:
    """Return the chip behind one of the `cards` of npu-smi, or None if the table lacks it."""
    return chip_of_card(card.name, card.total_mib, sum(one.npu == card.npu for one in cards))


def chip_here() -> Chip | None:
    """Return the chip of this machine; None without one or if the tables lack it.

    In a process that has started its NPU the SoC code decides, and npu-smi gives the card's
    memory. Elsewhere npu-smi's name does; if it has none, a child process is asked for the code.
    """
    named = _named_chip()
    code = soc_code()
    if code is None:
        return named or _chip_of_child()
    return named if named and code in named.soc else chip_of_soc(code)


def soc_code() -> int | None:
    """Return torch_npu's code of the SoC (NpuVariables.h); None where no NPU was started."""
    npu = getattr(sys.modules.get("torch_npu"), "npu", None)
    if npu is None or not getattr(npu, "is_initialized", bool)():
        return None
    return npu.utils.get_soc_version()


@cache
def _named_chip() -> Chip | None:
    answer = smi_here()
    if answer and answer.failure:
        log.warning("npu-smi's output was read only in part: %s", answer.failure)
    return chip_at(answer.cards[0], answer.cards) if answer and answer.cards else None


@cache
def _chip_of_child() -> Chip | None:
    """Ask a child process for the SoC code of a usable NPU that npu-smi does not name."""
    if npu_problems():
        return None
    ask = "import torch, torch_npu; print('SoC', torch_npu.npu.utils.get_soc_version())"
    done = _in_child(ask)
    found = re.search(r"^SoC (\d+)$", done.stdout, re.M) if done else None
    return chip_of_soc(int(found[1])) if found else None


def chip_for(device: str) -> Chip:
    """Return the chip for a result of `pick_device`; for an unknown NPU one without figures."""
    if device == "cpu":
        return CHIPS["cpu"]
    found = chip_here()
    if found is None:
        log.warning(
            "neither npu-smi nor torch_npu's SoC code (%s) names a chip of the table: the model "
            "runs on PyTorch's own operators, slower; `python -m neoxlib doctor` says more",
            soc_code(),
        )
    return found or UNKNOWN


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
    """List every reason why no NPU can be used here; empty if one can. Cached per process.

    A rank that was handed its driver's answers does not ask again.
    """
    if _held.answers:
        return _held.answers.problems
    problems = []
    if importlib.util.find_spec("torch_npu") is None:
        problems.append("torch_npu is not installed (pip install 'neoxlib[npu]')")
    if not glob.glob("/dev/davinci[0-9]*"):
        problems.append(
            "there is no /dev/davinci* (no card, no driver, or a container without the devices)"
        )
    if not os.environ.get("ASCEND_HOME_PATH"):
        problems.append(f"CANN is not sourced ({source_command()} before Python)")
    return tuple(problems) or _count_problem()


def _count_problem() -> tuple[str, ...]:
    """Count the devices in a child process: in this one torch_npu would stay initialised."""
    done = _in_child("import torch, torch_npu; print('NPUs', torch.npu.device_count())")
    if done is None:
        return (
            f"torch_npu did not answer within {CHILD_SECONDS} s "
            "(npu-smi info shows the cards' health)",
        )
    if done.returncode:
        return ("torch_npu cannot be imported: " + (telling(done.stderr) or ["no message"])[-1],)
    if re.search(r"^NPUs 0$", done.stdout, re.M):
        return (
            "torch_npu sees no device "
            "(ASCEND_RT_VISIBLE_DEVICES must be strictly ascending ids that exist)",
        )
    return ()


def _in_child(code: str) -> subprocess.CompletedProcess[str] | None:
    """Run Python code in a process of its own; None if it did not end in time."""
    command = [sys.executable, "-P", "-c", code]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        return None


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
