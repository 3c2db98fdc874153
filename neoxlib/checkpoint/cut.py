"""Stream a checkpoint's tensors into the files of every rank, block by block; what a kill leaves is taken up again."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxlib.checkpoint import durable
from neoxlib.checkpoint.durable import Journal, Layout
from neoxlib.checkpoint.folder import Stored
from neoxlib.checkpoint.manifest import JOURNAL, MANIFEST, PART_KEY, QUANT_KEY, manifest_bytes, seal
from neoxlib.checkpoint.pack import PackedPart, packed
from neoxlib.checkpoint.pickles import load_whole
from neoxlib.checkpoint.tensor_file import BLOCK, garbage_collection_paused, matrix
from neoxlib.checkpoint.tensor_writer import Entry, TensorFile
from neoxlib.errors import WeightsError
from neoxlib.kernels.cpu import pack
from neoxlib.model.layers import Cut
from neoxlib.workbook.progress import Meter


@dataclass(frozen=True)
class Target:
    """A tensor on its way: where it is, its name in the new files and in the unsplit checkpoint, dtype and rule."""

    stored: Stored | PackedPart
    name: str
    source_name: str
    dtype: torch.dtype
    rule: Cut


@dataclass(frozen=True)
class Job:
    """Which tensors go into which file of which rank's folder. Each group is one file per rank, in reading order.

    `request` says what this is a cut of: a journal or manifest with another request is not this job's.
    """

    root: Path
    folders: tuple[str, ...]  # by rank, under root; "." alone when merging
    groups: tuple[tuple[Target, ...], ...]
    companions: dict[str, bytes]  # config.json, tokenizer files: the same in every folder
    request: dict[str, Any]
    source: Callable[[], dict[str, Any]]  # what `request` says of the source, as it is now

    def file(self, rank: int, group: int) -> str:
        """Path under root of a rank's file."""
        count = len(self.groups)
        name = (
            "model.safetensors" if count == 1 else f"model-{group + 1:05}-of-{count:05}.safetensors"
        )
        return self.path(rank, name)

    def path(self, rank: int, name: str) -> str:
        """Path under root of a name in a rank's folder."""
        return os.path.normpath(f"{self.folders[rank]}/{name}")

    def layout(self, rank: int, group: int) -> Layout:
        """Names, dtypes and local shapes in a rank's file."""
        size = len(self.folders)
        return {
            t.name: (t.dtype, t.rule.shape(t.stored.shape, rank, size)) for t in self.groups[group]
        }

    def header(self, rank: int, group: int) -> bytes:
        """Head of a rank's file, which marks it as that rank's part, and as packed."""
        quant = self.request["quant"]
        cut = self.request["kind"] == "shard"
        marks = {PART_KEY: f"{rank}/{len(self.folders)}"} if cut else {}
        marks |= {QUANT_KEY: quant} if quant else {}
        return durable.header_of(self.layout(rank, group), marks)

    def sizes(self) -> dict[str, int]:
        """Bytes of every weight file."""
        places = [
            (rank, group) for rank in range(len(self.folders)) for group in range(len(self.groups))
        ]
        return {
            self.file(*at): len(self.header(*at)) + durable.data_bytes(self.layout(*at))
            for at in places
        }


def write(job: Job, progress: bool) -> dict[str, Any]:
    """Write what the journal does not hold yet; of a cut, the manifest comes last. Returns the manifest.

    Raises ShardError when the disk is too small, fills up, or another process writes there,
    WeightsError when the source has changed meanwhile.
    """
    sizes = job.sizes()
    kept = sum(size for file, size in sizes.items() if (job.root / file).is_file())
    small = len(job.folders) * sum(len(data) for data in job.companions.values())
    durable.check_space(job.root, sum(sizes.values()) - kept + small)
    with durable.disk_errors(job.root), garbage_collection_paused():
        for folder in job.folders:
            (job.root / folder).mkdir(parents=True, exist_ok=True)
        journal = Journal(job.root / JOURNAL, job.request)
        try:
            written = _write_companions(job) | _write_weights(job, sizes, journal, progress)
            _check_source(job, written, journal)
            return _finish(job, written | _write_indexes(job), journal)
        finally:
            journal.close()
            load_whole.cache_clear()
            packed.cache_clear()


def _check_source(job: Job, written: dict[str, Entry], journal: Journal) -> None:
    """What is written is of one source if that is what it was before anything of it was read."""
    load_whole.cache_clear()
    now = job.source()
    if all(job.request[key] == value for key, value in now.items()):
        return
    journal.discard(written)
    names = durable.changed(job.request["source_files"], now["source_files"]) or ["their content"]
    raise WeightsError(
        f"the source has changed while it was read: {', '.join(names)}. What was written is "
        "discarded: give the same command again once nothing writes there"
    )


def _write_companions(job: Job) -> dict[str, Entry]:
    places = [
        (job.path(rank, name), data)
        for rank in range(len(job.folders))
        for name, data in job.companions.items()
    ]
    for path, _ in places:
        (job.root / path).parent.mkdir(parents=True, exist_ok=True)
    return {path: durable.write_bytes(job.root / path, data) for path, data in places}


def _write_weights(
    job: Job, sizes: dict[str, int], journal: Journal, progress: bool
) -> dict[str, Entry]:
    done = {
        file: entry
        for file, entry in journal.done.items()
        if durable.has_size(job.root / file, entry)
    }
    started = sum(entry["bytes"] for entry in done.values())
    meter = Meter(job.request["kind"], sum(sizes.values()), started, progress)
    with meter:
        for group in range(len(job.groups)):
            ranks = [rank for rank in range(len(job.folders)) if job.file(rank, group) not in done]
            if ranks:
                _write_group(job, group, ranks, journal, meter)
    return {file: journal.done[file] for file in sizes}


