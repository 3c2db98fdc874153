"""Ask hosts, all at once, and judge their answers: the work of `neoxlib cluster` and 00_setup."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

from neoxlib.errors import SettingsError
from neoxlib.forms import is_digits
from neoxlib.hosts import asking
from neoxlib.hosts import network as networks
from neoxlib.hosts.asking import Probe, Silent
from neoxlib.hosts.checks import HERE, PACKAGES, Answers, address_in, judge, outside, silent
from neoxlib.hosts.profile import HostsProfile, read_profile
from neoxlib.hosts.rows import HostRow, HostsReport
from neoxlib.hosts.slurm import Allocation, Partition, check_partition
from neoxlib.hosts.ways import Mpiexec, Ssh, Way

MOST_RANKS = 4096  # of a host
CLOCKS = 7  # questions for the time; the fastest answer counts
HASHING = 7200.0  # seconds for a host to read its model


@dataclass(frozen=True)
class Survey:
    """What was found, and the profile for it; None where something fails."""

    report: HostsReport
    profile: HostsProfile | None


@dataclass(frozen=True)
class Wanted:
    """What is asked of the hosts, by their names for ssh: how many ranks, and with what.

    Hosts of a hostfile are reached by `mpi`; with `slurm`, Slurm names them.
    """

    hosts: Mapping[str, int]
    python: str = sys.executable
    network: str = ""  # as 10.1.0.0/16, or an interface of this machine; "" follows the way
    model_dir: str = ""
    sha256: bool = False  # of every file of the model, which reads them all
    mpi: Mpiexec | None = None
    slurm: Partition | None = None


def survey(wanted: Wanted) -> Survey:
    """Ask every host and this machine, and check that they can work together."""
    if wanted.slurm is None:
        return _survey(wanted, wanted.mpi or Ssh(asking.SSH))
    inside = bool(os.environ.get("SLURM_JOB_ID"))  # then its nodes are this process's
    rows = [] if inside else [check_partition(wanted.slurm)]
    if any(row.status == "FAIL" for row in rows):
        return Survey(HostsReport(tuple(rows)), None)
    with closing(Allocation(wanted.slurm)) as job:
        job.wait()
        hosts = dict.fromkeys(job.nodes, wanted.slurm.ranks_per_node)
        return _survey(replace(wanted, hosts=hosts), job.way, rows)


def _survey(wanted: Wanted, way: Way, before: Sequence[HostRow] = ()) -> Survey:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(wanted.hosts) + 1))
        probes = {HERE: Probe("", sys.executable)}
        probes |= {host: Probe(host, wanted.python, way) for host in wanted.hosts}
        for probe in probes.values():
            stack.callback(probe.close)
        found = list(pool.map(lambda host: _first(host, probes[host], wanted, way), probes))
        answered = _ranks([one for one in found if isinstance(one, Answers)])
        rows = [*before, *(one for one in found if isinstance(one, HostRow))]
        inside, chosen, failed = _place(answered, wanted.network)
        met = _meet(inside, probes, pool)
        rows += [*failed, *judge([_of(one, met) for one in answered])]
    report = HostsReport(tuple(rows))
    if report.worst == "FAIL":
        return Survey(report, None)
    return Survey(report, _profile(wanted, str(chosen), inside))


def _profile(wanted: Wanted, network: str, inside: Sequence[Answers]) -> HostsProfile:
    """The profile of hosts that can work together."""
    address = next(one.address for one in inside if one.host == HERE)
    if wanted.slurm:
        each = min(one.ranks for one in inside if one.host != HERE)
        slurm = replace(wanted.slurm, ranks_per_node=each)
        return HostsProfile({}, network, address, wanted.python, slurm=slurm)
    mpi = wanted.mpi.command if wanted.mpi else ()
    return HostsProfile(dict(wanted.hosts), network, address, wanted.python, mpi)


def _ranks(answered: Sequence[Answers]) -> list[Answers]:
    """Hosts that were given no number of ranks get one for each NPU, or one."""
    least = min((one.facts["npus"] for one in answered if one.host != HERE), default=0)
    each = max(1, least)
    return [one if one.ranks or one.host == HERE else replace(one, ranks=each) for one in answered]


def survey_profile(name: str, model_dir: str = "") -> HostsReport | None:
    """Check the hosts of a profile again; None without one, or with one of other launchers."""
    profile = read_profile(name) if name else None
    if profile is None:
        return None
    mpi = Mpiexec(profile.mpi) if profile.mpi else None
    place = {"python": profile.python, "network": profile.network, "model_dir": model_dir}
    return survey(Wanted(profile.hosts, **place, mpi=mpi, slurm=profile.slurm)).report


def parse_hosts(words: Sequence[str]) -> dict[str, int]:
    """Read host1:4 host2:4. Raises SettingsError that lists all that is wrong."""
    found: dict[str, int] = {}
    wrong = []
    for word in words:
        host, _, count = word.rpartition(":")
        is_count = is_digits(count) and 1 <= int(count) <= MOST_RANKS
        if not host or not is_count or host.startswith("-"):
            wrong.append(f"{word!r} has no number of ranks: write host1:4")
        elif host in found:
            wrong.append(f"{host} is named twice")
        else:
            found[host] = int(count)
    if wrong or not found:
        raise SettingsError("; ".join(wrong) or "no host is named: write host1:4 host2:4")
    return found


def _first(host: str, probe: Probe, wanted: Wanted, way: Way) -> Answers | HostRow:
    """What a host says of itself, or why it does not."""
    python = sys.executable if host == HERE else wanted.python
    try:
        facts = probe.ask("facts", list(PACKAGES))
        times = [_clock(probe) for _ in range(CLOCKS)]
        unsure, offset = min(times)
        limit = HASHING if wanted.sha256 else 60.0
        place = str(Path(wanted.model_dir).absolute())
        model = probe.ask("model", place, wanted.sha256, limit=limit) if wanted.model_dir else None
    except Silent as error:
        return silent(host, error.code, error.said, python, way)
    except OSError as error:
        return silent(host, None, str(error), python, way)
    if not isinstance(way, Ssh):  # it may hand this process's own SSH_CONNECTION on
        facts["reached_from"] = "" if host == HERE else networks.address_towards(host)
    ranks = wanted.hosts.get(host, 0)
    return Answers(host, ranks, facts, offset, unsure, model, way=way)


def _clock(probe: Probe) -> tuple[float, float]:
    """How unsure the offset of a host's clock is, and the offset, in seconds."""
    before = time.time()
    there = probe.ask("clock")
    after = time.time()
    return (after - before) / 2, there - (before + after) / 2


