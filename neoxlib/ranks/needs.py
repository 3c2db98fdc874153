"""What ranks of this machine need of it, asked before one starts: open files, loopback, ports."""

import resource
import socket
from contextlib import ExitStack

from neoxlib.errors import SettingsError

# The controller has most: 113 open files were seen with one rank, 131 with four.
FILES = 128
FILES_PER_RANK = 8
PORTS = 24  # the controller listens on 18
LOOPBACK = "127.0.0.1"
LIMIT_SECONDS = 2.0  # to connect to this machine itself


def check_machine(world_size: int) -> None:
    """Raise SettingsError if a session of `world_size` ranks could not start on this machine."""
    _check_files(FILES + FILES_PER_RANK * world_size)
    _check_loopback()
    _check_ports()


def _check_files(needed: int) -> None:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return
    cure = f"raise it with `ulimit -n {max(needed, 1024)}`"
    if most != resource.RLIM_INFINITY and most < needed:
        cure = f"its hard limit is {most}, which only an administrator can raise"
    raise SettingsError(
        f"a process may have {limit} open files here (ulimit -n), and ranks need {needed}; {cure}"
    )


def _check_loopback() -> None:
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), LIMIT_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"{LOOPBACK}, over which the ranks of this machine are reached, does not answer "
            f"({error.strerror or error}); `ip link set lo up` starts it, and a firewall must let "
            "it through"
        ) from error


def _check_ports() -> None:
    """The controller looks for free ports without end where there are too few."""
    with ExitStack() as held:
        for count in range(PORTS):
            try:
                held.enter_context(socket.socket()).bind((LOOPBACK, 0))
            except OSError as error:
                raise SettingsError(
                    f"{count} ports of {LOOPBACK} are free, and ranks need {PORTS}; `ss -tan` says "
                    "who has the others, and net.ipv4.ip_local_port_range which ports may be given"
                ) from error