def _write_group(job: Job, group: int, ranks: list[int], journal: Journal, meter: Meter) -> None:
    """One file of each rank in `ranks`, the source read once: a block goes to all of them before the next is read."""
    outputs: dict[int, TensorFile] = {}
    syncer = ThreadPoolExecutor(1)
    try:
        for rank in ranks:
            outputs[rank] = TensorFile(
                job.root / job.file(rank, group), job.header(rank, group), syncer
            )
            meter.add(outputs[rank].bytes)
        for target in job.groups[group]:
            for count in _write_tensor(target, outputs, len(job.folders)):
                meter.add(count)
        for rank, output in outputs.items():
            journal.record(job.file(rank, group), output.finish())
    finally:
        for output in outputs.values():
            output.abandon()
        syncer.shutdown()


def _write_tensor(target: Target, outputs: dict[int, TensorFile], size: int) -> Iterator[int]:
    """Append to each rank's file its part of a tensor, a block at a time. Yields the bytes of each.

    A row layer's bias is whole on every rank, never divided: the model adds it once, after the sum over the ranks;
    N parts, each rounded, would not add up to it.
    """
    stored = target.stored
    dtype = target.dtype
    whole = slice(0, matrix(stored.shape)[1])
    parts = {
        rank: (*target.rule.slices(stored.shape, rank, size), slice(0, 1))[:2] for rank in outputs
    }
    for rows, ranks in _turns(target, {rank: part[0] for rank, part in parts.items()}):
        height = rows.stop - rows.start
        columns = [parts[rank][1] for rank in ranks]
        rooms = [
            outputs[r].room(height, c.stop - c.start, dtype)
            for r, c in zip(ranks, columns, strict=True)
        ]
        if columns == [whole] and stored.dtype == dtype:
            stored.read_into(rooms[0], (rows, whole))  # straight to where it is hashed and written
        else:
            stored.read_into(
                block := torch.empty(height, whole.stop, dtype=stored.dtype), (rows, whole)
            )
            block = cast(block, dtype, target.source_name)
            for room, part in zip(rooms, columns, strict=True):
                pack.copy(block[:, part], room)
        yield from (room.nbytes for room in rooms)


def _turns(target: Target, parts: dict[int, slice]) -> Iterator[tuple[slice, list[int]]]:
    """Runs of rows, BLOCK bytes at most, and the ranks whose `parts` they are in.

    Where columns are cut a run is read once, for all ranks. Where rows are, the ranks take turns: each file then has
    bytes to be hashed and written while another one's are read.
    """
    width = matrix(target.stored.shape)[1] * max(
        target.dtype.itemsize, target.stored.dtype.itemsize
    )
    step = max(1, BLOCK // max(1, width))
    if target.rule.dim == 1:
        whole = next(iter(parts.values()))
        yield from ((rows, list(parts)) for rows in _runs(whole, step))
        return
    for turn in zip_longest(*(_runs(rows, step) for rows in parts.values())):
        yield from ((rows, [rank]) for rank, rows in zip(parts, turn, strict=True) if rows)


def _runs(rows: slice, step: int) -> Iterator[slice]:
    yield from (
        slice(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)
    )


def cast(block: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """The block in another dtype. Raises WeightsError where a finite value would become infinite."""
    if block.dtype == dtype:
        return block
    out = block.to(dtype)
    if not torch.equal(out.isinf(), block.isinf()):
        worst = block[block.isfinite()].abs().max().item()
        raise WeightsError(
            f"{name} holds {worst:g}, past the range of {dtype}; cut to bfloat16, or keep its dtype"
        )
    return out


def _write_indexes(job: Job) -> dict[str, Entry]:
    """Tensor -> file in each folder of several files; they come after the files, which so do not look complete."""
    entries: dict[str, Entry] = {}
    for rank in range(len(job.folders)) if len(job.groups) > 1 else ():
        layouts = {
            Path(job.file(rank, n)).name: job.layout(rank, n) for n in range(len(job.groups))
        }
        weight_map = {name: file for file, layout in layouts.items() for name in layout}
        total = sum(durable.data_bytes(layout) for layout in layouts.values())
        path = job.path(rank, "model.safetensors.index.json")
        entries[path] = durable.write_json(
            job.root / path, {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    return entries


def _finish(job: Job, written: dict[str, Entry], journal: Journal) -> dict[str, Any]:
    for folder in job.folders:
        durable.sync_folder(job.root / folder)
    manifest = _manifest(job, written)
    if job.request["kind"] == "shard":
        durable.write_bytes(job.root / MANIFEST, manifest_bytes(manifest))
    durable.sync_folder(job.root)
    journal.remove()
    return manifest


def _manifest(job: Job, written: dict[str, Entry]) -> dict[str, Any]:
    """Of each tensor: `cut` is the dimension that is cut, null where every rank holds the whole; `shape` is full."""
    dtypes = {str(target.dtype).removeprefix("torch.") for group in job.groups for target in group}
    tensors = {
        target.name: {
            "cut": target.rule.dim,
            "shape": list(target.stored.shape),
            "dtype": durable.CODES[target.dtype],
            "source_name": target.source_name,
            "files": [job.file(rank, n) for rank in range(len(job.folders))],
        }
        for n, group in enumerate(job.groups)
        for target in group
    }
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    return seal({**job.request, "dtype": dtype, "files": written, "tensors": tensors})
