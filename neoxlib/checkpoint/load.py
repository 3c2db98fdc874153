"""Load a checkpoint into a model: each rank reads its part, by the layers' shard rules."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neoxlib.checkpoint.file_states import FileStates
from neoxlib.checkpoint.folder import Checkpoint, check_part, open_checkpoint
from neoxlib.checkpoint.match import match
from neoxlib.checkpoint.pack import choose_quant, pack_into, runs, scheme_of
from neoxlib.checkpoint.pickles import load_whole
from neoxlib.checkpoint.resident import Residency
from neoxlib.checkpoint.staging import copy_in_turns
from neoxlib.checkpoint.stored_tensor import StoredTensor
from neoxlib.checkpoint.tensor_file import garbage_collection_paused, run_in_threads
from neoxlib.errors import SettingsError
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import Packed, Scheme
from neoxlib.workbook.progress import Meter

# Called with the bytes of weights that are in place, those of them that are only mapped, and all.
OnBytes = Callable[[int, int, int], None]


def load_into(
    model: GPTNeoX,
    source: str | os.PathLike[str] | Checkpoint,
    progress: bool | OnBytes = False,
    mmap: bool = False,
    allow_16bit: bool = False,
) -> Residency:
    """Fill each parameter of `model` once, with its rank's part, in the model's dtype.

    `source` is a folder or an open checkpoint: unsplit, cut by `shard` for any world size, or this
    rank's `part_model/{rank}`. A model with `quant` quantizes plain weights, a few rows at a time.
    A model on the meta device goes to the CPU; `model.to_empty(device=...)` before this puts it
    elsewhere. With `mmap`, weights that a file holds as the model needs them are only mapped: start
    the returned Residency to copy them. `allow_16bit`, for a compiled float32 model, also maps
    matrices of float16 or bfloat16. `progress` shows the bytes that are in place, or is called with
    them as they come. Raises WeightsError if the tensors are not this model's, and
    SettingsError if they are quantized differently; nothing is filled then.
    """
    checkpoint, found = _open_for(model, source)
    files = FileStates(checkpoint.files)
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device="cpu")
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    shares = [_Share(model, checkpoint, name, stored) for name, stored in found.items()]
    mapped = _map(shares, parameters, allow_16bit) if mmap else {}
    now = [share for share in shares if share.name not in mapped]
    later = [share for share in shares if share.name in mapped]
    residency = Residency(model, mapped, _tasks(later, parameters), files)
    with garbage_collection_paused():
        _read(_tasks(now, parameters), parameters, mapped, progress)
    files.refuse_changed()
    return residency


def _open_for(
    model: GPTNeoX, source: str | os.PathLike[str] | Checkpoint
) -> tuple[Checkpoint, dict[str, StoredTensor]]:
    """The checkpoint and its tensors by parameter name, if they are this model's."""
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    check_part(checkpoint, model.group.rank, model.group.size)
    found = match(checkpoint, model.config)
    if choose_quant(checkpoint, model.quant) != model.quant:
        where = checkpoint.folder if checkpoint is source else source
        raise SettingsError(
            f"{where} holds weights packed as {checkpoint.quant!r}; the model is not made for them"
        )
    return checkpoint, {name: stored for name, (_, stored) in found.items()}


def _map(
    shares: list["_Share"], parameters: dict[str, Tensor], allow_16bit: bool
) -> dict[str, Tensor]:
    """The parameters that can be mapped from a file, as mapped pages."""
    mapped = {share.name: share.mapped(parameters[share.name], allow_16bit) for share in shares}
    return {name: tensor for name, tensor in mapped.items() if tensor is not None}


def _read(
    tasks: Iterable["_Run"],
    parameters: dict[str, Tensor],
    mapped: dict[str, Tensor],
    progress: bool | OnBytes,
) -> None:
    """Fill the parameters that are not mapped, by a thread pool or through pinned memory."""
    device = next(iter(parameters.values())).device
    total = sum(parameter.nbytes for parameter in parameters.values())
    at_once = sum(parameters[name].nbytes for name in mapped)
    tell = progress if callable(progress) else lambda *_: None
    with Meter("load", total, show=progress is True) as meter:
        meter.add(at_once)
        tell(meter.done, at_once, total)
        on_cpu = device.type == "cpu"
        for count in run_in_threads(tasks) if on_cpu else copy_in_turns(tasks, device):
            meter.add(count)
            tell(meter.done, at_once, total)
        assert meter.done == meter.total, "a parameter was filled twice or not at all"
    load_whole.cache_clear()


class _Share:
    """This rank's part of one tensor: its slices, and the scheme if it must be quantized."""

    def __init__(
        self, model: GPTNeoX, checkpoint: Checkpoint, name: str, stored: StoredTensor
    ) -> None:
        self.name = name
        self.stored = stored
        is_part = checkpoint.part[1] > 1  # and so is cut already
        rank, size = (0, 1) if is_part else (model.group.rank, model.group.size)
        rule = full_parameters(model.config, model.quant)[name].rule
        self.index = rule.slices(stored.shape, rank, size)
        quant = model.quant if checkpoint.quant is None else None
        self.scheme = scheme_of(name, model.config, quant)

    def mapped(self, parameter: Tensor, allow_16bit: bool) -> Tensor | None:
        """Mapped pages of a file with these values, or None.

        In the parameter's dtype; with `allow_16bit` also in a 16-bit one, for a float32 matrix.
        """
        if self.scheme or not parameter.is_cpu:
            return None
        stored = self.stored.dtype
        is_wide = parameter.dtype == torch.float32 and parameter.ndim == 2
        fits = allow_16bit and is_wide and stored in (torch.float16, torch.bfloat16)
        return self.stored.mapped(self.index) if fits or stored == parameter.dtype else None

    def tasks(self, parameters: dict[str, Tensor]) -> "Iterator[_Run]":
        """Yield tasks that each read a run of rows, and quantize it if need be."""
        rows, *columns = self.index
        names = {"weight": self.name}
        if self.scheme:
            names["weight_scale"] = f"{self.name}_scale"
        for run in runs(rows, self.stored):
            here = slice(run.start - rows.start, run.stop - rows.start)
            out = {part: parameters[name][here] for part, name in names.items()}
            yield _Run(out, self.stored, self.scheme, (run, *columns))


@dataclass(frozen=True, eq=False)
class _Run:
    """A task: fill `out` with `stored[index]`, quantized if there is a scheme."""

    out: Packed
    stored: StoredTensor
    scheme: Scheme | None
    index: tuple[slice, ...]

    def __call__(self) -> int:
        """Fill `out` where it is. Returns the bytes filled."""
        self.read_into(self.out, only_columns=False)
        return sum(tensor.nbytes for tensor in self.out.values())

    def read_into(self, out: Packed, only_columns: bool = True) -> None:
        """Fill tensors of the shapes and dtypes of `out`, elsewhere."""
        if self.scheme is None:
            self.stored.read_into(out["weight"], self.index, only_columns)
        else:
            pack_into(out, self.stored, self.scheme, self.index, only_columns)


def _tasks(shares: Iterable[_Share], parameters: dict[str, Tensor]) -> Iterator[_Run]:
    for share in shares:
        yield from share.tasks(parameters)