def _place(
    answered: Sequence[Answers], named: str
) -> tuple[list[Answers], IPv4Network | None, list[HostRow]]:
    """Find the network of the ranks and each host's address there; rows for hosts without."""
    here = next(one for one in answered if one.host == HERE)
    chosen = _network(here, answered, named)
    if chosen is None:
        return [], None, []
    inside, failed = [], []
    for one in answered:
        found = address_in(one, chosen)
        if found is None:
            failed.append(outside(one, chosen))
        else:
            place = {"address": found[0], "interface": found[1], "network": str(chosen)}
            inside.append(replace(one, **place))
    return inside, chosen, failed


def _network(here: Answers, answered: Sequence[Answers], named: str) -> IPv4Network | None:
    """The named network, else the one that the hosts are reached by. None if none answered."""
    interfaces = here.facts["interfaces"]
    cards = {card: ip_network(f"{at}/{bits}", strict=False) for card, at, bits in interfaces}
    if named:
        return cards.get(named) or networks.parse(named)
    used = [one.facts["reached_from"] for one in answered if one.facts["reached_from"]]
    if not used and len(answered) > 1:
        raise SettingsError("no host's name leads to a network of this machine: give --network")
    if not used:
        return None
    by_address = {at: cards[card] for card, at, _ in interfaces}
    if used[0] not in by_address:
        raise SettingsError(f"hosts see {used[0]}, which is not this machine: give --network")
    return by_address[used[0]]


def _meet(
    inside: Sequence[Answers], probes: Mapping[str, Probe], pool: ThreadPoolExecutor
) -> dict[str, Answers]:
    """Have every host connect to every other; return those that were asked, by host."""
    ports = {one.host: _said(probes[one.host], "listen", one.address) for one in inside}
    met = {one.host: one for one in inside}

    def try_all(one: Answers) -> Answers:
        tried = {
            other.host: _said(probes[one.host], "connect", other.address, ports[other.host])
            for other in inside
            if other is not one
        }
        failed = {host: said if isinstance(said, str) else "" for host, said in tried.items()}
        seconds = {host: said[1] for host, said in tried.items() if not isinstance(said, str)}
        return replace(one, reached=failed, seconds=seconds)

    return met | {one.host: one for one in pool.map(try_all, inside)}


def _said(probe: Probe, *request: Any) -> Any:
    """The answer to a request, or the error as a text. A port that was not got is an error, too."""
    if isinstance(request[-1], str) and request[0] == "connect":
        return request[-1]
    try:
        return probe.ask(*request)
    except (OSError, Silent) as error:
        return str(error)


def _of(one: Answers, met: Mapping[str, Answers]) -> Answers:
    return met.get(one.host, one)
