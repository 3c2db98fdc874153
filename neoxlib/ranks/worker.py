"""The code of a rank: entry point, log file, group and calls. The controller starts here, too.

Torch is imported where it is first needed: the driver imports this module, and must stay light.
"""

import ctypes
import faulthandler
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from neoxlib.machine.devices import NpuAnswers, chip_for, pick_device, take_answers
from neoxlib.machine.runtime import import_torch, start_npu
from neoxlib.model import stopping
from neoxlib.ranks.noted import note
from neoxlib.ranks.outcome import Sent, pack, pack_error, publish_pieces, publish_weights
from neoxlib.ranks.placement import bind, threads
from neoxlib.ranks.surroundings import Place, Variables, address_seen_by, own_environment
from neoxlib.redact import Scrubbed, shown

log = logging.getLogger("neoxlib")
POLL_SECONDS = 0.3  # between two looks whether the driver still runs
PR_SET_PDEATHSIG = 1  # of prctl: the signal that comes when the thread that started this one ends
RANK_LOGS = "NEOXLIB_RANK_LOGS"  # names the folder from which logs go to the driver
# Kept in this rank from call to call.
_held = SimpleNamespace(store=None, engine=None, scratch=None, ports=[])


def main(argv: Sequence[str]) -> None:
    """Run ipyparallel's engine or controller for as long as the process `argv[1]` lives.

    It starts in `argv[2]`, the session's temporary folder, since ipyparallel puts the current
    folder first on sys.path; `greet` goes where the driver is. The controller deletes the
    temporary folder when the driver is gone.
    """
    role, driver, scratch, *arguments = argv
    faulthandler.enable(all_threads=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the driver's thread may block some
    os.chdir(scratch)
    _held.scratch = scratch
    last = (scratch, signal.SIGCONT) if role == "controller" else (None, signal.SIGKILL)
    end_with(int(driver), *last)
    # The controller forks helper processes.
    os.register_at_fork(after_in_child=lambda: end_with(os.getppid()))
    app = import_module(f"ipyparallel.{role}.app")
    if role == "controller":
        app.Hub = _forgetful(app.Hub)
        app.util.select_random_ports = kept_ports
    app.main(arguments)


def _forgetful(hub: type) -> type:
    """Return a hub that keeps no ids of calls that have ended: ipyparallel 9.2 keeps them all."""

    class Forgetful(hub):
        def save_queue_result(self, *message: Any) -> None:
            super().save_queue_result(*message)
            self.all_completed.clear()
            for ids in self.completed.values():
                ids.clear()

    return Forgetful


def kept_ports(count: int) -> list[int]:
    """Return free ports that no other program is given before the controller listens there.

    ipyparallel 9.2 lets go of a port that it found, and two sessions that start at once may find
    the same. On Linux a socket with SO_REUSEADDR, bound and not listening, keeps a port from being
    given to others; ZeroMQ, which sets that option too, can listen there.
    """
    for _ in range(count):
        keeper = socket.socket()
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("", 0))
        _held.ports.append(keeper)
    return [keeper.getsockname()[1] for keeper in _held.ports[-count:]]


def end_with(pid: int, scratch: str | None = None, last: signal.Signals = signal.SIGKILL) -> None:
    """End this process soon after `pid` has ended, however that happened.

    `scratch` is a folder that the session of `pid` made: it is deleted then. A process that is
    stopped cannot look, so if `pid` is its parent the kernel sends it `last`: SIGKILL, or SIGCONT
    to one that has to delete a folder.
    """
    if os.getppid() == pid and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(last))
    # psutil compares start times, so a reused pid is not taken for the driver.
    watched = psutil.Process(pid) if psutil.pid_exists(pid) else None

    def watch() -> None:
        while watched is not None and _runs(watched):
            time.sleep(POLL_SECONDS)
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name=f"end with {pid}", daemon=True).start()


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return _runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class RankJob:
    """A call as it is sent to a rank: a function that the rank can import, and its arguments."""

    function: Callable[..., Any]
    args: tuple

    def __call__(self) -> Sent:
        """Return the value, or the error with its class, packed for `outcome_of`."""
        try:
            return pack(self.function(*self.args))
        except BaseException as error:  # a SystemExit must not end the rank either
            note(self.function.__name__, error)
            return pack_error(error, traceback.format_exc())


def host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def greet(rank: int, driver: int, driver_host: str, folder: str, log_dir: str) -> dict[str, Any]:
    """Turn this process into rank `rank`: from here on all output goes to its log.

    Returns rank, pid and host. The working directory becomes `folder` unless that is empty.
    """
    if folder:
        os.chdir(folder)
    sys.path[:] = filter(None, sys.path)  # ipyparallel's "" would be the current folder
    _log_to(log_file(os.environ.get(RANK_LOGS) or log_dir, rank))
    # ipyparallel's handler cannot run while a collective waits.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, lambda *_: stopping.asked.set())
    if driver_host == host() and alive(driver):
        end_with(driver)
    log.info("rank %d is process %d on %s, driven by process %d", rank, os.getpid(), host(), driver)
    return {"rank": rank, "pid": os.getpid(), "host": host()}


