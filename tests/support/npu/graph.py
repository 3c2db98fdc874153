"""A graph of operators on CPU tensors: recorded once, then run again on the same memory.

It stands in for torch.npu.NPUGraph and keeps its rules: no value is read on the host, nothing is
made from the host's numbers, and what comes out lies where it lay at the capture.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neoxlib.model.group import SOLO, Group

READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero")
LENGTHS = "actual_seq_lengths_kv"


class NotCapturable(RuntimeError):
    """A step did what no graph can hold."""


class Recorded(NamedTuple):
    """One call of an operator, and the tensors that it made."""

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    made: list[Tensor]  # of memory of their own, not views


class Recording(TorchDispatchMode):
    """Runs and records operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Recorded] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        name = func._schema.name.partition("::")[2]
        if name in READS:
            raise NotCapturable(f"{name} reads a value on the host inside a capture")
        if not given:
            raise NotCapturable(f"{name} makes a tensor of the host's inside a capture")
        out = func(*args, **kwargs)
        known = {tensor.untyped_storage()._cdata for tensor in given}
        made = [x for x in tensors(out) if x.untyped_storage()._cdata not in known]
        if made or func._schema.is_mutable:
            self.calls.append(Recorded(func, args, kwargs, made))
        return out


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class StandInGraph:
    """As kernels.graph.Recorder. `made` lists all that were captured."""

    made: list["StandInGraph"] = []  # noqa: RUF012  cleared by those who count

    def __init__(self, group: Group = SOLO) -> None:
        self.calls: list[Recorded] = []
        self.ends: list[int] = []
        self.group = group
        StandInGraph.made.append(self)

    def capture(self, step: Callable[[], Tensor]) -> Tensor:
        with Recording() as recording, self._sums(recording):
            out = step()
        self.calls = recording.calls
        for tensor in tensors([call.made for call in self.calls]):
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)  # a capture runs nothing: no value of its own may be read
        return out

    @contextmanager
    def _sums(self, recording: Recording) -> Iterator[None]:
        """Record the sums over the ranks, too, which are no operators here; they do not run."""
        plain = self.group.all_reduce

        def summed(x: Tensor) -> Tensor:
            return x.copy_(plain(x))

        def all_reduce(x: Tensor) -> Tensor:
            recording.calls.append(Recorded(summed, (x,), {}, []))
            return x

        self.group.all_reduce = all_reduce
        try:
            yield
        finally:
            del self.group.all_reduce

    def replay(self, end: int) -> None:
        self.ends.append(end)
        for func, args, kwargs, made in self.calls:
            given = kwargs | {LENGTHS: [end]} if LENGTHS in kwargs else kwargs
            found = tensors(func(*args, **given))
            if made:  # else it wrote to memory that was there
                for place, value in zip(made, found, strict=True):
                    place.copy_(value)
