"""Ranks as real processes, each with a make-believe NPU and the contract group of hccl.py."""

import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.process_ranks import SPAWN


class NpuTeam:
    """`size` processes that do what they are sent, each time on another chip if need be."""

    def __init__(self, size: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.calls = 0
        self.pipes = []
        self.ranks = []
        for rank in range(size):
            mine, theirs = SPAWN.Pipe()
            self.ranks.append(SPAWN.Process(target=_serve, args=(rank, size, theirs)))
            self.ranks[rank].start()
            self.pipes.append(mine)

    def __call__(self, work: Callable[..., Any], chip: str, *args: Any) -> list[Any]:
        """`work(rank, size, store, *args)` on all ranks at once; answers in rank order.

        `store` is a path for a new FileStore. Raises AssertionError with the first rank's traceback
        if one failed.
        """
        self.calls += 1
        store = str(Path(self.folder.name) / f"store{self.calls}")
        for pipe in self.pipes:
            pipe.send((work, chip, store, args))
        said = [pipe.recv() for pipe in self.pipes]
        for _, error in said:
            assert not error, error
        return [answer for answer, _ in said]

    def close(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.join()
        self.folder.cleanup()


def _serve(rank: int, size: int, pipe: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    from tests.support.npu import device, hccl, reference

    torch.set_num_threads(1)
    device.prepare_module()
    hccl.install()
    hccl.here.index = rank
    while True:
        work, chip, store, args = pipe.recv()
        # Not before all ranks have answered: another might still be connecting.
        if dist.is_initialized():
            dist.destroy_process_group()
        hccl.here.chip = chip
        device.taken_memory.clear()
        hccl.counts.clear()
        device.waits.clear()
        try:
            with reference.on_chip("310P" if chip.startswith("300") else chip), device.OnNpu():
                answer = work(rank, size, store, *args)
            pipe.send((answer, ""))
        except Exception:
            pipe.send((None, traceback.format_exc()))
