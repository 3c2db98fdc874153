"""Collectives through shared memory for the ranks of one machine: microseconds, faster than gloo.

The memory has no name: rank 0 makes it, the others open it through rank 0's process, and it is
freed when the last of them ends.
"""

import ctypes
import logging
import math
import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxlib.errors import RankError, SettingsError
from neoxlib.kernels.cpu import build
from neoxlib.machine import limits
from neoxlib.model import words
from neoxlib.model.group import Group
from neoxlib.ranks.collectives import (
    DTYPES,
    OPERATIONS,
    Call,
    TorchGroup,
    different_calls,
    values_per_index,
)

log = logging.getLogger("neoxlib")

SWITCH = "NEOXLIB_BACKEND"  # gloo: never share memory, for comparisons
SUMS = {
    torch.float32: "group_all_reduce_float32",
    torch.bfloat16: "group_all_reduce_bfloat16",
    torch.float16: "group_all_reduce_float16",
}
# Spins (about 10 µs), then seconds of spinning with yields, before a waiting rank sleeps.
ALONE = (300, 2e-3)
# The same if ranks share cores: a rank that spins would keep the others from running.
CROWDED = (0, 5e-5)
TIMEOUT_SECONDS = 600.0  # then a rank that has not arrived counts as lost
NONE_HERE = "the ranks communicate over gloo, which is slower: no shared memory, %s"
# One per rank at the head of the memory: epoch, sleepers, words, calls.
LINE = struct.Struct("QI4x2q4Q64x")
LATE = 1
DIFFERENT = 2  # results of rank_group.h; 0 is success
POINTER = ctypes.c_void_p
COUNT = ctypes.c_int64