def log_file(log_dir: str | Path, rank: int) -> Path:
    """Return the path of a rank's log."""
    return Path(log_dir) / f"rank{rank}.log"


def _log_to(path: Path) -> None:
    """Send stdout, stderr (pipes of ipykernel until now), crashes and neoxlib's log to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = Scrubbed.on(1), Scrubbed.on(2)
    faulthandler.enable(sys.stderr, all_threads=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def equip(
    rank: int,
    hosts: Sequence[str],
    device: str,
    deterministic: bool,
    answers: NpuAnswers | None,
) -> Variables:
    """Prepare this rank before torch is imported: on this machine, hand it the NPUs' answers.

    A rank of a cluster (`answers` is None) asks its own machine and sets its own variables.
    """
    take_answers(answers)
    if answers:
        return Variables({}, {})
    found = own_environment(rank, hosts, device, deterministic)
    os.environ.update(found.added)
    added, kept = map(shown, (found.added, found.kept))
    log.info("rank %d adds the variables %s and keeps %s", rank, added, kept)
    return found


def open_store(rank: int, hosts: Sequence[str]) -> Place | None:
    """Open the store that the ranks meet at, on rank 0; returns its place there, None elsewhere."""
    import_torch()
    from neoxlib.ranks.meeting import open_place

    import_module("neoxlib.inference.load")  # slow: on all ranks at the same time
    if rank:
        return None
    _held.store = open_place(hosts, _held.scratch)
    return _held.store.place


def join(rank: int, hosts: Sequence[str], place: Place, settings: dict[str, Any]) -> dict[str, Any]:
    """Join the group of all ranks and load this rank's shard. Returns Engine.describe()."""
    import torch

    from neoxlib.inference.load import load
    from neoxlib.ranks.collectives import Alone
    from neoxlib.ranks.two_levels import join_ranks

    _meet_on(hosts)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads(hosts.count(hosts[rank])))
    index = hosts[:rank].count(hosts[rank])
    device, chip, backend = _place(settings["device"], index, hosts.count(hosts[rank]))
    if len(hosts) == 1:
        group = Alone()
    else:
        family = chip_for("npu").family if backend == "hccl" and len(set(hosts)) == 1 else ""
        group = join_ranks(rank, hosts, place, backend, chip, family)
    told = publish_weights()
    _held.engine = load(**settings | {"device": device}, group=group, progress=told)
    log.info("rank %d of %d is ready on %s, backend %s", rank, len(hosts), chip, group.backend)
    return _held.engine.describe()


def _meet_on(hosts: Sequence[str]) -> None:
    """Name the interface of this machine that gloo is to use, unless the user has.

    Left alone it takes that of the host's name, which may be one that no other host can see. Ranks
    of one machine always meet on its loopback.
    """
    one = len(set(hosts)) == 1
    address = address_seen_by(hosts)
    for name, rows in psutil.net_if_addrs().items():
        if any(row.address == address for row in rows):
            if one or "GLOO_SOCKET_IFNAME" not in os.environ:
                os.environ["GLOO_SOCKET_IFNAME"] = name
            return


def _place(device: str, index: int, ranks: int) -> tuple[str, str, str]:
    """Device type, device and backend for the `index`-th of the `ranks` ranks of this machine."""
    if pick_device(device) == "cpu":
        return "cpu", "cpu", "gloo"
    bind(index, ranks)
    start_npu(index)
    return "npu", f"npu:{index}", "hccl"


def call(rank: int, method: str, args: tuple, kwargs: dict[str, Any], streams: bool) -> Any:
    """Call a method of the engine on this rank. The answer is rank 0's, a tensor as an array."""
    stopping.asked.clear()
    if streams:
        kwargs = kwargs | {"stream": publish_pieces() if rank == 0 else False}
    answer = getattr(_held.engine, method)(*args, **kwargs)
    return answer if rank == 0 else None


def apply(rank: int, function: Callable[..., Any], args: tuple) -> Any:
    """Call a function of the engine on this rank. The answer is rank 0's, a tensor as an array."""
    answer = function(_held.engine, *args)
    return answer if rank == 0 else None


def look(rank: int, name: str) -> Any:
    """Return an attribute of rank 0's engine."""
    value = getattr(_held.engine, name)  # on every rank, so that an error is everyone's
    return value if rank == 0 else None
