"""Read a dump that the vendor's PrecisionDebugger (msprobe) took of transformers' GPT-NeoX.

A dump taken on a GPU or an NPU is read like any other, and so are those of `write_msprobe`. Only
tensors are loaded, no objects.
"""

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neoxlib.align.capture import FORMAT
from neoxlib.align.distances import Distance, Drift
from neoxlib.align.foreign import LAYER, ROW_BIASES, WHOLE
from neoxlib.align.joins import whole
from neoxlib.align.reader import Capture, Found, need_tensors
from neoxlib.align.weights import ReferenceWeights
from neoxlib.checkpoint.folder import fingerprint, open_checkpoint
from neoxlib.errors import SettingsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.dumps import (
    AGAIN,
    BLOCK,
    EMBEDDING,
    HEADS,
    IDS,
    KINDS,
    MASK,
    Entry,
    Pass,
    head_of,
    passes_of,
    places_of,
)
from neoxlib.model.steps import CONTEXT, LOGITS, QUERY_KEY_VALUE, part_of, within

NAMES = {module: ours for ours, module in (LAYER | WHOLE).items()} | dict.fromkeys(HEADS, LOGITS)
FLOATS = ("torch.float32", "torch.float16", "torch.bfloat16")


@dataclass(frozen=True)
class Dump(Capture):
    """A dump as a capture of one rank; tensors are read one part of the model at a time."""

    calls: list[Pass]

    def part(self, name: str) -> Found:
        """All tensors of one part of the model, products without the biases added to them.

        In half precision a sum with a bias was rounded: the product alone cannot be had from it,
        and is left out.
        """
        found = {}
        for number, steps in enumerate(self.calls):
            for full, entry in steps.items():
                if full in (IDS, MASK) or part_of(full) != name:
                    continue
                bias = self.row_bias(full, entry)
                if bias is None:
                    found[full, number, 0] = entry.load()
                elif entry.dtype == "torch.float32":
                    found[full, number, 0] = entry.load() - bias.float()
        return found

    def distances_from(self, capture: Capture) -> list[Drift]:
        """As `against_statistics`."""
        return against_statistics(capture, self)

    def row_bias(self, full: str, entry: Entry) -> Tensor | None:
        """The bias in the output of `full`, which a capture has apart; None if it has none."""
        if not full.endswith(ROW_BIASES):
            return None
        if entry.bias is not None and entry.bias.file is not None:
            return entry.bias.load()
        if not entry.biased:
            return None
        if self.manifest["model_dir"] is None:
            raise SettingsError(
                f"{self.folder} lacks the biases: dump with data_mode ['all'], or give the model"
            )
        return row_bias(ReferenceWeights(self.manifest["model_dir"]), full)


def row_bias(source: ReferenceWeights, full: str) -> Tensor | None:
    """The checkpoint's bias that all ranks share of the step `full`; None if it has none."""
    read = source.readers.get(f"{full}.bias")
    return read() if read and full.endswith(ROW_BIASES) else None


def read_msprobe(
    folder: str | os.PathLike[str],
    like: Capture | None = None,
    model_dir: str | os.PathLike[str] | None = None,
) -> Dump:
    """Open a dump; `like` is a capture of the same tokens, `model_dir` the checkpoint.

    Token ids and padding come from the dump where it has them, else from `like`; so does the model
    folder, which must be that of the dump. Of several ranks the first is read. Raises SettingsError
    for a dump without modules of GPT-NeoX, of another model, damaged or without its tensors.
    """
    folder = Path(folder)
    places = places_of(folder)
    heads = [head_of(place) for place in places]
    tasks = {head["task"] for head in heads}
    if len(tasks) > 1:
        raise SettingsError(f"{folder} has steps of tasks {sorted(tasks)}; keep those of one")
    calls = list(
        chain.from_iterable(passes_of(*each, NAMES) for each in zip(places, heads, strict=True))
    )
    if not calls:
        raise SettingsError(f"{folder} has no module of GPT-NeoX, as {EMBEDDING}; {AGAIN}")
    model_dir = model_dir or (like.manifest["model_dir"] if like else None)
    dump = Dump(folder, _manifest(folder, calls, tasks.pop(), like, model_dir), calls)
    if model_dir is not None:
        _refuse_other_model(dump)
    return dump


