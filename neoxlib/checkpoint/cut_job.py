"""The files of a cut or a merge: their folders, tensors and sizes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neoxlib.checkpoint.durable import Layout, data_bytes, header_of
from neoxlib.checkpoint.manifest import PART_KEY, QUANT_KEY
from neoxlib.checkpoint.pack import PackedPart
from neoxlib.checkpoint.stored_tensor import StoredTensor
from neoxlib.model.layers import Placement


@dataclass(frozen=True)
class CutTensor:
    """A tensor to write: source, new name, name in the unsplit checkpoint, new dtype and rule."""

    stored: StoredTensor | PackedPart
    name: str
    source_name: str
    dtype: torch.dtype
    rule: Placement


@dataclass(frozen=True)
class CutJob:
    """Which tensors go into which file of which rank's folder.

    Each group is one file per rank, in reading order. `request` states source and settings: a
    journal or manifest with another request belongs to another job.
    """

    root: Path
    folders: tuple[str, ...]  # by rank, under root; only "." for a merge
    groups: tuple[tuple[CutTensor, ...], ...]
    companions: dict[str, bytes]  # config.json, tokenizer files: the same in every folder
    request: dict[str, Any]
    source: Callable[[], dict[str, Any]]  # the source's entries in `request`, computed now
    source_folder: str  # for the manifest: what is compared later is read there

    def file(self, rank: int, group: int) -> str:
        """Path under root of a rank's file."""
        count = len(self.groups)
        name = (
            "model.safetensors" if count == 1 else f"model-{group + 1:05}-of-{count:05}.safetensors"
        )
        return self.path(rank, name)

    def path(self, rank: int, name: str) -> str:
        """Path under root of a file in a rank's folder."""
        return os.path.normpath(f"{self.folders[rank]}/{name}")

    def layout(self, rank: int, group: int) -> Layout:
        """Names, dtypes and that rank's shapes in a rank's file."""
        size = len(self.folders)
        return {
            tensor.name: (tensor.dtype, tensor.rule.shape(tensor.stored.shape, rank, size))
            for tensor in self.groups[group]
        }

    def header(self, rank: int, group: int) -> bytes:
        """Header of a rank's file, with the marks of its rank and its quantization."""
        marks = {}
        if self.request["kind"] == "shard":
            marks[PART_KEY] = f"{rank}/{len(self.folders)}"
        if quant := self.request["quant"]:
            marks[QUANT_KEY] = quant
        return header_of(self.layout(rank, group), marks)

    def sizes(self) -> dict[str, int]:
        """Bytes of every weight file."""
        return {
            self.file(rank, group): len(self.header(rank, group))
            + data_bytes(self.layout(rank, group))
            for rank in range(len(self.folders))
            for group in range(len(self.groups))
        }
