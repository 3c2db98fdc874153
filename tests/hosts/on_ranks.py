"""What ranks on test hosts are asked for from outside: functions for Session.apply."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from neoxlib.machine.chips import CHIPS
from neoxlib.ranks import surroundings
from neoxlib.ranks.worker import host

LONGEST = 2048  # bytes of a text of a rank


def places(engine: Any) -> list[str] | None:
    """The host of every rank, as the rank itself knows it."""
    return texts(engine, host())


def texts(engine: Any, mine: str) -> list[str] | None:
    """A text of every rank, on rank 0."""
    line = torch.tensor(list(mine.encode().ljust(LONGEST)))
    everyone = engine.group.gather(line[None], dim=0)
    if everyone is None:
        return None
    return [bytes(row).decode().strip() for row in everyone.tolist()]


def hccl(engine: Any, chip: str) -> list[str] | None:
    """The variables of HCCL that every rank would add on a machine with such NPUs, as JSON."""
    hosts = places(engine)
    names = engine.group.broadcast(hosts)
    with (
        mock.patch.object(surroundings, "pick_device", lambda device: "npu"),
        mock.patch.object(surroundings, "chip_for", lambda device: CHIPS[chip]),
    ):
        found = surroundings.own_environment(engine.group.rank, names, "npu", False).added
    return texts(engine, json.dumps({name: found[name] for name in found if "HCCL" in name}))


def sums(engine: Any, times: int, count: int) -> dict[str, float] | None:
    """Bytes that each host's card sent for an all-reduce of `count` float32, by host."""
    x = torch.ones(count)
    engine.group.all_reduce(x)
    engine.group.barrier()
    before = sent()
    for _ in range(times):
        engine.group.all_reduce(x)
    engine.group.barrier()
    mine = torch.tensor([[(sent() - before) / times]], dtype=torch.float64)
    everyone = engine.group.gather(mine, dim=0)
    names = places(engine)
    return None if everyone is None else dict(zip(names, everyone[:, 0].tolist(), strict=True))


def sent(card: str = "hpc0") -> int:
    """Bytes that this host has sent over a card."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == card:
            return int(figures.split()[8])
    raise LookupError(card)
