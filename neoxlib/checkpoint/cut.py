"""Stream a checkpoint's tensors into the files of every rank, block by block.

After a kill the same job resumes with the first file that is not finished.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxlib.checkpoint import durable
from neoxlib.checkpoint.cut_job import CutJob, CutTensor
from neoxlib.checkpoint.durable import CutJournal
from neoxlib.checkpoint.manifest import JOURNAL, MANIFEST, manifest_bytes, seal
from neoxlib.checkpoint.pack import packed
from neoxlib.checkpoint.pickles import load_whole
from neoxlib.checkpoint.tensor_file import BLOCK, garbage_collection_paused, matrix
from neoxlib.checkpoint.tensor_writer import Entry, TensorFile
from neoxlib.errors import WeightsError
from neoxlib.kernels.cpu import pack
from neoxlib.workbook.progress import Meter


def write(job: CutJob, progress: bool) -> dict[str, Any]:
    """Write the files that the journal does not list yet, and return the manifest.

    A cut's manifest is written last. Raises ShardError if the disk is too small or fills up, or if
    another process writes there, and WeightsError if the source has changed meanwhile.
    """
    sizes = job.sizes()
    kept = sum(size for file, size in sizes.items() if (job.root / file).is_file())
    small = len(job.folders) * sum(len(data) for data in job.companions.values())
    durable.check_space(job.root, sum(sizes.values()) - kept + small)
    with durable.disk_errors(job.root), garbage_collection_paused():
        job.root.mkdir(parents=True, exist_ok=True)
        journal = CutJournal(job.root / JOURNAL, job.request)  # before anything else, or a resume
        try:  # would take what is there for another's
            for folder in job.folders:
                (job.root / folder).mkdir(parents=True, exist_ok=True)
            written = _write_companions(job) | _write_weights(job, sizes, journal, progress)
            _check_source(job, written, journal)
            return _finish(job, written | _write_indexes(job), journal)
        finally:
            journal.close()
            load_whole.cache_clear()
            packed.cache_clear()


def _check_source(job: CutJob, written: dict[str, Entry], journal: CutJournal) -> None:
    """Raise WeightsError, and discard all files, if the source differs from when the job began."""
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


def _write_companions(job: CutJob) -> dict[str, Entry]:
    places = [
        (job.path(rank, name), data)
        for rank in range(len(job.folders))
        for name, data in job.companions.items()
    ]
    for path, _ in places:
        (job.root / path).parent.mkdir(parents=True, exist_ok=True)
    return {path: durable.write_bytes(job.root / path, data) for path, data in places}


def _write_weights(
    job: CutJob, sizes: dict[str, int], journal: CutJournal, progress: bool
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


def _write_group(
    job: CutJob, group: int, ranks: list[int], journal: CutJournal, meter: Meter
) -> None:
    """Write one file of each rank in `ranks`.

    Reads the source once: each block goes to all ranks before the next is read.
    """
    outputs: dict[int, TensorFile] = {}
    syncer = ThreadPoolExecutor(1)
    try:
        for rank in ranks:
            path = job.root / job.file(rank, group)
            outputs[rank] = TensorFile(path, job.header(rank, group), syncer)
            meter.add(outputs[rank].bytes)
        for tensor in job.groups[group]:
            for count in _write_tensor(tensor, outputs, len(job.folders)):
                meter.add(count)
        for rank, output in outputs.items():
            journal.record(job.file(rank, group), output.finish())
    finally:
        for output in outputs.values():
            output.abandon()
        syncer.shutdown()


def _write_tensor(tensor: CutTensor, outputs: dict[int, TensorFile], size: int) -> Iterator[int]:
    """Append each rank's part of a tensor to its file, block by block. Yields bytes written.

    A row layer's bias is whole on every rank, never divided: the model adds it once, after the
    all-reduce. The sum of N rounded parts would differ from it.
    """
    shape = tensor.stored.shape
    parts = {rank: (*tensor.rule.slices(shape, rank, size), slice(0, 1))[:2] for rank in outputs}
    for rows, ranks in _turns(tensor, {rank: part[0] for rank, part in parts.items()}):
        columns = [parts[rank][1] for rank in ranks]
        spaces = [
            outputs[rank].room(rows.stop - rows.start, part.stop - part.start, tensor.dtype)
            for rank, part in zip(ranks, columns, strict=True)
        ]
        _read_block(tensor, rows, columns, spaces)
        yield from (space.nbytes for space in spaces)


def _read_block(tensor: CutTensor, rows: slice, columns: list[slice], spaces: list[Tensor]) -> None:
    """Read rows of a tensor and copy each rank's columns, in the new dtype, into its space."""
    stored = tensor.stored
    whole = slice(0, matrix(stored.shape)[1])
    if columns == [whole] and stored.dtype == tensor.dtype:
        stored.read_into(spaces[0], (rows, whole))  # no copy between the two files
        return
    block = torch.empty(rows.stop - rows.start, whole.stop, dtype=stored.dtype)
    stored.read_into(block, (rows, whole))
    block = cast(block, tensor.dtype, tensor.source_name)
    for space, part in zip(spaces, columns, strict=True):
        pack.copy(block[:, part], space)


