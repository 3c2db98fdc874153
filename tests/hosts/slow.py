"""A slow network of the ranks: slow, right, and never called dead."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from tests.hosts.bench import ROOT, Bench
from tests.hosts.build import FABRIC_CARD, Host
from tests.hosts.desk import Desk, open_desk

TAPS = ("slow-near", "slow-far")
RATE = ("tbf", "rate", "8mbit", "burst", "32kb", "latency", "400ms")  # of tc: 1 MB/s


@contextmanager
def wire(host: Host, delay: float, lost: float) -> Iterator[None]:
    """Put a wire that delays and loses, each way, between a host and the ranks' network."""
    words = [sys.executable, "-m", "tests.hosts.wire", *TAPS, str(delay), str(lost)]
    command = ["nsenter", f"--target={host.switch}", "--net", *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    near, far = TAPS
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        host.at_switch("ip", "link", "add", "br-slow", "type", "bridge")
        host.at_switch("ip", "link", "set", "br-slow", "up")
        host.at_switch("ip", "link", "set", near, "master", "br-slow", "up")
        host.at_switch("ip", "link", "set", far, "master", f"br-{FABRIC_CARD}", "up")
        host.at_switch("ip", "link", "set", host.port(FABRIC_CARD), "master", "br-slow")
        try:
            yield
        finally:
            bridge = f"br-{FABRIC_CARD}"
            host.at_switch("ip", "link", "set", host.port(FABRIC_CARD), "master", bridge)
            host.at_switch("ip", "link", "del", "br-slow")
            process.stdin.close()


@contextmanager
def narrow(host: Host) -> Iterator[None]:
    """Let 1 MB/s through between a host and the ranks' network, each way."""
    ways = ((host.run, FABRIC_CARD), (host.at_switch, host.port(FABRIC_CARD)))
    for at, card in ways:
        at("tc", "qdisc", "add", "dev", card, "root", *RATE)
    yield
    for at, card in ways:
        at("tc", "qdisc", "del", "dev", card, "root")


@contextmanager
def all_at_once(host: Host) -> Iterator[None]:
    with narrow(host), wire(host, 0.05, 0.01):
        yield


SLOW: dict[str, Callable[[Host], AbstractContextManager[None]]] = {
    "50 ms each way": lambda host: wire(host, 0.05, 0.0),
    "1 % of packets lost each way": lambda host: wire(host, 0.0, 0.01),
    "1 MB/s": narrow,
    "all three": all_at_once,
}


def slow(bench: Bench) -> None:
    """Each slow network, at first in one session, and then from the start of another."""
    desk = open_desk(bench, bench.others[:2])
    quick = desk.answer()["seconds"]
    for name, network in SLOW.items():
        with network(desk.victim):
            works(desk, name, quick)
    desk.close()
    with ExitStack() as stack:
        stack.enter_context(all_at_once(bench.others[1]))
        desk = open_desk(bench, bench.others[:2])
        law = "all three: a new session starts and answers right"
        found = desk.answer()
        bench.lines.add(law, bool(found.get("answer")), f"in {desk.opened['opened']:.1f} s")
        desk.close()


def works(desk: Desk, name: str, quick: float) -> None:
    """A call and 16 MiB of sums, the network full of them, end as they should."""
    answer = desk.answer()
    desk.ask("sums")
    sums = desk.hear("answer")
    fine = bool(answer.get("answer") and sums.get("answer"))
    told = f"8 tokens in {answer['seconds']:.1f} s, before {quick:.1f} s; "
    told += f"16 MiB in {sums['seconds']:.1f} s"
    desk.bench.lines.add(f"{name}: slow and right", fine, told if fine else f"{answer} {sums}")
