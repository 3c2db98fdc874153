"""A host that is lost: heard of with its name, and no process of the session stays anywhere."""

import time

from tests.hosts.bench import Bench, wait_for
from tests.hosts.build import FABRIC_CARD, OFFICE_CARD, Host
from tests.hosts.right import desk_session, leftovers

HEARD = 10.0  # seconds until a caller must know
PAUSE = 3.0  # seconds of a break that a session survives


def lost(bench: Bench) -> None:
    """A host's links go down for a while, and then for ever."""
    first, second = bench.others[:2]
    with desk_session(bench, (1, 1), part="lost") as said:
        next(said)
        cut_off(second, True)
        time.sleep(PAUSE)
        cut_off(second, False)
        found = next(said)
        bench.lines.add(f"a break of {PAUSE:.0f} s is survived", "error" not in found, "answered")
        cut_off(second, True)
        start = time.monotonic()
        found = next(said)
        took = time.monotonic() - start
        words = found.get("error", "answered")
        right = second.name in words and "rank 1" in words and took <= HEARD + 2
        bench.lines.add(
            f"a host that is down is heard of in {HEARD:.0f} s", right, f"{took:.1f} s: {words}"
        )
    for host in (first, second):
        wait_for(lambda host=host: not leftovers(host), 20)
        left = leftovers(host)
        bench.lines.add(f"nothing stays on {host.name}", not left, "; ".join(left) or "nothing")
    cut_off(second, False)


def cut_off(host: Host, away: bool) -> None:
    for card in (OFFICE_CARD, FABRIC_CARD):
        host.run("ip", "link", "set", card, "down" if away else "up")