def _manifest(
    folder: Path,
    calls: list[Pass],
    task: str,
    like: Capture | None,
    model_dir: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """The manifest of a capture, as far as the dump and `like` tell it."""
    said = [(steps[EMBEDDING].shape, steps.get(IDS)) for steps in calls if EMBEDDING in steps]
    if any(len(s) != 3 or min(s) < 1 or (ids and ids.shape != s[:2]) for s, ids in said):
        raise SettingsError(f"{folder} is damaged: token ids and embeddings do not fit; dump anew")
    if len(said) < len(calls):
        raise SettingsError(f"{folder} has passes without {EMBEDDING}; dump whole forward passes")
    if (other := _other_dtype(calls)) is not None:
        raise SettingsError(f"{folder} is of {other}, not one of {FLOATS}")
    ids, mask, passes = _tokens(folder, calls, like)
    layers = {int(match[1]) for name in calls[0] if (match := BLOCK.match(name))}
    if layers != set(range(len(layers))):
        raise SettingsError(f"{folder} has layers {sorted(layers)} only; dump all of them")
    return {
        "model_dir": None if model_dir is None else str(model_dir),
        "fingerprint": model_dir and fingerprint(open_checkpoint(model_dir)),
        "dtype": calls[0][EMBEDDING].dtype.removeprefix("torch."),
        "quant": None,
        "world_size": 1,
        "device": "unknown",
        "compile": "msprobe",
        "format": FORMAT,
        "kind": KINDS[task],
        "layers": len(layers),
        "ids": ids,
        "mask": mask,
        "passes": passes,
        "files": {},  # dump.json names them, and one that is lost is missed where it is read
    }


def _other_dtype(calls: list[Pass]) -> str | None:
    """The dtype of a step, or of its bias, that is none of FLOATS; None if all are."""
    values = [entry for steps in calls for n, entry in steps.items() if n not in (IDS, MASK)]
    values += [entry.bias for entry in values if entry.bias is not None]
    return next((entry.dtype for entry in values if entry.dtype not in FLOATS), None)


def _tokens(
    folder: Path, calls: list[Pass], like: Capture | None
) -> tuple[list[list[int]], list[list[bool]], list[list[int]]]:
    """Token ids, padding and columns of the passes."""
    shapes = [steps[EMBEDDING].shape for steps in calls]
    ends = np.cumsum([shape[1] for shape in shapes]).tolist()
    passes = [[end - shape[1], end] for end, shape in zip(ends, shapes, strict=True)]
    entries = [steps.get(MASK) for steps in calls]
    flat = [entry for entry in entries if entry is not None and len(entry.shape) == 2]
    if len({shape[0] for shape in shapes}) > 1 or any(
        entry.shape[1] != end for entry, end in zip(entries, ends, strict=True) if entry in flat
    ):
        raise SettingsError(f"{folder} is of several prompts in turn; keep the steps of one")
    if all(IDS in steps and steps[IDS].file for steps in calls):
        ids = torch.cat([steps[IDS].load().long() for steps in calls], 1).tolist()
        last = entries[-1]
        if last in flat:
            return ids, last.load().bool().tolist(), passes
        return ids, like.manifest["mask"] if like else [[True] * ends[-1] for _ in ids], passes
    if like is None:
        raise SettingsError(f"{folder} does not hold the token ids; give a capture of the same")
    _refuse_other_tokens(folder, calls, passes, like)
    return like.manifest["ids"], like.manifest["mask"], passes


def _refuse_other_tokens(
    folder: Path, calls: list[Pass], passes: list[list[int]], like: Capture
) -> None:
    """Raise SettingsError unless passes and the range of the ids are those of `like`."""
    other = [tuple(columns) for columns in passes] != like.passes
    for (first, end), steps in zip(like.passes, calls, strict=False):
        ids, entry = like.ids[:, first:end], steps.get(IDS)
        other = other or tuple(steps[EMBEDDING].shape[:2]) != tuple(ids.shape)
        if entry is not None and entry.figures[0] is not None:
            other = other or list(entry.figures[:2]) != [ids.max().item(), ids.min().item()]
    if other:
        raise SettingsError(
            f"{folder} is of other token ids than {like.folder}: run both on the same prompts and "
            "the same tokens after them"
        )


def _refuse_other_model(dump: Dump) -> None:
    """Raise SettingsError if shapes, or the embedding of every token, are not the checkpoint's."""
    model_dir = dump.manifest["model_dir"]
    source = ReferenceWeights(model_dir, dump.manifest["dtype"])
    config = source.config
    said = dump.calls[0].items()
    parts = [name for name, e in said if e.shape[-1:] != (_width(name, config) or e.shape[-1:])]
    if parts or dump.manifest["layers"] != config.num_hidden_layers:
        what = f"{parts[0]} is {list(dump.calls[0][parts[0]].shape)}" if parts else "its depth"
        raise SettingsError(
            f"{dump.folder} is of another model than {model_dir}, or of a rank's part of it: "
            f"{what}, {dump.manifest['layers']} layers; give the model folder that was dumped, "
            "and a dump of whole tensors"
        )
    (first, end), entry = dump.passes[0], dump.calls[0][EMBEDDING]
    ids = dump.ids[:, first:end]
    table = source.beginning()[EMBEDDING]
    if (
        ids.max() >= len(table)
        or ids.min() < 0
        or not _any_near(entry, table[ids], dump.manifest["kind"])
    ):
        raise SettingsError(
            f"{dump.folder} is of another model or other token ids than {model_dir}: no token's "
            "embedding is the checkpoint's; give the model folder that was dumped"
        )


def _width(name: str, config: ModelConfig) -> tuple[int, ...] | None:
    """The last dimension of a module's output; None for what no module gives."""
    wide = {QUERY_KEY_VALUE: 3 * config.hidden_size, LOGITS: config.vocab_size}
    wide |= dict.fromkeys(("mlp.dense_h_to_4h", "mlp.activation"), config.intermediate_size)
    known = {*LAYER, *WHOLE, CONTEXT}
    return (wide.get(within(name), config.hidden_size),) if within(name) in known else None


def _any_near(entry: Entry, expected: Tensor, kind: str) -> bool:
    """Whether one token's embedding, or the greatest or least value, is as expected."""
    if kind == "tensors":
        return bool(torch.isclose(entry.load().double(), expected, 1e-2, 1e-6).all(-1).any())
    exact = expected.max().item(), expected.min().item()
    return bool(np.isclose(np.array(entry.figures[:2], float), exact, 1e-2, 1e-6).any())


def against_statistics(capture: Capture, dump: Dump) -> list[Drift]:
    """How far a capture is from a dump of statistics, at least.

    The distance is that of the norms, which is never more than that of the tensors; the error that
    of the greatest and least values; the cosine is not known (NaN). Raises SettingsError for a
    capture of statistics, or with padding, which is in the dump's statistics.
    """
    need_tensors(capture)
    if not capture.mask.all():
        raise SettingsError(f"{capture.folder} has padding; statistics need prompts of one length")
    source = ReferenceWeights(capture.manifest["model_dir"])
    drifts = []
    layers = (f"layer{layer:03d}" for layer in range(capture.manifest["layers"]))
    for part in ("begin", *layers, "end"):
        for (name, pass_), value in whole(capture, part).items():
            entry = dump.calls[pass_].get(name) if pass_ < len(dump.calls) else None
            bias = row_bias(source, name)
            value = value if bias is None else value + bias
            known = entry is not None and None not in entry.figures
            if known and _shape(entry) == value.shape:
                drifts.append(Drift(name, pass_, _least(value, entry), None))
    if not drifts:
        raise SettingsError(f"{dump.folder} has no statistics of a step of {capture.folder}")
    return drifts


def _shape(entry: Entry) -> tuple[int, ...]:
    b, *middle, last = entry.shape
    return (b, *middle[::-1], last) if entry.turned else entry.shape


def _least(value: Tensor, entry: Entry) -> Distance:
    greatest, least, _, norm = (float(figure) for figure in entry.figures)
    apart = abs(value.norm().item() - norm)
    error = max(abs(value.max().item() - greatest), abs(value.min().item() - least))
    return Distance(apart / norm if norm else apart, float("nan"), error, False)