class RankGroup(ctypes.Structure):
    """The struct of the same name in rank_group.h."""

    _fields_ = [
        ("memory", ctypes.c_void_p),
        ("rank", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("spins", ctypes.c_int64),
        ("yield_", ctypes.c_int64),
        ("timeout", ctypes.c_int64),
        ("call_number", ctypes.c_uint64),
        ("call", ctypes.c_uint64),
    ]


class SharedGroup(TorchGroup):
    """The ranks of one machine, which need no group of torch.distributed then.

    An all-reduce adds in float32, in rank order, and rounds once: all ranks get the same bits.
    Raises RankError with the ranks that did not arrive within TIMEOUT_SECONDS, or that made a
    different call; the group cannot be used afterwards.
    """

    backend = "shared memory"

    def __init__(self, group: Group, library: ctypes.CDLL, memory: mmap.mmap) -> None:
        self.seconds = 0.0
        self.rank = group.rank
        self.size = group.size
        self.device = "cpu"
        self.memory = memory
        spins, yield_seconds = ALONE if self.size <= limits.core_count() else CROWDED
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        waits = spins, int(yield_seconds * 1e9), int(TIMEOUT_SECONDS * 1e9)
        self.rank_group = RankGroup(address, self.rank, self.size, *waits, 0, 0)
        self.words = (ctypes.c_int64 * self.size)()
        self.sums = {
            dtype: (_function(library, name, COUNT, POINTER, COUNT), DTYPES.index(dtype))
            for dtype, name in SUMS.items()
        }
        self._all_gather_word = _function(library, "group_all_gather_word", COUNT, COUNT, POINTER)
        self._gather = _function(
            library, "group_gather", COUNT, COUNT, POINTER, COUNT, POINTER, POINTER
        )
        self._broadcast = _function(library, "group_broadcast", POINTER, COUNT)

    def all_reduce(self, x: Tensor) -> Tensor:
        if x.dtype not in self.sums:
            return x.copy_(self.all_gather(x.reshape(1, -1), 0).sum(0).view(x.shape))
        start = time.perf_counter()
        add, dtype = self.sums[x.dtype]
        whole = x.contiguous()
        self._do(add, dtype, whole.data_ptr(), whole.numel())
        if whole is not x:
            x.copy_(whole)
        self.seconds += time.perf_counter() - start
        return x

    def spread(self, x: Tensor) -> Tensor:
        """Give every rank rank 0's `x`, which must be contiguous, in place."""
        with self._clock():
            self._do(self._broadcast, x.data_ptr(), x.numel() * x.element_size())
        return x

    def gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor | None:
        """As Group.gather; the ranks meet for their sizes in any case, which proves the call."""
        with self._clock():
            return self._joined(x, dim)[0]

    def all_gather(self, x: Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> Tensor:
        with self._clock():
            joined, shape = self._joined(x, dim)
            whole = x.new_empty(shape) if joined is None else joined
            self._do(self._broadcast, whole.data_ptr(), whole.numel() * whole.element_size())
            return whole

    def _joined(self, x: Tensor, dim: int) -> tuple[Tensor | None, tuple[int, ...]]:
        """The ranks' `x` joined along `dim`, on rank 0, and on every rank its shape."""
        dim %= x.ndim
        sizes = self._everyones("gather", x.shape[dim])
        x = x.contiguous()
        before = x.shape[:dim]
        after = x.shape[dim + 1 :]
        row_bytes = (ctypes.c_int64 * self.size)(
            *(n * math.prod(after) * x.element_size() for n in sizes)
        )
        shape = (*before, sum(sizes), *after)
        joined = x.new_empty(shape) if self.rank == 0 else None
        to = None if joined is None else joined.data_ptr()
        kind = DTYPES.index(x.dtype), values_per_index(x, dim)
        self._do(self._gather, *kind, x.data_ptr(), math.prod(before), row_bytes, to)
        return joined, shape

    def broadcast(self, value: Any) -> Any:
        with self._clock():
            said = words.encode(value) if self.rank == 0 else b""
            count = self._everyones("broadcast", len(said))[0]
            told = ctypes.create_string_buffer(said, count)
            self._do(self._broadcast, told, count)
            return value if self.rank == 0 else words.decode(told.raw)

    def barrier(self) -> None:
        with self._clock():
            self._everyones("barrier", 0)

    def _everyones(self, operation: str, word: int) -> list[int]:
        """Return every rank's `word`."""
        self._do(self._all_gather_word, OPERATIONS.index(operation), word, self.words)
        return list(self.words)

    def _do(self, function: Callable[..., int], *args: Any) -> None:
        result = function(self.rank_group, *args)
        if result == LATE:
            limit = self.rank_group.timeout / 1e9
            raise RankError(
                f"rank {', '.join(map(str, self._late()))} did not meet the other ranks within "
                f"{limit:g} s: it has ended or hangs, and its log says where"
            )
        if result == DIFFERENT:
            raise different_calls(self._calls())

    def _lines(self) -> list[tuple[int, ...]]:
        """Each rank's epoch, sleepers, two words, and its calls (number, kind) by epoch parity."""
        return [LINE.unpack_from(self.memory, rank * LINE.size) for rank in range(self.size)]

    def _late(self) -> list[int]:
        """The ranks that are behind this one."""
        epochs = [epoch for epoch, *_ in self._lines()]
        return [r for r, epoch in enumerate(epochs) if epoch < epochs[self.rank]]

    def _calls(self) -> dict[int, Call]:
        """The call of each rank that has reached this rank's epoch."""
        lines = self._lines()
        epoch = lines[self.rank][0]
        at = 4 + 2 * (epoch % 2)
        return {r: _call(*line[at : at + 2]) for r, line in enumerate(lines) if line[0] >= epoch}


def share(group: Group) -> Group:
    """Return a SharedGroup in place of `group` if its ranks can have one, else `group`.

    All ranks call it together, and must be on one machine. Raises SettingsError for an unknown
    value of NEOXLIB_BACKEND.
    """
    choice = os.environ.get(SWITCH, "")
    if choice not in ("", "gloo"):
        raise SettingsError(f"{SWITCH} is {choice!r}; it may be gloo, or be left out")
    library = None if choice or group.size == 1 else build.compiled("allreduce")
    memory = _common_memory(group, library)
    return group if memory is None else SharedGroup(group, library, memory)


def _common_memory(group: Group, library: ctypes.CDLL | None) -> mmap.mmap | None:
    """Map the same memory on all ranks; None on all ranks if one cannot."""
    size = library.group_bytes(group.size) if library else 0
    file = _file(size) if library and group.rank == 0 else None
    pid, number, name = group.broadcast(
        (os.getpid(), file, file is not None and os.readlink(f"/proc/self/fd/{file}"))
    )
    path = Path(f"/proc/{pid}/fd/{number}")
    memory = None
    try:
        # A different link is the process of another machine.
        if library and number is not None and os.readlink(path) == name:
            with path.open("r+b") as opened:
                memory = mmap.mmap(opened.fileno(), size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError as error:
        log.warning(NONE_HERE, error)
    opened_by = group.all_reduce(torch.tensor(int(memory is not None))).item()
    if file is not None:
        os.close(file)
    return memory if opened_by == group.size else None


def _file(size: int) -> int | None:
    """Make an unnamed file of `size` bytes in memory, with its pages allocated."""
    file = None
    try:
        file = os.memfd_create(f"neoxlib-{secrets.token_hex(8)}")
        os.fchmod(file, 0o600)
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        log.warning(NONE_HERE, error)
        if file is not None:
            os.close(file)
        return None
    return file


def _call(number: int, what: int) -> Call:
    """Unpack a call that `begin_call` of rank_group.h packed."""
    return Call(number, what >> 60, what >> 52 & 0xFF, what & (1 << 52) - 1)


def _function(library: ctypes.CDLL, name: str, *kinds: type) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes = (ctypes.POINTER(RankGroup), *kinds)
    function.restype = ctypes.c_int32
    return function