def _turns(tensor: CutTensor, parts: dict[int, slice]) -> Iterator[tuple[slice, list[int]]]:
    """Yield runs of rows, at most BLOCK bytes each, and the ranks that need them.

    `parts` are the rows of each rank. If columns are cut, a run is read once for all ranks. If rows
    are cut, the ranks alternate: one file is hashed and written while the next one's rows are read.
    """
    value = max(tensor.dtype.itemsize, tensor.stored.dtype.itemsize)
    step = max(1, BLOCK // max(1, matrix(tensor.stored.shape)[1] * value))
    if tensor.rule.dim == 1:
        whole = next(iter(parts.values()))
        yield from ((rows, list(parts)) for rows in _runs(whole, step))
        return
    for turn in zip_longest(*(_runs(rows, step) for rows in parts.values())):
        yield from ((rows, [rank]) for rank, rows in zip(parts, turn, strict=True) if rows)


def _runs(rows: slice, step: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def cast(block: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """The block in another dtype. Raises WeightsError if a finite value would become infinite."""
    if block.dtype == dtype:
        return block
    out = block.to(dtype)
    if not torch.equal(out.isinf(), block.isinf()):
        worst = block[block.isfinite()].abs().max().item()
        raise WeightsError(
            f"{name} holds {worst:g}, past the range of {dtype}; cut to bfloat16, or keep its dtype"
        )
    return out


def _write_indexes(job: CutJob) -> dict[str, Entry]:
    """Write the index, tensor -> file, into each folder of several files.

    Follows the weight files: a folder without its index does not look complete.
    """
    entries: dict[str, Entry] = {}
    if len(job.groups) == 1:
        return entries
    for rank in range(len(job.folders)):
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


def _finish(job: CutJob, written: dict[str, Entry], journal: CutJournal) -> dict[str, Any]:
    for folder in job.folders:
        durable.sync_folder(job.root / folder)
    manifest = _manifest(job, written)
    if job.request["kind"] == "shard":
        durable.write_bytes(job.root / MANIFEST, manifest_bytes(manifest))
    durable.sync_folder(job.root)
    journal.remove()
    return manifest


def _manifest(job: CutJob, written: dict[str, Entry]) -> dict[str, Any]:
    """The sealed manifest.

    Of each tensor `cut` is the dimension that is cut, None if every rank holds all of it; `shape`
    is that of the unsplit tensor.
    """
    dtypes = {str(tensor.dtype).removeprefix("torch.") for group in job.groups for tensor in group}
    tensors = {
        tensor.name: {
            "cut": tensor.rule.dim,
            "shape": list(tensor.stored.shape),
            "dtype": durable.CODES[tensor.dtype],
            "source_name": tensor.source_name,
            "files": [job.file(rank, n) for rank in range(len(job.folders))],
        }
        for n, group in enumerate(job.groups)
        for tensor in group
    }
    dtype = dtypes.pop() if len(dtypes) == 1 else "mixed"
    about = {**job.request, "source_folder": job.source_folder, "dtype": dtype}
    return seal({**about, "files": written, "tensors": tensors})
