"""Several groups of ranks on one machine: which cores and NPUs each of them has."""

import os

from neoxlib import limits, rank, smi
from neoxlib.binding import visible
from neoxlib.errors import SettingsError


def part(group: int, replicas: int, world_size: int, device: str, cluster_profile: str | None) -> dict[str, str]:
    """Variables that keep the ranks of the `group`-th of `replicas` groups to their part of this machine.

    Raises SettingsError where it has too few cores or NPUs for all, and with a cluster profile, whose launchers would
    put every group in the same place.
    """
    if type(replicas) is not int or replicas < 1:
        raise SettingsError(f"replicas is {replicas!r}; it is the number of groups of ranks, 1 or more")
    if replicas == 1:
        return {}
    if cluster_profile:
        raise SettingsError(f"replicas is {replicas}: they share this machine; leave out cluster_profile or replicas")
    ranks, (ids, what) = replicas * world_size, _units(device)
    if len(ids) < ranks:
        raise SettingsError(
            f"{replicas} replicas of {world_size} ranks need {ranks} {what}, one for each rank, and there are "
            f"{len(ids)}; lower replicas or world_size"
        )
    if device == "npu":
        own = ids[group * world_size : (group + 1) * world_size]
        return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, own))}
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(rank.threads(ranks))}


def _units(device: str) -> tuple[list[int], str]:
    """What ranks are given one each of: NPUs by their logic ids, or cores."""
    if device != "npu":
        return sorted(os.sched_getaffinity(0))[: limits.cores()], "cores"
    answer = smi.read()
    return visible(len(answer.cards) if answer else 0), "NPUs"
