"""Weights packed on their way out of a checkpoint, a few rows at a time: no tensor is ever there as floats in whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor

from neoxlib.checkpoint.folder import Checkpoint, Stored
from neoxlib.checkpoint.match import HEAD as HEAD_NAME
from neoxlib.checkpoint.match import match
from neoxlib.checkpoint.tensor_file import BLOCK, at_once, matrix
from neoxlib.errors import SettingsError, WeightsError
from neoxlib.kernels.cpu.pack import copy
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import HEAD, SCHEMES, Packed, Scheme, scheme_name

RUN = 32 << 20  # bytes of a tensor that one thread reads and another does not


@dataclass(frozen=True)
class PackedPart:
    """`part` ("weight" or "weight_scale") of a stored float tensor under a scheme; it reads as a stored tensor does."""

    stored: Stored
    scheme: Scheme
    part: str

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.scheme.tensors(*self.stored.shape)[self.part][0]

    @cached_property
    def dtype(self) -> torch.dtype:
        return self.scheme.tensors(*self.stored.shape)[self.part][1]

    @property
    def width(self) -> int:
        """Bytes of a value of the scale: in a file a weight stays behind its scale, so that both are packed at once."""
        return self.scheme.tensors(*self.stored.shape)["weight_scale"][1].itemsize

    def read_into(self, out: Tensor, index: tuple[slice, slice]) -> None:
        """Fill `out` [rows, columns] with that much of the part; the whole is kept until another tensor is read."""
        whole = packed(self.stored, self.scheme)[self.part]
        copy(whole.view(matrix(self.shape))[index], out)


@lru_cache(maxsize=1)
def packed(stored: Stored, scheme: Scheme) -> Packed:
    """The whole tensor packed."""
    tensors = scheme.tensors(*stored.shape)
    out = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()}
    columns = slice(0, stored.shape[1])
    for _ in at_once(
        partial(
            pack_into,
            {name: tensor[rows] for name, tensor in out.items()},
            stored,
            scheme,
            (rows, columns),
        )
        for rows in runs(slice(0, stored.shape[0]), stored)
    ):
        pass
    return out


def runs(rows: slice, stored: Stored) -> Iterator[slice]:
    """`rows` of a tensor in runs of RUN bytes."""
    step = max(1, RUN * stored.shape[0] // max(1, stored.nbytes))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def pack_into(out: Packed, stored: Stored, scheme: Scheme, index: tuple[slice, slice]) -> None:
    """Fill `out`, on any device, with the packed form of `stored[index]`; `index` holds whole groups.

    Raises WeightsError, with the tensor's name, for numbers that cannot be packed.
    """
    rows, columns = index
    read = (
        columns if scheme.group else slice(0, stored.shape[1])
    )  # a row's only scale is that of the whole row
    width = read.stop - read.start
    height = rows.stop - rows.start
    step = max(1, BLOCK // (width * stored.dtype.itemsize))
    block = torch.empty(min(step, height), width, dtype=stored.dtype)
    for start in range(0, height, step):
        part = block[: height - start]
        stored.read_into(part, (slice(rows.start + start, rows.start + start + len(part)), read))
        targets = {name: tensor[start : start + len(part)] for name, tensor in out.items()}
        try:
            found = scheme.pack(part, targets if read == columns else None)
        except WeightsError as error:
            raise WeightsError(f"{stored.pieces[0].key}: {error}") from error
        if read != columns:
            copy(found["weight"][:, columns], targets["weight"])
            copy(found["weight_scale"][:, None], targets["weight_scale"][:, None])


def choose_quant(checkpoint: Checkpoint, asked: str | None) -> str | None:
    """The scheme that a model of this checkpoint has: what is asked for, else as it is stored.

    Raises SettingsError for a name that is no scheme's, and for another scheme than the stored one.
    """
    asked = scheme_name(asked)
    if asked and checkpoint.quant not in (None, asked):
        raise SettingsError(
            f"quant is {asked!r}, but {checkpoint.folder} holds weights packed as {checkpoint.quant!r}: "
            "leave quant out, or give the checkpoint they came from"
        )
    return asked or checkpoint.quant


def scheme_of(name: str, config: ModelConfig, quant: str | None) -> Scheme | None:
    """The scheme of a weight of the unsplit, unpacked model; None where it stays as it is."""
    if quant is None or full_parameters(config, quant)[name].dtype is None:
        return None
    return HEAD if name == HEAD_NAME else SCHEMES[quant]


def match_packed(
    checkpoint: Checkpoint, config: ModelConfig, quant: str | None
) -> dict[str, tuple[str, Stored | PackedPart]]:
    """What `names.match` gives, with each weight that is still to be packed in two parts, one after the other."""
    quant = choose_quant(checkpoint, quant)
    found: dict[str, tuple[str, Stored | PackedPart]] = {}
    for name, (theirs, stored) in match(checkpoint, config).items():
        scheme = scheme_of(name, config, quant) if checkpoint.quant is None else None
        if scheme is None:
            found[name] = theirs, stored
        else:
            found[f"{name}_scale"] = f"{theirs}_scale", PackedPart(stored, scheme, "weight_scale")
            found[name] = theirs, PackedPart(stored, scheme, "weight")
    return found
