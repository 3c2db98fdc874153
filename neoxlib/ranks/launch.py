"""Start ranks: an ipyparallel cluster of local processes, or the launchers of a profile."""

import asyncio
import copy
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from ipyparallel import Cluster
from ipyparallel.cluster.launcher import EngineLauncher
from traitlets import Unicode
from traitlets.config import Config

from neoxlib.errors import SettingsError
from neoxlib.hosts.network import NETWORK, own_address
from neoxlib.hosts.profile import OVER_HOSTS, find_profile, read_config
from neoxlib.machine.runtime import torch_must_load
from neoxlib.process import interrupts_held, prepare_children, python
from neoxlib.ranks.memory_kills import MemoryKills, cause_of_kill, memory_kills
from neoxlib.ranks.outcome import import_types
from neoxlib.ranks.worker import alive, log_file

# For the ranks to start and register; loading a model has no limit.
START_SECONDS = 120
ASK_SECONDS = 5.0  # until the list of engines is asked for anew
STOP_SECONDS = 2  # between SIGTERM and SIGKILL
# ipyparallel admits an engine at its first heartbeat; its default is 3 s.
HEARTBEAT_MS = 250
# Beats until an engine on another machine counts as dead; local processes are watched directly.
LOST_BEATS = 30
NEVER = 10**6
QUIETLY = "--log-level=30"
TICK_SECONDS = 0.02
NO_COUNTS = MemoryKills(None, None)
ENDINGS = {
    signal.SIGSEGV: "crashed with a segmentation fault (SIGSEGV)",
    signal.SIGBUS: "crashed with a bus error (SIGBUS): /dev/shm is full, or a mapped file was cut",
    signal.SIGABRT: "aborted (SIGABRT)",
}


class RankLauncher(EngineLauncher):
    """Start ranks as children of this process.

    Rank r asks for engine id r and writes to rank{r}.log from the start.
    """

    log_dir = Unicode(config=True)
    processes: tuple[subprocess.Popen, ...] = ()  # empty before `start`: `stop` may come first
    kills = NO_COUNTS

    def start(self, n: int) -> None:
        """Start `n` ranks; `processes` are in rank order."""
        self.kills = memory_kills()  # before any rank
        for r in range(n):
            with log_file(self.log_dir, r).open("ab") as output:
                command = [*self.args, f"--IPEngine.id={r}"]
                pipes = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
                env = os.environ | self.get_env()
                process = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
            self.processes = (*self.processes, process)
        self.notify_start([process.pid for process in self.processes])

    def ended(self) -> dict[int, str]:
        """How each rank ended that did."""
        codes = {r: process.poll() for r, process in enumerate(self.processes)}
        # Popen says 0 where the driver does not wait for children; no rank ends with it by itself.
        known = {r: code or None for r, code in codes.items() if code is not None}
        return {r: ending(code, self.kills) for r, code in known.items()}

    def send_signal(self, rank: int, number: int) -> None:
        """Send a rank a signal."""
        self.processes[rank].send_signal(number)

    def find_args(self) -> list[str]:
        """Return the command that starts every rank."""
        return [*self.engine_cmd, *self.engine_args]

    async def stop(self) -> None:
        """End every rank and wait for it."""
        for process in self.processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while (
            any(process.poll() is None for process in self.processes)
            and time.monotonic() < deadline
        ):
            await asyncio.sleep(0.01)
        for process in self.processes:
            process.kill()  # has no effect after a wait
            process.wait()
        self.notify_stop({})


def new_cluster(
    size: int, env: dict[str, str], log_dir: Path, scratch: str, profile_dir: str | None
) -> Cluster:
    """Make a cluster, not started yet; without a profile all on this machine, on 127.0.0.1.

    What goes to ranks is encrypted, on this machine too: other users may connect to its ports. The
    keys lie in `scratch`, which only this user can enter, or in the profile.
    """
    profile = read_config(profile_dir) if profile_dir else Config()
    over_hosts = profile.Cluster.get("engine_launcher_class") == OVER_HOSTS
    watched = over_hosts or profile_dir is None
    config = _launcher_config(env, log_dir, scratch, profile, watched)
    place: dict[str, Any] = {"profile_dir": profile_dir, "load_profile": True}
    if watched:
        place = {"profile_dir": scratch, "load_profile": False}
    if profile_dir is None:
        place |= {"engine_launcher_class": RankLauncher, "controller_location": "127.0.0.1"}
    quiet = logging.getLogger("neoxlib.ranks.cluster")
    quiet.setLevel(logging.ERROR)  # ipyparallel prints each start and stop into the notebook
    settings = {"delay": 0, "cluster_file": "", "shutdown_atexit": False, "log": quiet}
    cluster = Cluster(n=size, config=config, **settings, **place)
    beats = [
        f"--HeartMonitor.period={HEARTBEAT_MS}",
        f"--HeartMonitor.max_heartmonitor_misses={NEVER if watched else LOST_BEATS}",
        "--IPController.enable_curve=True",
    ]
    cluster.controller_args = [*beats, "--nodb", "--usethreads", QUIETLY, *cluster.controller_args]
    return cluster


def watches(cluster: Cluster) -> bool:
    """Tell whether the launcher of the ranks is one of neoxlib's, which knows how each ended."""
    return hasattr(cluster.engine_launcher_class, "ended")


