"""Weights under the layers' shard rules: plan what each rank holds, and load it."""

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from neoxlib.checkpoint.folder import Checkpoint, Stored, open_checkpoint
from neoxlib.checkpoint.match import match
from neoxlib.checkpoint.pack import choose_quant, pack_into, runs, scheme_of
from neoxlib.checkpoint.pickles import load_whole
from neoxlib.checkpoint.plan import PlanRow, plan
from neoxlib.checkpoint.resident import Settling
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.tensor_file import at_once, garbage_collection_paused
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import SettingsError, WeightsError
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import Packed, Scheme
from neoxlib.workbook.progress import Meter

__all__ = ["PlanRow", "load_into", "merge", "plan", "shard", "verify"]


def load_into(
    model: GPTNeoX,
    model_dir: str | os.PathLike[str],
    progress: bool = False,
    lend: bool = False,
    narrow: bool = False,
) -> Settling:
    """Fill each parameter of `model` once: its rank's part of the checkpoint in `model_dir`, in the model's dtype.

    Takes an unsplit checkpoint, a folder that `shard` wrote for any world size, or this rank's `part_model/{rank}`.
    A model with `quant` packs plain weights as they come, a few rows at a time.
    A model on the meta device comes to the CPU; `model.to_empty(device=...)` before this puts it elsewhere.
    With `lend` what a file holds just as the model wants it is only mapped: start the Settling that is returned. With
    `narrow`, for a float32 model that runs compiled, so are matrices of float16 or bfloat16: the same numbers.
    Raises WeightsError when the tensors are not this model's, SettingsError when they are packed otherwise than it is;
    nothing is filled then.
    """
    checkpoint = open_checkpoint(model_dir)
    _check_part(checkpoint, model.group)
    found = match(checkpoint, model.config)
    if choose_quant(checkpoint, model.quant) != model.quant:
        raise SettingsError(
            f"{model_dir} holds weights packed as {checkpoint.quant!r}; the model is not made for them"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device="cpu")
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    shares = {name: _Share(model, checkpoint, name, stored) for name, (_, stored) in found.items()}
    mapped = (
        {name: share.mapped(parameters[name], narrow) for name, share in shares.items()}
        if lend
        else {}
    )
    mapped = {name: tensor for name, tensor in mapped.items() if tensor is not None}
    tasks = {name: share.tasks(parameters) for name, share in shares.items()}
    lent = [tasks.pop(name) for name in mapped]
    settling = Settling(model, mapped, itertools.chain.from_iterable(lent))
    with garbage_collection_paused():
        _read(itertools.chain.from_iterable(tasks.values()), parameters, mapped, progress)
    return settling


def _read(
    tasks: Iterator[Callable[[], int]],
    parameters: dict[str, Tensor],
    mapped: dict[str, Tensor],
    progress: bool,
) -> None:
    """Fill the parameters that are not mapped."""
    here = all(parameter.is_cpu for parameter in parameters.values())
    with Meter(
        "load", sum(parameter.nbytes for parameter in parameters.values()), show=progress
    ) as meter:
        meter.add(sum(parameters[name].nbytes for name in mapped))
        for count in at_once(tasks) if here else (task() for task in tasks):
            meter.add(count)
        assert meter.done == meter.total, "a parameter was filled twice or not at all"
    load_whole.cache_clear()


class _Share:
    """This rank's part of one tensor."""

    def __init__(self, model: GPTNeoX, checkpoint: Checkpoint, name: str, stored: Stored) -> None:
        self.name = name
        self.stored = stored
        rank, size = (
            (0, 1) if checkpoint.part[1] > 1 else (model.group.rank, model.group.size)
        )  # a part is cut already
        self.index = full_parameters(model.config, model.quant)[name].rule.slices(
            stored.shape, rank, size
        )
        self.scheme = (
            scheme_of(name, model.config, model.quant) if checkpoint.quant is None else None
        )

    def mapped(self, parameter: Tensor, narrow: bool) -> Tensor | None:
        """The pages of a file that hold its numbers, in its dtype or perhaps a narrow one; None without such pages."""
        here = self.stored.dtype
        wide = parameter.dtype == torch.float32 and parameter.ndim == 2
        fits = here == parameter.dtype or (
            narrow and wide and here in (torch.float16, torch.bfloat16)
        )
        return (
            self.stored.mapped(self.index)
            if fits and self.scheme is None and parameter.is_cpu
            else None
        )

    def tasks(self, parameters: dict[str, Tensor]) -> Iterator[Callable[[], int]]:
        """Runs of rows: each task reads one, and packs it where the model wants that."""
        rows, *columns = self.index
        names = {"weight": self.name} | (
            {"weight_scale": f"{self.name}_scale"} if self.scheme else {}
        )
        for run in runs(rows, self.stored):
            here = slice(run.start - rows.start, run.stop - rows.start)
            out = {part: parameters[name][here] for part, name in names.items()}
            yield partial(_fill, out, self.stored, self.scheme, (run, *columns))


def _fill(out: Packed, stored: Stored, scheme: Scheme | None, index: tuple[slice, ...]) -> int:
    """Returns the bytes filled."""
    if scheme is None:
        stored.read_into(out["weight"], index)
    else:
        pack_into(out, stored, scheme, index)
    return sum(tensor.nbytes for tensor in out.values())


def _check_part(checkpoint: Checkpoint, group: Group) -> None:
    """A `part_model/{rank}` folder serves that rank of that world size only."""
    rank, size = checkpoint.part
    if size > 1 and (rank, size) != (group.rank, group.size):
        raise WeightsError(
            f"{checkpoint.folder} is the part of rank {rank} of {size}, this is rank {group.rank} of {group.size}; "
            f"give {checkpoint.folder.absolute().parent.parent}, which is read at any world size"
        )
