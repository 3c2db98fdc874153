"""What ranks and kernels need of this machine, asked first: files, threads, loopback, ports."""

import resource
import socket
import threading
from contextlib import ExitStack

import psutil

from neoxlib.errors import SettingsError

# The controller has most: 131 open files were seen with one rank, 149 with four.
FILES = 144
FILES_PER_RANK = 8
OWN_FILES = 64  # of this process: 26 were seen, and while it starts PORTS
THREADS = 16  # 11 of the controller's processes were seen
THREADS_PER_RANK = 24  # 16 were seen, of which one computes
KERNEL_THREADS = 24  # 15 were seen
PORTS = 24  # the controller listens on 18
LOOPBACK = "127.0.0.1"
LIMIT_SECONDS = 2.0  # to connect to this machine itself


def check_machine(world_size: int) -> None:
    """Raise SettingsError if a session of `world_size` ranks could not start on this machine."""
    _check_files(FILES + FILES_PER_RANK * world_size)
    _check_threads(THREADS + THREADS_PER_RANK * world_size)
    _check_loopback()
    _check_ports()


def check_kernel() -> None:
    """Raise SettingsError if the kernel of a notebook could not start on this machine."""
    _check_threads(KERNEL_THREADS)
    _check_loopback()


def _check_files(needed: int) -> None:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return
    if limit >= needed:
        _check_own_files(limit)
        return
    cure = f"raise it with `ulimit -n {max(needed, 1024)}`"
    if most != resource.RLIM_INFINITY and most < needed:
        cure = f"its hard limit is {most}, which only an administrator can raise"
    raise SettingsError(
        f"a process may have {limit} open files here (ulimit -n), and ranks need {needed}; {cure}"
    )


def _check_own_files(limit: int) -> None:
    opened = psutil.Process().num_fds()
    if limit - opened < OWN_FILES:
        raise SettingsError(
            f"{opened} of the {limit} files that this process may have open (ulimit -n) are open, "
            f"and a session needs {OWN_FILES} more; close some, or raise the limit"
        )


def _check_threads(needed: int) -> None:
    """Start as many: limits count threads of all processes, and there are several limits."""
    over = threading.Event()
    held = [threading.Thread(target=over.wait, daemon=True) for _ in range(needed)]
    started = 0
    try:
        for thread in held:
            thread.start()
            started += 1
    except RuntimeError as error:  # can't start new thread
        raise SettingsError(
            f"{started} more threads can be started here, and {needed} are needed; `ulimit -u` or "
            "the limit of processes of a container (pids.max) has to be raised"
        ) from error
    finally:
        over.set()
        for thread in held[:started]:
            thread.join()


def _check_loopback() -> None:
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), LIMIT_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"{LOOPBACK}, over which processes of this machine reach each other, does not answer "
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
