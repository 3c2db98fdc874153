"""Bind ranks to cores near their NPU, and divide a machine among groups of ranks.

npu-smi gives the bus ids, the kernel their NUMA nodes. The vendor's SDK does the same with
BIND_CPU=1, its default, using npu-smi, lspci and lscpu.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from neoxlib.errors import SettingsError
from neoxlib.hosts.profile import read_profile
from neoxlib.hosts.shares import GROUP, share_of
from neoxlib.machine import limits, npu_smi
from neoxlib.machine.devices import chip_for, pick_device, smi_here
from neoxlib.machine.npu_smi import Card

log = logging.getLogger("neoxlib")
SYSTEM = Path("/sys")


def bind(index: int, ranks: int) -> list[int] | None:
    """Bind this process to the cores of the `index`-th of `ranks` NPUs of this machine.

    Call it before any thread starts. BIND_CPU=0 in the environment leaves the process unbound,
    CPU_BINDING_NUM sets the number of cores. Returns the cores, or None if nothing was bound; that
    is never an error.
    """
    if os.environ.get("BIND_CPU", "1") == "0":
        return None
    answer = smi_here()
    try:
        shares = cores_of_rank(
            answer.cards if answer else (), visible(ranks), os.sched_getaffinity(0), SYSTEM
        )
        os.sched_setaffinity(0, shares[index])
    except (OSError, ValueError, IndexError) as error:
        log.warning("rank's process is not bound to cores: %s", error)
        return None
    log.info("bound to cores %s", shares[index])
    return shares[index]


def visible(ranks: int) -> list[int]:
    """Logic ids of the NPUs that the ranks see as 0, 1, …

    ASCEND_RT_VISIBLE_DEVICES if set, else the first ones.
    """
    named = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
    return [int(part) for part in named.split(",")] if named else list(range(ranks))


def cores_of_rank(
    cards: Sequence[Card], ids: Sequence[int], allowed: set[int], system: Path
) -> list[list[int]]:
    """Give each of the NPUs `ids` its cores out of `allowed`.

    The NPUs on a NUMA node share its cores equally. If the machine or a container hides a node, all
    NPUs share all cores equally.
    """
    # Logic ids count chips in this order.
    ordered = sorted(cards, key=lambda card: (card.npu, card.chip))
    nodes = [_node(ordered[i], system) if i < len(ordered) else None for i in ids]
    near = {node: sorted(allowed & _cpus(node, system)) for node in set(nodes) if node is not None}
    if None in nodes or not all(near.values()):
        nodes = [0] * len(ids)
        near = {0: sorted(allowed)}
    wanted = int(os.environ.get("CPU_BINDING_NUM") or 0)
    shares = []
    for place, node in enumerate(nodes):
        on_node = nodes.count(node)
        before = nodes[:place].count(node)
        count = wanted or max(1, len(near[node]) // on_node)
        start = before * count % len(near[node])  # more NPUs than cores share them
        shares.append(near[node][start : start + count])
    return shares


def _node(card: Card, system: Path) -> int | None:
    """NUMA node of a card's bus; None if the kernel names no node."""
    if card.bus_id is None:
        return None
    try:
        node = int((system / "bus/pci/devices" / card.bus_id.lower() / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _cpus(node: int, system: Path) -> set[int]:
    """Cores of a node, from a list such as 0-23,48-71 or 7."""
    try:
        text = (system / f"devices/system/node/node{node}/cpulist").read_text().strip()
    except OSError:
        return set()
    ends = [part.split("-") for part in text.split(",") if part]
    return {core for part in ends for core in range(int(part[0]), int(part[-1]) + 1)}


def threads(ranks: int) -> int:
    """Number of CPU threads for each of `ranks` ranks on this machine."""
    return max(1, limits.core_count() // ranks)


def order_by_host(hosts: Sequence[str]) -> list[int]:
    """Return the order in which ranks of a host follow each other; the first host stays first."""
    return sorted(range(len(hosts)), key=lambda rank: (hosts.index(hosts[rank]), rank))


def part(
    group: int, replicas: int, world_size: int, device: str, cluster_profile: str | None
) -> dict[str, str]:
    """Variables that keep the `group`-th of `replicas` groups to its part of machine or hosts.

    Raises SettingsError if there are too few places for all, and with a profile's own launchers,
    which would put every group in the same place.
    """
    _refuse_replicas(replicas)
    if replicas == 1:
        return {}
    if cluster_profile:
        _check_hosts(cluster_profile, world_size, group, replicas)
        return {GROUP: f"{group},{replicas}"}
    ranks = replicas * world_size
    ids, what = _units(device)
    if len(ids) < ranks:
        raise SettingsError(
            f"{replicas} replicas of {world_size} ranks need {ranks} {what}, one for each rank, "
            f"and there are {len(ids)}; lower replicas or world_size"
        )
    if device == "npu":
        own = ids[group * world_size : (group + 1) * world_size]
        return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, own))}
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads(ranks))}


def own_part(device: str, here: int, told: str | None) -> dict[str, str]:
    """Variables that keep `here` ranks of a session to its part of their host, by SHARE."""
    if told is None:
        return {}
    first, places = map(int, told.split(","))
    if device == "npu":
        ids = visible(places)[first : first + here]
        return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, ids))}
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads(places))}


def _refuse_replicas(replicas: int) -> None:
    if type(replicas) is not int or replicas < 1:
        raise SettingsError(
            f"replicas is {replicas!r}; it is the number of groups of ranks, 1 or more"
        )


def _check_hosts(name: str, world_size: int, group: int, replicas: int) -> None:
    """Check that the hosts of a profile have places for all groups."""
    profile = read_profile(name)
    if profile is None:
        why = f"replicas is {replicas}, and the launchers of {name} are not by neoxlib cluster"
        raise SettingsError(f"{why}; leave out cluster_profile or replicas")
    if profile.slurm is None:
        share_of(profile.hosts, world_size, group, replicas)
    elif "SLURM_JOB_ID" not in os.environ:  # each group has a job of its own then
        each = -(-world_size // profile.slurm.ranks_per_node)
        if replicas * each > profile.slurm.nodes:
            raise SettingsError(
                f"{replicas} replicas of {world_size} ranks need {replicas * each} nodes, and the "
                f"profile {name} names {profile.slurm.nodes}; lower replicas or world_size"
            )


def _units(device: str) -> tuple[list[int], str]:
    """The units of which each rank gets one: NPUs by their logic ids, or cores."""
    if device != "npu":
        return sorted(os.sched_getaffinity(0))[: limits.core_count()], "cores"
    answer = npu_smi.query()
    return visible(len(answer.cards) if answer else 0), "NPUs"


def pick(device: str, graph: str, compile: bool) -> str:
    """Pick the device; raise SettingsError where a graph that is asked for cannot be made on it."""
    device = pick_device(device)
    if graph != "auto":
        from neoxlib.model.decode_graph import choose_graph

        choose_graph(graph, device, chip_for(device).family if device == "npu" else "", compile)
    return device
