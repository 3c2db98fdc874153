"""`neoxlib cluster` over test hosts: good ones pass, and each fault is found on its host."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hosts.bench import Bench
from tests.hosts.build import FABRIC_CARD


def survey(bench: Bench) -> None:
    """`neoxlib cluster` passes good hosts, and says of each fault which host has it."""
    good = ("host1:1", "host2:1", "host3:1", "--network", FABRIC_CARD)
    model = ("--model-dir", str(bench.model), "--sha256")
    code, text = bench.cluster(*good, *model)
    rows = sum(line.startswith("OK") for line in text.splitlines())
    bench.lines.add("good hosts pass, and a profile is written", code == 0, f"{rows} lines OK")
    profile = bench.desk.home / ".ipython" / "profile_hosts"
    mode = profile.stat().st_mode & 0o777 if profile.exists() else 0
    bench.lines.add("only its user enters the profile", mode == 0o700, f"mode {mode:o}")
    for name, fault, words in FAULTS:
        with fault(bench):
            code, text = bench.cluster(*good, *model, *words)
        line = next((row for row in text.splitlines() if row.startswith("FAIL  host2")), "")
        others = [row for row in text.splitlines() if re.match(r"FAIL +host[13]", row)]
        alone = "network" in line or not others
        bench.lines.add(f"found: {name}", code == 1 and line and alone, " ".join(line.split()[1:]))


@contextmanager
def moved(path: Path) -> Iterator[None]:
    path.rename(path.with_name("away"))
    try:
        yield
    finally:
        path.with_name("away").rename(path)


@contextmanager
def no_key(bench: Bench) -> Iterator[None]:
    with moved(bench.others[1].home / ".ssh" / "authorized_keys"):
        yield


@contextmanager
def no_card(bench: Bench) -> Iterator[None]:
    bench.others[1].run("ip", "link", "set", FABRIC_CARD, "down")
    try:
        yield
    finally:
        bench.others[1].run("ip", "link", "set", FABRIC_CARD, "up")


@contextmanager
def no_model(bench: Bench) -> Iterator[None]:
    with moved(bench.others[1].disk / "model"):
        yield


@contextmanager
def one_byte(bench: Bench) -> Iterator[None]:
    """Another byte in the middle of the weights, the size the same."""
    path = bench.others[1].disk / "model" / "model.safetensors"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    try:
        yield
    finally:
        path.write_bytes(data)


@contextmanager
def same_name(bench: Bench) -> Iterator[None]:
    bench.others[1].run("hostname", "desk")
    try:
        yield
    finally:
        bench.others[1].run("hostname", bench.others[1].name)


@contextmanager
def no_sshd(bench: Bench) -> Iterator[None]:
    """No way leads from the desk to its sshd."""
    at = ["ip", "route", "add", "unreachable", f"{bench.others[1].office}/32"]
    bench.desk.run(*at)
    try:
        yield
    finally:
        bench.desk.run("ip", "route", "del", "unreachable", f"{bench.others[1].office}/32")


FAULTS: tuple[tuple[str, Callable[[Bench], Any], tuple[str, ...]], ...] = (
    ("no key of ours is accepted", no_key, ()),
    ("ssh does not get through", no_sshd, ()),
    ("the network for the ranks is down", no_card, ()),
    ("no model folder", no_model, ()),
    ("one byte of the weights differs", one_byte, ()),
    ("a host has another's name", same_name, ()),
)
