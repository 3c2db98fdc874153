"""Versions of the installed driver, firmware and CANN, read from the files they leave behind."""

import glob
import re
from pathlib import Path

from neoxlib.errors import TOOLKIT
from neoxlib.machine.versions import order

ROOT = "/usr/local/Ascend"
NEW_LAYOUT = "9.0.0"  # since this CANN the toolkit's folder is called cann
TOOLKIT_RECORDS = ("ascend_toolkit_install.info", "*-linux/ascend_toolkit_install.info")
KERNEL_RECORDS = (
    "*-linux/ascend_ops_install.info",
    "ascend_ops_install.info",
    "opp_kernel/version.info",
)


def read_pairs(path: str | Path) -> dict[str, str]:
    """Read the lines `key=value` of a version file; empty if the file does not exist."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def set_env(cann: str) -> str:
    """Return the path of the set_env.sh of a release of CANN."""
    return TOOLKIT[0] if order(cann) >= order(NEW_LAYOUT) else TOOLKIT[-1]


def cann_version(home: str | None) -> str | None:
    """Return the release of the CANN toolkit at `home` (ASCEND_HOME_PATH).

    Each generation of CANN keeps another record; all of them are tried.
    """
    if not home:
        return None
    recorded = _first(home, TOOLKIT_RECORDS, "version")
    return (
        recorded or _from_cfg(home, "toolkit") or _first(home, ("opp/version.info",), "version_dir")
    )


def kernels_version(home: str | None) -> str | None:
    """Return the release of the kernels (since CANN 8.5: ops) at `home`; None if not installed."""
    if not home:
        return None
    recorded = _first(home, KERNEL_RECORDS, "version") or _first(
        home, KERNEL_RECORDS, "version_dir"
    )
    return recorded or _from_cfg(home, "opp_kernel")


def driver(root: str = ROOT) -> tuple[str | None, str | None]:
    """Return the driver's version and the range of firmware it accepts, as `[7.0.0,7.7.99]`."""
    info = read_pairs(f"{root}/driver/version.info")
    return info.get("package_version") or info.get("Version"), info.get("compatible_version_fw")


def firmware(root: str = ROOT) -> str | None:
    """Return the firmware's version."""
    return read_pairs(f"{root}/firmware/version.info").get("Version")


def in_range(version: str, span: str) -> bool:
    """Return whether a version lies in one of the ranges of `[7.0.0,7.7.99],[8.0,8.1]`.

    Both ends are included.
    """
    pairs = re.findall(r"\[([\w.]+),([\w.]+)\]", span)
    return any(
        order(low) <= order(version)[: len(order(high))] <= order(high) for low, high in pairs
    )


def _first(home: str, patterns: tuple[str, ...], key: str) -> str | None:
    paths = (path for pattern in patterns for path in sorted(glob.glob(f"{home}/{pattern}")))
    return next((value for path in paths if (value := read_pairs(path).get(key))), None)


def _from_cfg(home: str, part: str) -> str | None:
    """Read `part_running_version=[7.5.0.1.129:8.0.RC3]`: the release follows the colon."""
    said = read_pairs(f"{home}/version.cfg").get(f"{part}_running_version", "")
    found = re.search(r":([\w.]+)\]", said)
    return found.group(1) if found else None
