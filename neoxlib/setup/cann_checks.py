"""Checks of the software between PyTorch and the NPU: CANN, its kernels, torch_npu and ATB."""

from neoxlib.errors import source_command
from neoxlib.machine.host import Host
from neoxlib.machine.versions import (
    PYTHONS,
    RELEASES,
    Release,
    cann_for,
    fits_python,
    order,
    release_of,
    same_cann,
)
from neoxlib.setup.machine_checks import CheckRow, HostCheck, base, verdict
from neoxlib.setup.npu_checks import step_command


def source(host: Host) -> str:
    """Return the command that puts CANN into the environment of a Python to be started."""
    jupyter = "python -m neoxlib environment FOLDER"
    return f"{source_command(host.set_env)}  # then start Python anew; for Jupyter: {jupyter}"


def _installs(host: Host) -> bool:
    return bool(host.set_env) or host.sourced


def toolkit(host: Host) -> CheckRow | None:
    """Check that CANN's set_env.sh was sourced."""
    if not host.has_npu and not host.sourced:
        return None
    version = host.cann or "version not known"
    state = "sourced" if host.sourced else "not sourced in this environment"
    found = f"{version}, {state}" if _installs(host) else "no set_env.sh below /usr/local/Ascend"
    repair = source(host) if _installs(host) else step_command(host, "CANN toolkit")
    return verdict(
        "CANN toolkit",
        host.sourced,
        found,
        "ASCEND_HOME_PATH, before Python starts",
        repair,
        "FAIL",
    )


def kernels(host: Host) -> CheckRow | None:
    """Check for kernels (ops) of the toolkit's release.

    Without them each op fails or is compiled at first use.
    """
    if not host.has_npu or not host.sourced:
        return None
    repair = step_command(host, "CANN kernels")
    if host.cann_kernels is None:
        return CheckRow(
            "CANN kernels", "WARN", "none found beside the toolkit", "those of this chip", repair
        )
    fine = host.cann is None or same_cann(host.cann_kernels, host.cann)
    return verdict(
        "CANN kernels", fine, host.cann_kernels, f"{host.cann}, as the toolkit", repair, "FAIL"
    )


def python_needs(host: Host) -> CheckRow | None:
    """Check the Python packages of CANN's compiler.

    Without them it ends the process at the first print of a tensor (EH9999, init env failed).
    """
    if not host.sourced:
        return None
    lost = " ".join(host.cann_needs)
    found = f"missing: {lost}" if lost else "all there"
    return verdict(
        "CANN's Python packages",
        not lost,
        found,
        "what its tools import",
        f"pip install {lost}",
        "FAIL",
    )


def torch_npu(host: Host) -> CheckRow | None:
    """Check that torch_npu is installed, can be loaded and has no second accelerator beside it."""
    if host.torch_npu is None:
        repair = step_command(host, "torch_npu")
        return (
            CheckRow("torch_npu", "FAIL", "not installed", "torch's NPU backend", repair)
            if host.has_npu
            else None
        )
    found = host.torch_npu or "version not known"
    torch = host.packages.get("torch") or ""
    if not host.sourced:
        return _unsourced(host, found)
    needed = "a CPU build of torch: two accelerators cannot be used at the same time"
    return verdict(
        "torch_npu",
        "+cu" not in torch,
        f"{found} beside torch {torch or '?'}",
        needed,
        f"pip install --force-reinstall torch=={base(torch)} --index-url "
        "https://download.pytorch.org/whl/cpu",
        "FAIL",
    )


def _unsourced(host: Host, found: str) -> CheckRow:
    """Judge a torch_npu without CANN: torch loads it, so `import torch` fails, on the CPU too."""
    if host.env.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        off = f"{found}, kept out by TORCH_DEVICE_BACKEND_AUTOLOAD=0"
        return verdict(
            "torch_npu", not host.has_npu, off, "CANN sourced, to use NPUs", source(host)
        )
    off = "export TORCH_DEVICE_BACKEND_AUTOLOAD=0"
    repair = (
        f"{source(host)}; for the CPU alone: {off}"
        if host.has_npu
        else f"{off}  # or: pip uninstall torch-npu"
    )
    return CheckRow(
        "torch_npu",
        "FAIL",
        f"{found}, but CANN is not sourced",
        "CANN, else `import torch` fails",
        repair,
    )


