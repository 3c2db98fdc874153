"""What a run runs on, read without starting any device: versions, processor, memory, variables. No names of people."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from neoxlib import __version__
from neoxlib.errors import NeoXError
from neoxlib.machine import limits

PACKAGES = ("torch", "torch-npu", "transformers", "ipyparallel")
PREFIXES = ("ASCEND_", "ATB_", "HCCL_", "LCCL_", "NPU_", "TORCH_", "OMP_", "MKL_", "INT8_")
VARIABLES = ("MAX_SEQ_LEN", "LD_PRELOAD", "TASK_QUEUE_ENABLE", "PYTORCH_NPU_ALLOC_CONF")


def describe(device: str) -> dict[str, Any]:
    """One flat table, plus the environment variables that change results or speed."""
    cores = limits.read_cores()
    memory = limits.memory()
    return {
        "device": _device(device),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores.count,
        "memory_gb": round(memory.total / 1e9, 1),
        "limits": "; ".join(filter(None, (cores.limit, memory.limit))) or None,
        "neoxlib": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "git": _git_hash(),
        "variables": _variables(),
    }


def _device(device: str) -> str:
    """The device that `auto` means here; a device that is not there is the business of whoever opens it."""
    from neoxlib.machine.devices import pick_device  # run what the ranks run

    try:
        return pick_device(device)
    except NeoXError:
        return f"{device} (not found)"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (
        line.partition(":")[2].strip()
        for line in lines
        if line.lower().startswith(("model name", "hardware"))
    )
    return next(names, "") or platform.processor() or "not known"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_hash() -> str | None:
    """The commit of the checkout that neoxlib runs from; None where it was installed without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
            or None
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _variables() -> dict[str, str]:
    named = {k: v for k, v in os.environ.items() if k in VARIABLES or k.startswith(PREFIXES)}
    return {name: without_home(value) for name, value in sorted(named.items())}


def without_home(text: str) -> str:
    """The text with the home folder written as ~: a report is read by others."""
    home = os.path.expanduser("~")  # as it is where nobody knows of a home
    return text.replace(home, "~") if len(home) > 1 else text
