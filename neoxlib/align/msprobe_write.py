"""Write a capture as a dump that `msprobe compare` holds against one of transformers' model.

Names and classes are those of transformers' modules, so that msprobe matches them. Steps that are
no module there (rotation, cache, sums over ranks) have the class `Step`, which only another dump of
neoxlib has.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxlib.align.joins import whole
from neoxlib.align.msprobe import row_bias
from neoxlib.align.reader import Capture, need_tensors, refuse_changed_model
from neoxlib.align.weights import ReferenceWeights
from neoxlib.errors import SettingsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.dumps import DUMP, EMBEDDING, FIGURES, IDS, MASK, OURS, TENSORS
from neoxlib.model.steps import CONTEXT, LOGITS, QUERY_KEY_VALUE, all_steps, layer_of, within

PROCESS = "proc0"  # msprobe's name for the folder of one process; the ranks are joined
MODEL = "Module.gpt_neox.GPTNeoXModel.forward.0"
STREAM = "<stream>"  # the input of a layer
NORM, POST, FINAL = "input_layernorm", "post_attention_layernorm", "gpt_neox.final_layer_norm"
DENSE, UP, DOWN = "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
ROTATED, CACHED = "attention.rotary.", "attention.cached."


@dataclass(frozen=True)
class Row:
    """A module: its name within the layer, its class, and the steps that it takes and gives."""

    module: str
    kind: str
    given: str
    step: str


def rows_of(step: str, config: ModelConfig) -> list[Row]:
    """What is dumped when a step is there, in transformers' order; `step` is within its layer."""
    after = STREAM if config.use_parallel_residual else "attention.residual"
    known = {
        NORM: [Row(NORM, "LayerNorm", STREAM, NORM)],
        QUERY_KEY_VALUE: [Row(QUERY_KEY_VALUE, "Linear", NORM, QUERY_KEY_VALUE)],
        DENSE: [
            Row(DENSE, "Linear", CONTEXT, DENSE),
            Row("attention", "GPTNeoXAttention", NORM, DENSE),
        ],
        POST: [Row(POST, "LayerNorm", after, POST)],
        UP: [Row(UP, "Linear", POST, UP)],
        "mlp.activation": [Row("mlp.act", _activation(config), UP, "mlp.activation")],
        DOWN: [
            Row(DOWN, "Linear", "mlp.activation", DOWN),
            Row("mlp", "GPTNeoXMLP", POST, DOWN),
        ],
        "": [Row("", "GPTNeoXLayer", STREAM, "")],
        EMBEDDING: [Row(EMBEDDING, "Embedding", IDS, EMBEDDING)],
        FINAL: [
            Row(FINAL, "LayerNorm", STREAM, FINAL),
            Row("gpt_neox", "GPTNeoXModel", IDS, FINAL),
        ],
        LOGITS: [Row(LOGITS, "Linear", FINAL, LOGITS)],
    }
    return known.get(step, [Row(step, OURS, _before(step), step)])


def _before(step: str) -> str:
    """A step that one without module computes from; "" where it is several."""
    if step.startswith(ROTATED):
        return QUERY_KEY_VALUE
    if step.startswith(CACHED):
        return QUERY_KEY_VALUE if step.endswith("value") else "attention.rotary.key"
    return step.replace(".after", ".before") if step.endswith(".after") else ""


def _activation(config: ModelConfig) -> str:
    from transformers.activations import ACT2FN

    return type(ACT2FN[config.hidden_act]).__name__