def pairing(host: Host) -> CheckRow | None:
    """Check that torch, torch_npu, CANN and Python belong to one row of the vendor's table."""
    if not host.torch_npu or not host.packages.get("torch"):
        return None
    torch = base(host.packages["torch"])
    release = _release_there(host.torch_npu)
    found = f"torch {torch}, torch_npu {host.torch_npu}"
    found += f", CANN {host.cann or 'not known'}, Python {host.python}"
    if release is None:
        needed = "a torch_npu of the vendor's table (neoxlib/machine/versions.py)"
        return CheckRow("pairing", "WARN", found, needed, f"pip install torch-npu=={torch}")
    if torch != release.torch:
        release = _release_for(torch, host.cann)
    repair = _repair(host, release)
    return verdict("pairing", not repair, found, _asks(release), repair, "FAIL")


def _release_there(torch_npu: str) -> Release | None:
    """Return the row of this torch_npu, else the newest one for the torch in its number."""
    same_torch = (one for one in RELEASES if torch_npu.startswith(one.torch))
    return release_of(torch_npu) or next(same_torch, None)


def _release_for(torch: str, cann: str | None) -> Release:
    """Return a row for this torch: one that accepts the installed CANN if there is one."""
    rows = [one for one in RELEASES if one.torch == torch]
    fitting = (one for one in rows if cann and _takes(one, cann))
    return next(fitting, rows[0] if rows else Release(torch, torch, None))


def _asks(release: Release) -> str:
    """Say a row of the table in words; for a torch outside the table only its torch_npu."""
    both = f"torch_npu {release.torch_npu} beside torch {release.torch}"
    if release not in RELEASES:
        return both
    low, high = PYTHONS[release.torch]
    cann = release.cann or f"{cann_for(release)} or later"
    return f"{both}, CANN {cann}, Python {low} to {high}"


def _repair(host: Host, release: Release) -> str:
    """Return the commands that make all four agree with `release`; empty if they do."""
    commands = []
    if not (host.torch_npu or "").startswith(release.torch):
        commands.append(f"pip install torch-npu=={release.torch_npu}")
    if not fits_python(release.torch, host.python):
        commands.append("conda env create -f environment.yml && conda activate neoxlib")
    if host.cann and release in RELEASES and not _takes(release, host.cann):
        rows = [one for one in RELEASES if one.torch == release.torch and one.cann]
        other = next((one for one in rows if _takes(one, host.cann)), None)
        commands.append(
            f"pip install torch-npu=={other.torch_npu}"
            if other
            else step_command(host, "CANN toolkit")
        )
    return " && ".join(commands)


def _takes(release: Release, cann: str) -> bool:
    """Return whether a release runs on this CANN.

    If the tables do not name its CANN, it takes its predecessor's or a later one.
    """
    wanted = cann_for(release)
    return same_cann(cann, wanted) or (release.cann is None and order(cann) > order(wanted))


def atb(host: Host) -> CheckRow | None:
    """Say whether ATB was sourced; fine without, as neoxlib calls no operator of ATB."""
    if not host.has_npu:
        return None
    found = "sourced" if "ATB_HOME_PATH" in host.env else "not sourced"
    return CheckRow("ATB (NNAL)", "OK", found, "nothing: neoxlib calls no operator of ATB")


def cxx_abi(host: Host) -> CheckRow | None:
    """Check that ATB was sourced for torch's C++ ABI.

    Its set_env.sh asks torch for cxx_abi_0 or cxx_abi_1, and guesses if torch is not found.
    """
    path = host.env.get("ATB_HOME_PATH", "").rstrip("/")
    if host.cxx11_abi is None or not path[-1:].isdigit():
        return None
    sourced = path[-1]
    own = str(int(host.cxx11_abi))
    script = (*host.atb_set_env, "/usr/local/Ascend/nnal/atb/set_env.sh")[0]
    needed = f"cxx_abi_{own}, as torch was built"
    repair = f"source {script} --cxx_abi={own}"
    return verdict("C++ ABI", sourced == own, f"ATB of cxx_abi_{sourced}", needed, repair, "FAIL")


CANN: tuple[HostCheck, ...] = (toolkit, kernels, python_needs, torch_npu, pairing, atb, cxx_abi)
