"""The sourced environment, written as a file to source and as a Jupyter kernel.

A Jupyter kernel does not inherit `source`. Both go into the named folder; nothing is installed and
nothing else is changed.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from neoxlib.errors import SettingsError
from neoxlib.files import overwrite
from neoxlib.machine import environment
from neoxlib.machine.host import Host
from neoxlib.redact import is_secret

if TYPE_CHECKING:
    import pandas as pd

# Variables of this shell, not of the installation.
OURS_ONLY = ("_", "SHLVL", "PWD", "OLDPWD", "ASCEND_RT_VISIBLE_DEVICES")
KERNEL = "neoxlib"


def scripts(host: Host) -> tuple[str, ...]:
    """List the set_env.sh files in the order of sourcing: the newest toolkit, then ATB."""
    return (*host.set_env[:1], *host.atb_set_env[:1])


def extra(host: Host) -> dict[str, str]:
    """Return the variables that Python needs at its start and that no set_env.sh sets."""
    found = {}
    if host.arch == "aarch64" and host.has_npu and host.libgomp:
        found["LD_PRELOAD"] = host.libgomp[0]  # else: cannot allocate memory in static TLS block
    if host.torch_npu is not None and not host.has_npu:
        found["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # else `import torch` fails without CANN
    return found


def environment_text(host: Host) -> str:
    """Return the text of environment.sh."""
    lines = [
        "# Written by neoxlib from what is installed here. "
        "To use it: source environment.sh, then start Python."
    ]
    lines += [f"source {shlex.quote(path)}" for path in scripts(host)]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in extra(host).items()]
    if len(lines) == 1:
        lines.append("# No CANN was found: nothing has to be set to run on the CPU.")
    return "\n".join(lines) + "\n"


def sourced_variables(host: Host, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of a shell that sourced this host's scripts, for a kernel to start with.

    If CANN is already sourced, they are taken from `env`. Raises SettingsError if a script fails.
    """
    paths = () if "ASCEND_HOME_PATH" in env else scripts(host)
    after = dict(env) if not paths else _source(paths, env)
    changed = {name: value for name, value in after.items() if env.get(name) != value}
    kept = environment.variables("sourced", after) if "ASCEND_HOME_PATH" in after else {}
    carried = changed | kept
    left_out = {name for name, value in carried.items() if is_secret(name, value)} | {*OURS_ONLY}
    return {name: carried[name] for name in carried if name not in left_out} | extra(host)


def _source(paths: tuple[str, ...], env: Mapping[str, str]) -> dict[str, str]:
    lines = " && ".join(f"source {shlex.quote(path)} >&2" for path in paths)
    done = subprocess.run(
        ["bash", "-c", f"{lines} && env -0"], env=dict(env), capture_output=True, timeout=120
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise SettingsError(f"{' and '.join(paths)} could not be sourced: {said}")
    items = done.stdout.decode(errors="surrogateescape").split("\0")
    pairs = (item.partition("=") for item in items if item)
    return {name: value for name, _, value in pairs}


def kernel_spec(host: Host, env: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Return the contents of kernel.json.

    Jupyter replaces ${NAME} in values, so a dollar sign is doubled.
    """
    found = sorted(sourced_variables(host, env).items())
    carried = {name: value.replace("$", "$$") for name, value in found}
    on = f"CANN {host.cann or 'of this host'}" if "ASCEND_HOME_PATH" in carried else "CPU"
    launcher = [sys.executable, "-P", "-m", "ipykernel_launcher"]
    return {
        "argv": [*launcher, "-f", "{connection_file}"],
        "display_name": f"neoxlib ({on})",
        "language": "python",
        "env": carried,
    }


def write_environment(
    folder: str | os.PathLike[str], host: Host, env: Mapping[str, str] = os.environ
) -> "pd.DataFrame":
    """Write `environment.sh` and `kernel/kernel.json` below `folder`.

    Returns a table of the files and the command that uses each. Raises SettingsError if a script
    cannot be sourced or the folder cannot be written.
    """
    import pandas as pd

    folder = Path(folder).absolute()
    spec = kernel_spec(host, env)
    kernel = json.dumps(spec, indent=1) + "\n"
    try:
        (folder / "kernel").mkdir(parents=True, exist_ok=True)
        overwrite(folder / "environment.sh", environment_text(host).encode())
        overwrite(folder / "kernel" / "kernel.json", kernel.encode())
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written: {error}; choose another folder"
        ) from error
    install = f"jupyter kernelspec install --user --name {KERNEL} {_typed(folder / 'kernel')}"
    rows = [
        ("environment.sh", "for a shell", f"source {_typed(folder / 'environment.sh')}"),
        ("kernel/kernel.json", f"for Jupyter, with {len(spec['env'])} variables", install),
    ]
    return pd.DataFrame(rows, columns=["file", "what for", "to use it"])


def _typed(path: Path) -> str:
    """Quote a path for a shell, with the home folder as ~: others read the report."""
    home = Path(os.path.expanduser("~"))
    if len(str(home)) > 1 and path.is_relative_to(home):
        return f"~/{shlex.quote(str(path.relative_to(home)))}"
    return shlex.quote(str(path))
