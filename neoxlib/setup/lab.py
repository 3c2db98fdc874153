"""JupyterLab on the notebooks: for this machine only, also for root, and without news."""

import getpass
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from neoxlib.errors import ParameterError
from neoxlib.process import python
from neoxlib.setup.notebook_copies import copy_notebooks
from neoxlib.workbook import arguments
from neoxlib.workbook.run_folder import outputs_root

HERE = "127.0.0.1"
FIRST_PORT = 8888
PORTS = 50  # tried from the first on
# Its labconfig/page_config.json turns the news off; the user's own files stay as they are.
CONFIG = Path(__file__).parent / "jupyter"


def workbook_folder(wanted: Path | None) -> tuple[Path, list[Path]]:
    """Return the folder to open, and the notebooks and presets that were copied into it.

    Without `wanted` it is the folder that `report` takes its notebooks from; those of an installed
    wheel are copied to `notebooks` here, since runs do not belong into the installation.
    """
    found = arguments.notebooks_folder()
    if wanted is None and found != arguments.SHIPPED:  # resolved: in a checkout SHIPPED is a link
        return found, []
    folder = (wanted or Path("notebooks")).absolute()
    return folder, copy_notebooks(folder)


def free_port(wanted: int | None) -> int:
    """Return `wanted`, or the first free port from 8888. Raises ParameterError if none is free."""
    tried = [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + PORTS)
    for port in tried:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HERE, port))
                return port
            except OSError as error:
                why = error.strerror
    raise ParameterError(f"port {tried[-1]} of {HERE} cannot be used ({why}): name one with --port")


def shown_root(folder: Path) -> Path:
    """Return the folder that JupyterLab shows: the one above, if the runs lie beside `folder`.

    A report can then be opened from the notebook that made it.
    """
    folder = folder.absolute()
    return folder.parent if outputs_root().absolute().parent == folder.parent else folder


def command(folder: Path, port: int, browser: bool) -> list[str]:
    """Return the command that starts JupyterLab in `folder`."""
    root = shown_root(folder)
    found = (path for path in sorted(folder.absolute().glob("00*.ipynb")))
    first = next((quote(str(path.relative_to(root))) for path in found), "")
    settings = {
        "ServerApp.ip": HERE,
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,  # the ssh line names this one
        "ServerApp.root_dir": root,
        "LabApp.default_url": f"/lab/tree/{first}" if first else "/lab",
        "KernelManager.transport_encryption": "auto",  # other users may listen on this machine
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
    }
    flags = ["--allow-root"] if os.geteuid() == 0 else []
    flags += [] if browser else ["--no-browser"]
    start = python("jupyterlab.labapp", "main")
    return [*start, *flags, *(f"--{name}={value}" for name, value in settings.items())]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of JupyterLab: where runs go, and the settings of this launch.

    Its kernels import nothing from the folder of a notebook, as those of `report`.
    """
    paths = [str(CONFIG), *filter(None, [inherited.get("JUPYTER_CONFIG_PATH")])]
    ours = {"JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
    default = {"NEOXLIB_OUTPUTS": str(outputs_root()), "PYTHONSAFEPATH": "1"}
    return default | dict(inherited) | ours


def has_screen(environment: Mapping[str, str]) -> bool:
    """Return whether a browser started here is seen by the user."""
    shown = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return bool(shown) and not environment.get("SSH_CONNECTION")


def ssh_line(port: int, environment: Mapping[str, str]) -> str:
    """Return the command that another machine forwards the port with."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        user = "USER"
    connection = environment.get("SSH_CONNECTION", "").split()  # client, port, server, port
    host = connection[2] if len(connection) == 4 else socket.gethostname()
    return f"ssh -L {port}:{HERE}:{port} {user}@{host}"


def start(folder: Path, port: int, browser: bool) -> None:
    """Replace this process by JupyterLab."""
    line = command(folder, port, browser)
    os.execve(line[0], line, environment(os.environ))
