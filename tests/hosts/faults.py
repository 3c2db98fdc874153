"""Faults of ranks, hosts and their network: heard of with host and reason, and nothing stays."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.hosts.bench import Bench, wait_for
from tests.hosts.build import FABRIC, FABRIC_CARD, OFFICE_CARD, Host, start_sshd
from tests.hosts.desk import Desk, open_desk
from tests.hosts.right import leftovers

HEARD = 10.0  # seconds until a caller must know
BREAK = 5.0  # seconds of a cut that a session survives
GONE = 16.0  # seconds until the ranks of a host that hears nothing must have ended
PATIENCE = 30.0  # seconds that are waited for what is due earlier


@dataclass(frozen=True)
class Fault:
    """A fault of the host of rank 1, and what an error about it must say."""

    name: str
    strike: Callable[[Desk], AbstractContextManager[None]]
    words: tuple[str, ...]  # {host} is the host's name
    alive: bool = True  # whether the host can still be asked
    over_ssh: bool = False  # whether the network that ssh goes over is struck as well

    def named(self, desk: Desk) -> list[str]:
        """What an error about it must say in this session."""
        return [word.format(host=desk.victim.name) for word in self.words]


@contextmanager
def rank_killed(desk: Desk) -> Iterator[None]:
    desk.victim.run("kill", "-KILL", str(desk.pid))
    yield


@contextmanager
def sshd_killed(desk: Desk) -> Iterator[None]:
    """The host's sshd, the listener and all that serve a connection."""
    rows = [row.split() for row in desk.victim.run("ps", "-eo", "pid=,comm=").splitlines()]
    desk.victim.run("kill", "-KILL", *(pid for pid, name in rows if name.startswith("sshd")))
    yield
    start_sshd(desk.victim)


@contextmanager
def links_down(desk: Desk) -> Iterator[None]:
    set_links(desk.victim, "down")
    yield
    set_links(desk.victim, "up")


@contextmanager
def parted(desk: Desk) -> Iterator[None]:
    """The host's port leaves the bridge of the ranks' network: its card notices nothing."""
    port = desk.victim.port(FABRIC_CARD)
    desk.victim.at_switch("ip", "link", "set", port, "nomaster")
    yield
    desk.victim.at_switch("ip", "link", "set", port, "master", f"br-{FABRIC_CARD}")


def set_links(host: Host, state: str) -> None:
    for card in (OFFICE_CARD, FABRIC_CARD):
        host.run("ip", "link", "set", card, state)


RANK = Fault("a rank is killed", rank_killed, ("rank 1", "on {host}", "killed by SIGKILL"))
SSHD = Fault("a host's sshd is killed", sshd_killed, ("rank 1", "on {host}", "ssh to {host} ended"))
LOST_WORDS = ("rank 1", "on {host}", "lost")
LOST = Fault("a host's links are down", links_down, LOST_WORDS, alive=False, over_ssh=True)
CUT = ("rank 1", "{host} is cut off from", f"the network of the ranks, {FABRIC}.0/24")
PARTED = Fault("the ranks' network is cut", parted, CUT)


def rank(bench: Bench) -> None:
    """A rank is killed while it works, and between two calls."""
    struck(bench, [(RANK, True), (RANK, False)])


def sshd(bench: Bench) -> None:
    """The sshd of a host is killed."""
    struck(bench, [(SSHD, True)])


def lost(bench: Bench) -> None:
    """A host's links go down, for a while and for ever."""
    survived(bench, LOST)
    struck(bench, [(LOST, True), (LOST, False)])


def cut_off(bench: Bench) -> None:
    """A host loses the ranks' network alone, for a while and for ever; ssh works on."""
    survived(bench, PARTED)
    struck(bench, [(PARTED, True), (PARTED, False)])


def survived(bench: Bench, fault: Fault) -> None:
    """A break of some seconds, in a call and between two.

    The session goes on, and right. A break of the network of ssh may outlast ssh's limit, as TCP
    waits ever longer before it tries again: then the host is named.
    """
    for busy in (True, False):
        desk = open_desk(bench, bench.others[:2])
        if busy:
            desk.ask("work")
            desk.hear("answer")
        start = time.time()
        with fault.strike(desk):
            time.sleep(BREAK)
        found = desk.answer_over(start + BREAK) if busy else desk.answer()
        after_break(desk, fault, busy, found, start)
        desk.close()


def after_break(desk: Desk, fault: Fault, busy: bool, found: dict[str, Any], start: float) -> None:
    """Judge the first answer after a break that began at `start`, or the error in its place."""
    fine = bool(found.get("answer")) and found["at"] > start + BREAK
    told = f"the answer took {found['seconds']:.1f} s, and is right" if fine else str(found)
    law = f"{fault.name} for {BREAK:.0f} s {when(busy)}: the session goes on"
    if fault.over_ssh:
        law += ", or names the host"
        error = found.get("error", "")
        fine = fine or all(word in error for word in fault.named(desk))
    desk.bench.lines.add(law, fine, told)


def struck(bench: Bench, faults: Sequence[tuple[Fault, bool]]) -> None:
    """Each fault in a session, in a call or between two, and a new session with what is left.

    The new session is over the hosts without a fault, and the next one strikes there.
    """
    first, *rest = bench.others
    desk = open_desk(bench, (first, rest[0]))
    for fault, busy in faults:
        other = next(host for host in rest if host is not desk.victim)
        if busy:
            desk.ask("work")
            desk.hear("answer")
        start = time.time()
        with fault.strike(desk):
            told_of(desk, fault, busy, start)
            living = [host for host in bench.hosts if fault.alive or host is not desk.victim]
            empty(bench, f"{fault.name} {when(busy)}: nothing stays on living hosts", living, start)
            desk.close()
            if not fault.alive:
                law = f"{fault.name}: nothing stays there either"
                empty(bench, law, [desk.victim], start)
            new = started(bench, (first, other), f"{fault.name}: a new session over living hosts")
        desk = new
    desk.close()


def told_of(desk: Desk, fault: Fault, busy: bool, start: float) -> None:
    """Wait for what the caller is told of a fault that was at `start`, and judge it."""
    found = desk.hear("error" if busy else "log", PATIENCE)
    text = found.get("error") or found["log"]
    took = found["at"] - start
    due = fault.named(desk)
    fine = all(word in text for word in due) and took <= HEARD
    if not busy:
        later = desk.answer().get("error", "answered")
        fine = fine and all(word in later for word in due)
    law = f"{fault.name} {when(busy)}: the caller knows in {HEARD:.0f} s"
    desk.bench.lines.add(law, fine, f"{took:.1f} s: {text}")


def empty(bench: Bench, law: str, hosts: Sequence[Host], start: float) -> None:
    """Nothing of a session stays on hosts."""
    wait_for(lambda: not any(leftovers(host) for host in hosts), PATIENCE)
    took = time.time() - start
    left = [f"{host.name}: {what}" for host in hosts for what in leftovers(host)]
    fine = not left and took <= GONE
    bench.lines.add(law, fine, "; ".join(left) or f"{took:.1f} s after the fault")


def started(bench: Bench, hosts: Sequence[Host], law: str) -> Desk:
    """Open a session and see that it answers."""
    desk = open_desk(bench, hosts)
    answer = desk.answer()
    names = " and ".join(host.name for host in hosts)
    told = f"{names}, in {desk.opened['opened']:.1f} s"
    right = bool(answer.get("answer"))
    bench.lines.add(law, right, told if right else str(answer))
    return desk


def when(busy: bool) -> str:
    return "in a call" if busy else "between calls"
