"""Quantize weights while they are read from a checkpoint, a few rows at a time.

No tensor is ever in memory as floats in full.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor

from neoxlib.checkpoint.folder import Checkpoint
from neoxlib.checkpoint.match import match
from neoxlib.checkpoint.names import HEAD as HEAD_NAME
from neoxlib.checkpoint.stored_tensor import StoredTensor
from neoxlib.checkpoint.tensor_file import BLOCK, matrix, run_in_threads
from neoxlib.errors import SettingsError, WeightsError
from neoxlib.kernels.cpu.pack import copy
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import HEAD_SCHEME, SCHEMES, Packed, Scheme, scheme_name

RUN = 32 << 20  # bytes of a tensor that one task reads


@dataclass(frozen=True)
class PackedPart:
    """`part` ("weight" or "weight_scale") of a float tensor quantized by a scheme.

    Has the reading interface of a stored tensor.
    """

    stored: StoredTensor
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
        """Bytes of one value of the scale, for both parts.

        Files are sorted by width: a weight so stays behind its scale, and both are quantized once.
        """
        return self.scheme.tensors(*self.stored.shape)["weight_scale"][1].itemsize

    def read_into(self, out: Tensor, index: tuple[slice, slice]) -> None:
        """Fill `out` with the part's `index` (rows, columns).

        The whole quantized tensor stays cached until another one is read.
        """
        whole = packed(self.stored, self.scheme)[self.part]
        copy(whole.view(matrix(self.shape))[index], out)


@lru_cache(maxsize=1)
def packed(stored: StoredTensor, scheme: Scheme) -> Packed:
    """Quantize a whole tensor, by many threads."""
    tensors = scheme.tensors(*stored.shape)
    out = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()}
    height, width = stored.shape
    tasks = []
    for rows in runs(slice(0, height), stored):
        part = {name: tensor[rows] for name, tensor in out.items()}
        tasks.append(partial(pack_into, part, stored, scheme, (rows, slice(0, width))))
    for _ in run_in_threads(tasks):
        pass
    return out


def runs(rows: slice, stored: StoredTensor) -> Iterator[slice]:
    """Yield `rows` of a tensor in runs of RUN bytes."""
    step = max(1, RUN * stored.shape[0] // max(1, stored.nbytes))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def pack_into(
    out: Packed,
    stored: StoredTensor,
    scheme: Scheme,
    index: tuple[slice, slice],
    only_columns: bool = False,
) -> None:
    """Fill `out`, on any device, with the quantized `stored[index]`.

    `index` has whole groups of columns; `only_columns` as in FileTensor. Raises WeightsError, with
    the tensor's name, for numbers that cannot be quantized.
    """
    rows, columns = index
    # Without groups a row has one scale, which depends on all its columns.
    read = columns if scheme.group else slice(0, stored.shape[1])
    width = read.stop - read.start
    height = rows.stop - rows.start
    step = max(1, BLOCK // (width * stored.dtype.itemsize))
    block = torch.empty(min(step, height), width, dtype=stored.dtype)
    for start in range(0, height, step):
        part = block[: height - start]
        first = rows.start + start
        stored.read_into(part, (slice(first, first + len(part)), read), only_columns)
        targets = {name: tensor[start : start + len(part)] for name, tensor in out.items()}
        try:
            _pack_block(targets, part, scheme, None if read == columns else columns)
        except WeightsError as error:
            raise WeightsError(f"{stored.pieces[0].key}: {error}") from error


def _pack_block(out: Packed, block: Tensor, scheme: Scheme, columns: slice | None) -> None:
    """Fill `out` with the quantized block, or with some columns of it."""
    if columns is None:
        scheme.pack(block, out)
        return
    found = scheme.pack(block, None)
    copy(found["weight"][:, columns], out["weight"])
    copy(found["weight_scale"][:, None], out["weight_scale"][:, None])


def choose_quant(checkpoint: Checkpoint, asked: str | None) -> str | None:
    """The scheme for a model of this checkpoint: the one asked for, else the one it is stored in.

    Raises SettingsError for an unknown scheme, and for another one than the stored.
    """
    asked = scheme_name(asked)
    if asked and checkpoint.quant not in (None, asked):
        raise SettingsError(
            f"quant is {asked!r}, but {checkpoint.folder} holds weights packed as "
            f"{checkpoint.quant!r}: leave quant out, or give the checkpoint they came from"
        )
    return asked or checkpoint.quant


def scheme_of(name: str, config: ModelConfig, quant: str | None) -> Scheme | None:
    """The scheme for a weight of the unsplit model; None for one that is not quantized."""
    if quant is None or full_parameters(config, quant)[name].dtype is None:
        return None
    return HEAD_SCHEME if name == HEAD_NAME else SCHEMES[quant]


def match_packed(
    checkpoint: Checkpoint, config: ModelConfig, quant: str | None
) -> dict[str, tuple[str, StoredTensor | PackedPart]]:
    """As `match`, with each weight that is still to be quantized as two parts, scale first."""
    quant = choose_quant(checkpoint, quant)
    found: dict[str, tuple[str, StoredTensor | PackedPart]] = {}
    for name, (theirs, stored) in match(checkpoint, config).items():
        scheme = scheme_of(name, config, quant) if checkpoint.quant is None else None
        if scheme is None:
            found[name] = theirs, stored
        else:
            found[f"{name}_scale"] = f"{theirs}_scale", PackedPart(stored, scheme, "weight_scale")
            found[name] = theirs, PackedPart(stored, scheme, "weight")
    return found
