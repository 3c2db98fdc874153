"""A tensor of a checkpoint, in one file or joined from the files of several ranks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from neoxlib.checkpoint.tensor_file import BLOCK, FileTensor, as_bytes, matrix


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the checkpoint: one piece, or the ranks' pieces, which join along `dim`."""

    pieces: tuple[FileTensor, ...]
    dim: int | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.pieces[0].shape)
        if self.dim is not None:
            shape[self.dim] = sum(piece.shape[self.dim] for piece in self.pieces)
        return tuple(shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.pieces[0].dtype

    @property
    def place(self) -> tuple[Path, int]:
        """File and offset: reading tensors sorted by it goes through each file once."""
        return self.pieces[0].path, self.pieces[0].offset or 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, out: Tensor, index: tuple[slice, ...], only_columns: bool = False) -> None:
        """Fill `out` with `self[index]`, one slice per dimension.

        Opens only the pieces that overlap `index`; `only_columns` as in FileTensor.
        """
        out = out.view(index[0].stop - index[0].start, -1) if out.ndim == 1 else out
        for piece, place, box in self._overlaps(index):
            part = out if place is None else out.narrow(self.dim, *place)
            piece.read_into(part, *box, only_columns)

    def mapped(self, index: tuple[slice, ...]) -> Tensor | None:
        """`self[index]` as mapped pages of a file; None if it is not contiguous in one file."""
        (piece, _, box), *more = self._overlaps(index)
        found = None if more else piece.mapped(*box)
        return None if found is None else found.view(tuple(s.stop - s.start for s in index))

    def _overlaps(
        self, index: tuple[slice, ...]
    ) -> Iterator[tuple[FileTensor, tuple[int, int] | None, list[slice]]]:
        """Yield each piece that overlaps `index`.

        With it: start and length of the overlap along `dim`, counted in `index` (None if not
        joined), and the rows and columns inside the piece.
        """
        box = list(index) if len(index) == 2 else [*index, slice(0, 1)]
        if self.dim is None:
            yield self.pieces[0], None, box
            return
        first = 0
        wanted = box[self.dim]
        for piece in self.pieces:
            length = piece.shape[self.dim]
            start = max(wanted.start, first)
            stop = min(wanted.stop, first + length)
            if start < stop:
                box[self.dim] = slice(start - first, stop - first)
                yield piece, (start - wanted.start, stop - start), list(box)
            first += length

    def row_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the whole tensor as (rows, block [rows, columns]), BLOCK bytes at a time.

        The next block overwrites the one before.
        """
        height, width = matrix(self.shape)
        step = max(1, BLOCK // (width * self.dtype.itemsize))
        block = torch.empty(min(step, height), width, dtype=self.dtype)
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            self.read_into(block[: rows.stop - start], (rows, slice(0, width)))
            yield rows, block[: rows.stop - start]


def same_bits(left: StoredTensor, right: StoredTensor) -> bool:
    """Whether two tensors of one shape and dtype are the same, byte for byte."""
    pairs = zip(left.row_blocks(), right.row_blocks(), strict=True)
    return all(as_bytes(a) == as_bytes(b) for (_, a), (_, b) in pairs)
