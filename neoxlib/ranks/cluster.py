"""N ranks that always get the same call: send it, collect answers, notice deaths, stop all."""

import math
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ipyparallel import AsyncResult

from neoxlib.errors import NeoXError, RankError
from neoxlib.process import interrupts_held
from neoxlib.ranks import hanging, launch, worker
from neoxlib.ranks.outcome import Hear, Listener, Outcome, answer_of, arrived, hand_on, in_step
from neoxlib.ranks.placement import order_by_host
from neoxlib.ranks.post_mortem import RankLogs, first_of, silent_one, together, told
from neoxlib.ranks.surroundings import host_of

# How long the other ranks may still take once one has failed or all were asked to stop.
GRACE_SECONDS = 8


class Ranks:
    """The ranks of one session.

    If one rank dies or fails alone, the session ends all of them: the others would wait forever in
    a collective.
    """

    CLOSED = "it was closed"

    def __init__(
        self,
        size: int,
        environment: dict[str, str],
        log_dir: Path,
        profile_dir: str | None = None,
        hang_timeout: float | None = hanging.HANG_SECONDS,
    ) -> None:
        self.size = size
        self.log_dir = log_dir
        self.local = profile_dir is None
        self.ended = ""
        self.alone = True  # no other group of ranks is of the session
        self.busy = False  # whether the ranks work on a call
        self._sending = False
        self.members = [{"rank": r, "pid": None, "host": worker.host()} for r in range(size)]
        self._logs = RankLogs(log_dir, size)
        self._lock = threading.RLock()
        self._ending = threading.RLock()
        self._client = None
        self._views = []
        self._stopped = False
        self._owner = os.getpid()
        self._keeper = launch.Keeper()
        self._watch = hanging.Watch(hang_timeout)
        self._scratch = tempfile.mkdtemp(prefix="neoxlib-")
        self._cluster = launch.new_cluster(size, environment, log_dir, self._scratch, profile_dir)
        self.watched = launch.watches(self._cluster)  # its launcher says how a rank ended

    def start(self) -> None:
        """Start controller and engines and wait for all of them.

        Raises RankError when one ends or the time is up.
        """
        try:
            look = partial(self._look, "while starting")
            self._keeper.complete(self._cluster.start_controller(), look)
            self._keeper.complete(self._cluster.start_engines(self.size), look)
            if self.local:
                processes = self._cluster.engine_set.processes
                for member, process in zip(self.members, processes, strict=True):
                    member["pid"] = process.pid
            self._connect(look)
        except (RuntimeError, OSError) as failure:  # a TimeoutError is an OSError
            output = self._cluster.controller.get_output() if self._cluster.controller else ""
            why = f"{failure}\n{output}{self._logs.tails()}{self._said()}"
            raise RankError(f"the ranks could not be started: {why}") from failure
        limit = max(launch.START_SECONDS, self._cluster.engine_timeout)  # a profile may have more
        connect = partial(self._connect, look)
        if missing := launch.wait_for_engines(self._missing, connect, look, limit):
            count = self.size - missing
            found = f"{count} of {self.size} ranks started within {limit} s"
            raise RankError(f"{found}.{self._logs.tails()}{self._said()}")
        self._views = [self._client[engine] for engine in sorted(self._client.ids)[: self.size]]
        if not self.watched:  # ranks of a host follow each other; where they are watched, they do
            hosts = self.begin(host_of)
            self._views = [self._views[r] for r in order_by_host(hosts)]
        folder = os.getcwd() if self.local else ""
        self.members = self.begin(
            worker.greet, self._owner, worker.host(), folder, str(self.log_dir)
        )

    def begin(
        self, function: Callable[..., Any], *args: Any, hear: Hear | None = None
    ) -> list[Any]:
        """Call `function(rank, *args)` on all ranks while starting.

        Returns every rank's value; raises the first error of any. `hear` gets what the ranks
        publish meanwhile.
        """
        name = function.__name__
        outcomes = self._collect(self._send(function, args), name, patience=0, hear=hear)
        for r, outcome in outcomes.items():
            if isinstance(outcome.error, NeoXError):
                raise outcome.error
            if outcome.error:
                more = f"{outcome.traceback}{self._logs.tail(r)}{self._said()}"
                raise RankError(f"{self._who(r)} failed in {name}:\n{more}")
        return [answer_of(outcomes[r]) for r in range(self.size)]

    def call(self, function: Callable[..., Any], *args: Any, listen: Listener | None = None) -> Any:
        """Call `function(rank, *args)` on all ranks; return rank 0's value.

        An error that all ranks raise alike is raised here as it is, and the ranks stay usable. If a
        rank dies, or raises while others do not, that is a RankError and ends them all. After a
        KeyboardInterrupt, or an error of `listen`, the ranks stay usable if they stop within
        GRACE_SECONDS; a KeyboardInterrupt has as `answers` what rank 0 still returned, or None.
        """
        name = args[0] if function is worker.call else function.__name__
        with self._lock:
            if os.getpid() != self._owner:
                owner = f"process {self._owner}, of which this is a copy"
                raise RankError(f"this session is of {owner}; open another one here")
            if self._sending:
                raise RankError(
                    "this call came while another one is sent to the ranks, from a finalizer or a "
                    "trace function; make it later. The session can go on"
                )
            self._refuse_dead("between two calls")
            with interrupts_held() as interrupt:  # some ranks would have the call, and others not
                jobs = self._send(function, args)
            self.busy = True
            try:
                interrupt()
                outcomes = self._collect(jobs, name, listen)
            except BaseException as error:
                so_far = self._halt(jobs, name)
                if isinstance(error, KeyboardInterrupt):
                    error.answers = so_far
                raise
            finally:
                self.busy = False
            return self._judge(outcomes, name)

    def end(self, why: str = CLOSED) -> None:
        """Stop every process, and let later calls say why.

        May be called again if a first attempt failed. A forked copy of the process that opened the
        session stops nothing: the ranks are not its own.
        """
        if os.getpid() != self._owner:
            return
        self.ended = self.ended or why
        with self._ending:
            if not self._stopped:
                self._stop()

    def _stop(self) -> None:
        with interrupts_held() as interrupt:  # a half of it would leave files and processes
            try:
                if self._client is not None:
                    self._client.close()
                self._keeper.complete(self._cluster.stop_cluster())
            finally:
                self._keeper.close()
                shutil.rmtree(self._scratch, ignore_errors=True)
            self._stopped = True
        interrupt()

    def _connect(self, look: Callable[[], None]) -> None:
        before, self._client = self._client, launch.connect(self._cluster, self._scratch, look)
        if before is not None:
            before.close()

    def _missing(self) -> int:
        return self.size - len(self._client.ids)

    def _send(self, function: Callable[..., Any], args: Sequence[Any]) -> list[AsyncResult]:
        pickle.dumps(args)  # refuse arguments that cannot be sent before any rank has them
        for one in (self._client, *self._views):
            one.history.clear()  # ids of all messages: they would grow with every call
        self._sending = True
        try:
            return [
                view.apply_async(worker.RankJob(function, (r, *args)))
                for r, view in enumerate(self._views)
            ]
        except BaseException:
            self.end("a call did not reach all ranks")
            raise
        finally:
            self._sending = False

    def _collect(
        self,
        jobs: list[AsyncResult],
        name: str,
        listen: Listener | None = None,
        limit: float = math.inf,
        patience: float = GRACE_SECONDS,
        hear: Hear | None = None,
    ) -> dict[int, Outcome]:
        """Collect outcomes in order of arrival.

        Ends when all are there, after `limit` seconds, or `patience` seconds after an error.
        """
        outcomes: dict[int, Outcome] = {}
        deadline = time.monotonic() + limit
        heard = 0
        self._watch.begin()
        while len(outcomes) < len(jobs) and time.monotonic() <= deadline:
            outcomes |= arrived(jobs, outcomes, launch.TICK_SECONDS)
            heard = hand_on(jobs[0], heard, listen)
            if hear:
                hear([job.metadata["data"] for job in jobs])
            failed = any(outcome.error for outcome in outcomes.values())
            if failed or len(outcomes) < len(jobs):
                self._look(f"during {name}")
            if failed:
                deadline = min(deadline, time.monotonic() + patience)
        if listen and 0 in outcomes:
            jobs[0].wait_for_output(GRACE_SECONDS)  # the last pieces may come after the answer
            hand_on(jobs[0], heard, listen)
        return outcomes

    def _judge(self, outcomes: dict[int, Outcome], name: str) -> Any:
        """Return rank 0's value or raise its error if the ranks agree; else end the session."""
        if in_step(outcomes, self.size):
            return answer_of(outcomes[0])
        found = self._logs.explain(self.members)
        r = first_of(found, [r for r in outcomes if outcomes[r].error])
        detail = f"\n{outcomes[r].traceback}"
        late = silent_one(found, set(range(self.size)) - set(outcomes))
        if late is None:
            every = len([one for one in outcomes.values() if one.error]) == self.size
            rest = "the other ranks raised other errors" if every else "not all ranks did"
            raise self._down(f"{self._who(r)} raised in {name} and {rest}", detail, r)
        why = f"{self._who(late)} did not come to where other ranks waited for it in {name}"
        state = hanging.state_of(self.members[late])
        raise self._down(f"{why}; its process is {state}", detail, late)

    def _halt(self, jobs: list[AsyncResult], name: str) -> Any:
        """Ask the ranks to stop a call; end the session when they cannot.

        Returns rank 0's value: a call may return what it had until then.
        """
        if self.ended:
            return None
        why = f"{name} was interrupted, and the ranks did not stop within {GRACE_SECONDS} s"
        try:
            if self.watched:
                self._cluster.engine_set.send_signal(0, signal.SIGUSR1)
            elif self.members[0]["host"] == worker.host():
                os.kill(self.members[0]["pid"], signal.SIGUSR1)
            outcomes = self._collect(jobs, name, limit=GRACE_SECONDS)
        except BaseException:
            self.end(why)
            raise
        if not in_step(outcomes, self.size):
            self.end(why)
            return None
        return outcomes[0].value

    def _look(self, when: str) -> None:
        self._refuse_dead(when)
        self._refuse_hanging(when)

    def _refuse_dead(self, when: str) -> None:
        dead = {} if self.ended else self._dead()
        if self.ended:  # also by another thread, or by the caller's function for the pieces
            raise RankError(f"this session has ended: {self.ended}. Open a new one.")
        if dead:
            output = launch.last_words(self._cluster, self.local)
            first = first_of(self._logs.explain(self.members), dead)
            why = f"{together(dead, {r: self._who(r) for r in dead}, first)} ({when})"
            raise self._down(why, output and f"\n{output}", first)

    def _refuse_hanging(self, when: str) -> None:
        stuck = self._watch.hanging(self._watched)
        if stuck:
            hanging.kill(stuck)  # SIGTERM would not reach them
            first = next((one["rank"] for one in self.members if one["pid"] in stuck), 0)
            raise self._down(f"{'; '.join(stuck.values())} ({when})", "", first)

    def _watched(self) -> dict[int, hanging.Watched]:
        """The processes of this machine that a call needs, by pid."""
        return hanging.watched(self.members, launch.starters(self._cluster), wakes=self.local)

    def _down(self, why: str, detail: str, r: int) -> RankError:
        self.end(why)
        more = f"{detail}{self._logs.tail(r)}{self._said()}"
        if self.alone:
            return RankError(f"{why}. The session has ended.{more}")
        left = "This group of ranks has ended; another one that still runs answers the next call."
        return RankError(f"{why}. {left}{more}")

    def _said(self) -> str:
        """What the ranks' logs say about the first failure, with cause and cure."""
        return told(self._logs.explain(self.members))

    def _dead(self) -> dict[int, str]:
        """The ranks that ended, and how; a controller or launcher takes rank 0's place."""
        if self.watched:
            ended = getattr(self._cluster.engine_set, "ended", dict)()
        else:
            gone = (r for r in range(len(self._views)) if not self._runs(r))
            ended = dict.fromkeys(gone, launch.ending(None))
        dead = {r: f"{self._who(r)} {how}" for r, how in ended.items()}
        for pid in launch.starters(self._cluster):
            if not worker.alive(pid):
                dead.setdefault(0, f"process {pid}, which starts or connects ranks, has ended")
        return dead

    def _runs(self, r: int) -> bool:
        here = self.members[r]["pid"] and self.members[r]["host"] == worker.host()
        return self._views[r].targets in self._client.ids and (
            not here or worker.alive(self.members[r]["pid"])
        )

    def _who(self, r: int) -> str:
        return hanging.name_of(self.members[r])
