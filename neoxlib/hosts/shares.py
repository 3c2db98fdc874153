"""Which ranks sit on which host: of one session, or of several that divide the hosts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from neoxlib.errors import SettingsError

GROUP = "NEOXLIB_GROUP"  # tells the launcher which session it is, of how many: 0,2
SHARE = "NEOXLIB_SHARE"  # tells a rank its session's first place on its host, of how many: 2,4


@dataclass(frozen=True)
class Share:
    """The ranks that a session has on one host, and the variables that keep them to their part."""

    ranks: list[int]
    variables: dict[str, str] = field(default_factory=dict)


def share_of(
    hosts: Mapping[str, int], world_size: int, group: int = 0, replicas: int = 1
) -> dict[str, Share]:
    """Give the `group`-th of `replicas` sessions its places: each host's, in order.

    Sessions of one host, if they fit on one, else of whole hosts: all are divided alike, since
    another division sums in another order. Raises SettingsError if there are too few places.
    """
    if replicas == 1:
        return {host: Share(ranks) for host, ranks in divide(hosts, world_size).items()}
    places = [
        (host, first)
        for host, count in hosts.items()
        for first in range(0, count - world_size + 1, world_size)
    ]
    if world_size > max(hosts.values()):
        return _whole_hosts(hosts, world_size, group, replicas)
    if len(places) < replicas:
        raise SettingsError(_too_few(hosts, world_size, replicas, len(places)))
    host, first = places[group]
    on_host = sum(place[0] == host for place in places[:replicas])
    if on_host == 1:
        return {host: Share(list(range(world_size)))}
    variables = {SHARE: f"{first},{on_host * world_size}"}
    return {host: Share(list(range(world_size)), variables)}


def divide(hosts: Mapping[str, int], n: int) -> dict[str, list[int]]:
    """Give each host its ranks, in order. Raises SettingsError if there is no room for `n`."""
    room = sum(hosts.values())
    if n > room:
        raise SettingsError(
            f"{n} ranks do not fit on the hosts of the profile, {_listed(hosts)}, which take "
            f"{room}; lower world_size, or make the profile anew with: neoxlib cluster"
        )
    shares: dict[str, list[int]] = {}
    first = 0
    for host, count in hosts.items():
        if first < n:
            shares[host] = list(range(first, min(first + count, n)))
        first += count
    return shares


def _whole_hosts(
    hosts: Mapping[str, int], world_size: int, group: int, replicas: int
) -> dict[str, Share]:
    """The places of a session that is larger than a host; no host has ranks of two sessions."""
    rest = dict(hosts)
    found: list[dict[str, list[int]]] = []
    while sum(rest.values()) >= world_size and len(found) < replicas:
        found.append(divide(rest, world_size))
        rest = {host: count for host, count in rest.items() if host not in found[-1]}
    if len(found) < replicas:
        raise SettingsError(_too_few(hosts, world_size, replicas, len(found)))
    shapes = {tuple(map(len, one.values())) for one in found}
    if len(shapes) > 1:
        listed = " and ".join("+".join(map(str, shape)) for shape in sorted(shapes))
        why = f"replicas of {world_size} ranks would be divided as {listed} over {_listed(hosts)}"
        raise SettingsError(f"{why}: the same number on every host lets all compute alike")
    return {host: Share(ranks) for host, ranks in found[group].items()}


def _too_few(hosts: Mapping[str, int], world_size: int, replicas: int, fit: int) -> str:
    wanted = f"{replicas} replicas of {world_size} ranks do not fit on {_listed(hosts)}"
    return f"{wanted}: {fit} do, each within a host if it can; lower replicas or world_size"


def _listed(hosts: Mapping[str, int]) -> str:
    return ", ".join(f"{host}:{count}" for host, count in hosts.items())
