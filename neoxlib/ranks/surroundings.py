"""The surroundings of ranks: their environment variables and the folder of their logs."""

import os
import tempfile
from pathlib import Path

from neoxlib.errors import SettingsError
from neoxlib.machine.devices import chip_for
from neoxlib.machine.host import container
from neoxlib.machine.launch_env import launch_env
from neoxlib.ranks import placement


def open_log_dir(asked: str | os.PathLike[str] | None) -> Path:
    """Make the folder for logs, by default a new temporary one.

    Raises SettingsError if it cannot be written to.
    """
    try:
        folder = Path(asked or tempfile.mkdtemp(prefix="neoxlib-logs-")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        where = f"log_dir {str(asked)!r}" if asked else "the temporary folder (TMPDIR)"
        why = f"{where} cannot be written to: {error}; name another folder"
        raise SettingsError(why) from error


def rank_environment(world_size: int, device: str, deterministic: bool) -> dict[str, str]:
    """The variables that ranks get on top of this process's environment.

    With a profile the device may be "auto": the ranks find out on their own machines.
    """
    env = {}
    if device in ("cpu", "npu"):
        env = launch_env(chip_for(device), world_size, container() is not None, deterministic)
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        env["OMP_NUM_THREADS"] = str(placement.threads(world_size))
    if "MAX_SEQ_LEN" in os.environ:
        env["MAX_SEQ_LEN"] = os.environ["MAX_SEQ_LEN"]  # ranks on other machines inherit nothing
    return env | {"PYTHONUNBUFFERED": "1"}