def _launcher_config(
    env: dict[str, str], log_dir: Path, scratch: str, profile: Config, watched: bool
) -> Config:
    """Commands, arguments and variables of the controller and the engines.

    Where ranks are `watched` as processes, heartbeats say nothing more.
    """
    entry = python("neoxlib.ranks.worker", "main", "sys.argv[1:]")
    driver = [str(os.getpid()), scratch]
    common = [QUIETLY, f"--timeout={START_SECONDS}"]
    unwatched = ["--IPEngine.enable_nanny=False", "--IPEngine.max_heartbeat_misses=0"]
    alone = [f"--IPEngine.max_heartbeat_misses={LOST_BEATS}"]
    config = copy.deepcopy(profile)
    config.LocalControllerLauncher.controller_cmd = [*entry, "controller", *driver]
    config.EngineLauncher.environment = dict(profile.EngineLauncher.get("environment", {})) | env
    # A rank that a profile's launcher starts has no -P: it must not import from where it starts.
    config.EngineLauncher.environment["PYTHONSAFEPATH"] = "1"
    config.EngineLauncher.engine_args = [*common, *(unwatched if watched else alone)]
    config.RankLauncher.engine_cmd = [*entry, "engine", *driver]
    # Another IPYTHONDIR, so that the user's start-up scripts do not run.
    config.RankLauncher.environment = env | {"IPYTHONDIR": scratch}
    if profile.HostsLauncher.get("slurm"):  # this machine may be another node each time
        address = own_address(config.EngineLauncher.environment[NETWORK])
        config.Cluster.controller_ip = config.Cluster.controller_location = address
    config.RankLauncher.log_dir = config.HostsLauncher.log_dir = str(log_dir)
    return config


def check_here(world_size: int, cluster_profile: str | None) -> str | None:
    """Raise the errors that no model and no rank are needed for; return the profile's folder."""
    if type(world_size) is not int or world_size < 1:
        raise SettingsError(f"world_size is {world_size!r}; it is the number of ranks, 1 or more")
    prepare_children()
    torch_must_load()  # the ranks' answers cannot be read without it
    return find_profile(cluster_profile) if cluster_profile else None


def starters(cluster: Cluster) -> list[int]:
    """Return the pids of the controller and the launchers that are processes of this machine."""
    return [one.process.pid for one in _starters(cluster)]


def last_words(cluster: Cluster, local: bool) -> str:
    """Return what the controller said if it has ended, and what a profile's launcher said."""
    said = [] if local or cluster.engine_set is None else [cluster.engine_set.get_output()]
    ended = [one for one in _starters(cluster) if not alive(one.process.pid)]
    return "\n".join([*said, *(one.get_output() for one in ended if one is cluster.controller)])


def _starters(cluster: Cluster) -> list[Any]:
    engines = cluster.engine_set
    known = [cluster.controller, engines, *getattr(engines, "launchers", {}).values()]
    return [one for one in known if getattr(one, "process", None) is not None]


class Keeper:
    """The thread that starts a session's processes, and stays until they have ended.

    The kernel ends a process with the thread that started it (see `worker.end_with`). And the loop
    of a notebook is busy with the cell, so ipyparallel's coroutines run here.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def complete(
        self, coroutine: Coroutine[Any, Any, Any], look: Callable[[], None] | None = None
    ) -> Any:
        """Run a coroutine to its end; `look` is called meanwhile, and ends it by raising."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            run = self._loop.run_forever
            self._thread = threading.Thread(target=run, name="keeper of ranks", daemon=True)
            self._thread.start()
        answer = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return _waited(answer, look)
        except BaseException:
            with interrupts_held() as interrupt:  # what was begun ends before what undoes it begins
                if look and self._loop is not None:
                    answer.cancel()
                wait([answer])
            interrupt()
            raise

    def close(self) -> None:
        """End the thread, and what still runs in it."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _waited(answer: Future, look: Callable[[], None] | None) -> Any:
    while look and not wait([answer], TICK_SECONDS).done:
        look()
    return answer.result()


def connect(cluster: Cluster, scratch: str, look: Callable[[], None]) -> Any:
    """Connect to the controller; `look` is called meanwhile, and may raise.

    The attempt blocks until its own time-out, so it has a thread that can be left behind.
    """
    import_types()
    answer: Future = Future()
    attempt = cluster.connect_client(ipython_dir=scratch, timeout=START_SECONDS)
    threading.Thread(target=_answer, args=(attempt, answer), daemon=True).start()
    try:
        return _waited(answer, look)
    except BaseException:
        answer.add_done_callback(_close_client)
        raise


def wait_for_engines(
    missing: Callable[[], int], connect: Callable[[], None], look: Callable[[], None], limit: float
) -> int:
    """Wait until no engine is missing; return how many still are after `limit` seconds.

    One that registers just as the client connects is not in the list that the client is sent, and
    the word of it may come before the client listens (Client._connect of ipyparallel 9.2). So now
    and then `connect` has to get a new list.
    """
    begun = asked = time.monotonic()
    while missing() and time.monotonic() < begun + limit:
        look()
        if time.monotonic() > asked + ASK_SECONDS:
            connect()
            asked = time.monotonic()
        time.sleep(TICK_SECONDS)
    return missing()


def _answer(coroutine: Coroutine[Any, Any, Any], answer: Future) -> None:
    try:
        answer.set_result(asyncio.run(coroutine))
    except BaseException as error:
        answer.set_exception(error)


def _close_client(answer: Future) -> None:
    if answer.exception() is None:
        answer.result().close()


def ending(code: int | None, kills: MemoryKills = NO_COUNTS, cause: str = "") -> str:
    """Put in words how a process with this exit code ended; None for an unknown exit code.

    `kills` are the kernel's counts before: they tell who sent a SIGKILL, unless `cause` does.
    """
    if code is None:
        return "has ended (its exit code is not known)"
    if code >= 0:
        return f"ended with exit code {code}"
    if -code == signal.SIGKILL:
        return f"was killed by SIGKILL, {cause or cause_of_kill(kills)}"
    return ENDINGS.get(-code) or f"was ended by {signal.Signals(-code).name}"
