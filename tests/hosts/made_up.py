"""Answers of hosts that do not exist: a desk and two more, alike but for what a test changes."""

from typing import Any

from neoxlib.hosts.checks import HERE, PACKAGES, Answers

SEEN = {
    "name": "desk",
    "user": "u",
    "python": "3.11.9",
    "executable": "/opt/neoxlib/bin/python",
    "packages": dict.fromkeys(PACKAGES, "1.2.3"),
    "source": "0123456789abcdef" * 4,
    "npus": 0,
    "cores": 8,
    "listening": [22],
    "reached_from": "",
    "reached_at": "",
}


def answers_of(host: str, number: int, **change: Any) -> Answers:
    """A host's answers; `packages` changes those named alone."""
    packages = SEEN["packages"] | change.pop("packages", {})
    address = f"10.77.0.{number}"
    facts = SEEN | {"name": "desk" if host == HERE else host, "packages": packages}
    facts |= {"interfaces": [["lo", "127.0.0.1", 8], ["hpc0", address, 24]]} | change
    others = {other: 1e-4 for other in (HERE, "host1", "host2") if other != host}
    reached = dict.fromkeys(others, "")
    place = {"address": address, "interface": "hpc0", "network": "10.77.0.0/24"}
    place |= {"reached": reached, "seconds": others}
    return Answers(host, 0 if host == HERE else 2, facts, **place)


def answers(**changes: dict[str, Any]) -> list[Answers]:
    """The desk's, host1's and host2's answers; `changes` are facts by host."""
    hosts = enumerate((HERE, "host1", "host2"), 1)
    return [answers_of(host, number, **changes.get(host, {})) for number, host in hosts]
