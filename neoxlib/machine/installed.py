"""What the files say that driver, firmware and CANN leave behind: versions, and which go together."""

import glob
import re
from pathlib import Path

from neoxlib.machine.versions import order

ROOT = "/usr/local/Ascend"
TOOLKIT_RECORDS = ("ascend_toolkit_install.info", "*-linux/ascend_toolkit_install.info")
KERNEL_RECORDS = (
    "*-linux/ascend_ops_install.info",
    "ascend_ops_install.info",
    "opp_kernel/version.info",
)


def read_pairs(path: str | Path) -> dict[str, str]:
    """The lines `key=value` of a version file; empty where it is not there."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def cann_version(home: str | None) -> str | None:
    """Release of the CANN toolkit at `home` (ASCEND_HOME_PATH), from whichever record its generation keeps."""
    if not home:
        return None
    recorded = _first(home, TOOLKIT_RECORDS, "version")
    return (
        recorded or _from_cfg(home, "toolkit") or _first(home, ("opp/version.info",), "version_dir")
    )


def kernels_version(home: str | None) -> str | None:
    """Release of the kernels (from CANN 8.5 on: ops) at `home`; None where they are not installed."""
    if not home:
        return None
    recorded = _first(home, KERNEL_RECORDS, "version") or _first(
        home, KERNEL_RECORDS, "version_dir"
    )
    return recorded or _from_cfg(home, "opp_kernel")


def driver(root: str = ROOT) -> tuple[str | None, str | None]:
    """Version of the driver, and the range of firmware that it takes, as `[7.0.0,7.7.99]`."""
    info = read_pairs(f"{root}/driver/version.info")
    return info.get("package_version") or info.get("Version"), info.get("compatible_version_fw")


def firmware(root: str = ROOT) -> str | None:
    """Version of the firmware."""
    return read_pairs(f"{root}/firmware/version.info").get("Version")


def in_range(version: str, span: str) -> bool:
    """Whether a version lies in `[7.0.0,7.7.99]` or in one of several such; both ends count."""
    pairs = re.findall(r"\[([\w.]+),([\w.]+)\]", span)
    return any(
        order(low) <= order(version)[: len(order(high))] <= order(high) for low, high in pairs
    )


def _first(home: str, patterns: tuple[str, ...], key: str) -> str | None:
    paths = (path for pattern in patterns for path in sorted(glob.glob(f"{home}/{pattern}")))
    return next((value for path in paths if (value := read_pairs(path).get(key))), None)


def _from_cfg(home: str, part: str) -> str | None:
    """`part_running_version=[7.5.0.1.129:8.0.RC3]` of version.cfg: the release stands after the colon."""
    said = read_pairs(f"{home}/version.cfg").get(f"{part}_running_version", "")
    found = re.search(r":([\w.]+)\]", said)
    return found.group(1) if found else None