def write_msprobe(capture: Capture, folder: str | os.PathLike[str], head: str = "lm_head") -> Path:
    """Write `capture`, its ranks joined, into `folder`: `step{n}` is forward pass n.

    Values are in the model's dtype, as transformers' are; the biases that ranks share are added as
    there, and the products without them are steps of ours. `head` is what transformers calls the
    head: "lm_head" since its version 5, "embed_out" before. Raises SettingsError for a capture of
    statistics or with padding (msprobe compares all positions), a folder that is there already, and
    a disk that is full: then nothing is left.
    """
    need_tensors(capture)
    refuse_changed_model(capture)
    folder = refuse_there(folder)
    if not capture.mask.all():
        raise SettingsError(
            f"{capture.folder} has rows of different lengths: msprobe compares padding, too, whose "
            "values mean nothing; capture prompts of one length"
        )
    aside = Path(f"{folder}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(capture, aside, head)
        aside.rename(folder)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter where the disk is full
        raise SettingsError(
            f"the dump could not be written to {folder}: {error}; nothing is left of it. Free "
            "space there, or name another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def refuse_there(folder: str | os.PathLike[str]) -> Path:
    """The whole path of a folder to write. Raises SettingsError if it is there already."""
    folder = Path(folder).absolute()
    if folder.exists():
        raise SettingsError(f"{folder} is there already; name a new folder")
    return folder


def _write(capture: Capture, folder: Path, head: str) -> None:
    """All passes, one part of the model at a time."""
    about = capture.manifest
    source = ReferenceWeights(about["model_dir"], about["dtype"], about["quant"])
    dtype = getattr(torch, about["dtype"])
    passes = []
    for number, (first, end) in enumerate(capture.passes):
        place = folder / f"step{number}" / PROCESS
        ids, mask = capture.ids[:, first:end], capture.mask[:, :end].long()
        passes.append(_Pass(place, source, dtype, head, {IDS: ids, MASK: mask}))
    layers = (f"layer{layer:03d}" for layer in range(about["layers"]))
    for part in ("begin", *layers, "end"):
        found = whole(capture, part)
        for number, each in enumerate(passes):
            each.part({name: value for (name, pass_), value in found.items() if pass_ == number})
    for each in passes:
        each.finish()


@dataclass
class _Pass:
    """One forward pass: the folder of one of msprobe's steps."""

    folder: Path
    source: ReferenceWeights
    dtype: torch.dtype
    head: str
    values: dict[str, Tensor]  # what the rows of a part take and give, by the name within a layer
    data: dict[str, Any] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)

    def part(self, found: dict[str, Tensor]) -> None:
        """Write the steps of one part of the model, `found` by their full names."""
        fixed = {name: self.values[name] for name in (IDS, MASK, STREAM) if name in self.values}
        self.values = fixed | {within(name): value.to(self.dtype) for name, value in found.items()}
        for full in all_steps(self.source.config):
            if full in found and not (within(full) == CONTEXT and DENSE in self.values):
                self._step(full, found[full])
        stream = self.values.get("", self.values.get(EMBEDDING))
        if stream is None:
            self.values.pop(STREAM, None)
        else:
            self.values[STREAM] = stream

    def _step(self, full: str, value: Tensor) -> None:
        """Write the modules that give a step; one with a shared bias with and without it."""
        step, bias = within(full), row_bias(self.source, full)
        rows = rows_of(step, self.source.config)
        if bias is not None:
            self.values[step] = (value + bias).to(self.dtype)
        for row in rows:
            self._row(layer_of(full), row, bias)
        if bias is not None:
            self.values[step] = value.to(self.dtype)
            self._row(layer_of(full), Row(step, OURS, rows[0].given, step), None)

    def _row(self, layer: int | None, row: Row, bias: Tensor | None) -> None:
        """Write what a module takes and gives, and note it."""
        module = self.head if row.module == LOGITS else row.module
        path = module if layer is None else f"gpt_neox.layers.{layer}.{module}".rstrip(".")
        name = f"Module.{path}.{row.kind}.forward.0"
        given = self.values.get(row.given)
        call = {"input_args": [], "input_kwargs": {}, "output": [], "parameters": {}}
        if given is not None:
            call["input_args"] = [self._tensor(f"{name}.input.0", given)]
        if row.kind == "Linear" and bias is not None:
            both = f"{name}.parameters.bias", bias.to(self.dtype)
            call["parameters"] = {"bias": self._tensor(*both, requires_grad=True)}
        if row.kind == "GPTNeoXModel":
            mask = self._tensor(f"{name}.kwargs.attention_mask", self.values[MASK])
            call["input_kwargs"] = {"attention_mask": mask}
            last = self._tensor(f"{name}.output.0.last_hidden_state", self.values[row.step])
            call["output"] = [{"last_hidden_state": last}]
        else:
            call["output"] = [self._tensor(f"{name}.output.0", self.values[row.step])]
        self.data[name] = call
        self.parents[name] = _parent(path, layer)

    def _tensor(self, name: str, value: Tensor, requires_grad: bool = False) -> dict[str, Any]:
        """Write a tensor; returns what dump.json says of it."""
        folder = self.folder / TENSORS
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(value.contiguous().clone(), folder / f"{name}.pt")
        return {
            "type": "torch.Tensor",
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            **dict(zip(FIGURES, figures(value), strict=True)),
            "requires_grad": requires_grad,
            "data_name": f"{name}.pt",
        }

    def finish(self) -> None:
        """Write the three JSON files."""
        about = {"task": "tensor", "level": "L0", "framework": "pytorch"}
        about["dump_data_dir"] = TENSORS
        self.folder.mkdir(parents=True, exist_ok=True)
        stack = {"0": [list(self.data), ["File neoxlib, a capture: no Python stack was kept"]]}
        files = {DUMP: about | {"data": self.data}, "construct.json": self.parents}
        for name, content in (files | {"stack.json": stack}).items():
            (self.folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _parent(path: str, layer: int | None) -> str | None:
    """The call of the module that a module is in, as construct.json has it."""
    if not path.startswith("gpt_neox."):
        return None
    if layer is None or path == f"gpt_neox.layers.{layer}":
        return MODEL
    block = f"gpt_neox.layers.{layer}"
    inner = path.removeprefix(f"{block}.")
    kinds = {"attention": "GPTNeoXAttention", "mlp": "GPTNeoXMLP"}
    outer = inner.split(".")[0]
    if inner != outer and outer in kinds:
        return f"Module.{block}.{outer}.{kinds[outer]}.forward.0"
    return f"Module.{block}.GPTNeoXLayer.forward.0"


def figures(value: Tensor) -> list[Any]:
    """Max, Min, Mean and Norm as msprobe has them: of integers only the first two."""
    least, greatest = value.aminmax()
    if not value.is_floating_point():
        return [greatest.item(), least.item(), None, None]
    return [greatest.item(), least.item(), value.mean().item(), value.norm().item()]
