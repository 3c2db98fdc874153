"""The environment that a run records: versions, processor, memory, environment variables.

No device is started, and no name of a person is read.
"""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neoxlib import __version__
from neoxlib.errors import NeoXError
from neoxlib.machine import limits, probes
from neoxlib.machine.versions import installed_version
from neoxlib.redact import shown

PACKAGES = ("torch", "torch-npu", "transformers", "ipyparallel")
MADE_BY = ("/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name")
# Kind of machine -> standard deviation of the log ratio of a time between two quiet runs. That of a
# virtual machine leaves no false alarm over the takes that an idle one recorded
# (tests/fixtures/noise/idle.csv: processes of one commit, whose medians differ by up to 3.4 times);
# with 0.5 there were 1.2 %, with 0.2 2.6 %.
BETWEEN_RUNS = {"virtual": 0.55, "own": 0.03}  # the second is assumed

# The environment variables that matter, as patterns of whole names, each with its uses:
#   results  changes results or speed; every run records it
#   checks   the doctor judges it
#   sourced  CANN's set_env.sh sets it; a Jupyter kernel must be given it
MATTERS: dict[str, tuple[str, ...]] = {
    r"(ASCEND|ATB)_\w+|LD_PRELOAD": ("results", "checks", "sourced"),
    r"(HCCL|LCCL)_\w+|MAX_SEQ_LEN|TASK_QUEUE_ENABLE": ("results", "checks"),
    r"PYTORCH_(NPU_)?ALLOC_CONF|TORCH_DEVICE_BACKEND_AUTOLOAD": ("results", "checks"),
    r"(NPU|TORCH|OMP|MKL|INT8)_\w+": ("results",),
    r"INF_NAN_\w+|BACKEND": ("checks",),
    r"(ASDOPS|LCAL|TOOLCHAIN|CANN)_\w+": ("sourced",),
    r"(LD_LIBRARY_|PYTHON|CMAKE_PREFIX_)?PATH": ("sourced",),
}


def variables(use: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of `env` that MATTERS lists for `use`, sorted by name."""
    patterns = [pattern for pattern, uses in MATTERS.items() if use in uses]
    matching = re.compile("|".join(patterns))
    return {name: value for name, value in sorted(env.items()) if matching.fullmatch(name)}


def describe(device: str) -> dict[str, Any]:
    """Return one flat table, with the environment variables that change results or speed."""
    cores = limits.cores()
    memory = limits.memory()
    return {
        "device": _device(device),
        "machine": kind(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores.count,
        "memory_gb": round(memory.total / 1e9, 1),
        "limits": "; ".join(filter(None, (cores.limit, memory.limit))) or None,
        "neoxlib": __version__,
        "python": platform.python_version(),
        **{name: installed_version(name) for name in PACKAGES},
        "git": _git_hash(),
        "variables": shown(variables("results")),
    }


def kind() -> str:
    """Return the kind of this machine in BETWEEN_RUNS.

    "virtual" is one whose host's other guests are not seen from here. x86 says so in the flags of
    its processors, KVM on aarch64 in the names of its maker or product.
    """
    flags = re.search(r"^flags\s*:.*\bhypervisor\b", probes.text("/proc/cpuinfo") or "", re.M)
    names = " ".join(filter(None, (probes.text(path) for path in MADE_BY)))
    guest = re.search(r"QEMU|KVM|VMware|Xen|Virtual|OpenStack", names)
    found = flags or guest or probes.text("/sys/hypervisor/type")
    return "virtual" if found else "own"


def _device(device: str) -> str:
    """Return the device that "auto" means here; a missing one is noted and not an error."""
    from neoxlib.machine.devices import pick_device

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


def _git_hash() -> str | None:
    """Return the commit of the checkout that neoxlib runs from; None without a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def without_home(text: str) -> str:
    """Replace the home folder by ~: others read the report."""
    home = os.path.expanduser("~")  # stays "~" for a user without a home
    return text.replace(home, "~") if len(home) > 1 else text
