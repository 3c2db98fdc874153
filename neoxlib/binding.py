"""Which cores a rank runs on: those near its NPU, as npu-smi's bus ids and the kernel's NUMA nodes have it.

The vendor's SDK does the same with BIND_CPU=1, its default, by way of npu-smi, lspci and lscpu.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from neoxlib import smi
from neoxlib.smi import Card

log = logging.getLogger("neoxlib")

SYSTEM = Path("/sys")


def bind(index: int, ranks: int) -> list[int] | None:
    """Keep this process to the cores of the `index`-th of `ranks` NPUs of this machine; call before any thread starts.

    BIND_CPU=0 in the environment leaves it unbound, CPU_BINDING_NUM sets the number of cores. Returns the cores, or
    None where nothing was bound, which is never an error.
    """
    if os.environ.get("BIND_CPU", "1") == "0":
        return None
    answer = smi.read()
    try:
        shares = cores(answer.cards if answer else (), visible(ranks), os.sched_getaffinity(0), SYSTEM)
        os.sched_setaffinity(0, shares[index])
    except (OSError, ValueError, IndexError) as error:
        log.warning("rank's process is not bound to cores: %s", error)
        return None
    log.info("bound to cores %s", shares[index])
    return shares[index]


def visible(ranks: int) -> list[int]:
    """Logic ids of the NPUs that the ranks see as 0, 1, …: ASCEND_RT_VISIBLE_DEVICES, else the first ones."""
    named = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
    return [int(part) for part in named.split(",")] if named else list(range(ranks))


def cores(cards: Sequence[Card], ids: Sequence[int], allowed: set[int], system: Path) -> list[list[int]]:
    """Cores for each of the NPUs `ids`: an equal share of its node's among the NPUs on that node, out of `allowed`.

    Where the machine or a container hides a node, every NPU gets an equal share of all cores.
    """
    ordered = sorted(cards, key=lambda card: (card.npu, card.chip))  # logic ids count chips in this order
    nodes = [_node(ordered[i], system) if i < len(ordered) else None for i in ids]
    near = {node: sorted(allowed & _cpus(node, system)) for node in set(nodes) if node is not None}
    if None in nodes or not all(near.values()):
        nodes, near = [0] * len(ids), {0: sorted(allowed)}
    wanted = int(os.environ.get("CPU_BINDING_NUM") or 0)
    shares = []
    for place, node in enumerate(nodes):
        on_node, before = nodes.count(node), nodes[:place].count(node)
        count = wanted or max(1, len(near[node]) // on_node)
        start = before * count % len(near[node])  # more NPUs than cores share them
        shares.append(near[node][start : start + count])
    return shares


def _node(card: Card, system: Path) -> int | None:
    """NUMA node of a card's bus; None where it is on none, or the kernel does not say."""
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
