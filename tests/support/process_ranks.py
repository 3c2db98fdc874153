"""Ranks as real processes, which do what they are sent and answer: for what threads cannot show."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from neoxlib.ranks import shared_memory
from neoxlib.ranks.collectives import TorchGroup

SPAWN = multiprocessing.get_context("spawn")


class Team:
    """`size` processes, each with a gloo group and what `share` makes of it."""

    def __init__(self, size: int, folder: Path) -> None:
        self.pipes = []
        self.ranks = []
        for rank in range(size):
            here, there = SPAWN.Pipe()
            self.ranks.append(
                SPAWN.Process(target=_serve, args=(rank, size, str(folder / "store"), there))
            )
            self.ranks[rank].start()
            self.pipes.append(here)
        self.answers()

    def __call__(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """`work(group, gloo, *args)` on all ranks at once; their answers in rank order."""
        self.send(work, *args)
        return self.answers()

    def send(self, work: Callable[..., Any], *args: Any) -> None:
        for pipe in self.pipes:
            pipe.send((work, args))

    def answers(self) -> list[Any]:
        """The next message of each rank that still runs."""
        said = [
            pipe.recv()
            for pipe, rank in zip(self.pipes, self.ranks, strict=True)
            if rank.exitcode is None
        ]
        for _, error in said:
            assert not error, error
        return [answer for answer, _ in said]

    def close(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.join()


def _serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    gloo = TorchGroup(rank, size, dist.FileStore(store, size))
    shared_memory.TIMEOUT_SECONDS = 60.0  # one that fails alone must not keep the others
    group = shared_memory.share(gloo)
    pipe.send((group.backend, ""))
    while True:
        work, args = pipe.recv()
        try:
            pipe.send((work(group, gloo, *args), ""))
        except Exception:
            pipe.send((None, traceback.format_exc()))
