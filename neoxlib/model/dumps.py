"""What a dump of the vendor's PrecisionDebugger (msprobe) says, by the names of our steps.

The layout is that of mindstudio-probe 26.2.0 with PyTorch: `step{n}/rank{r}` or `step{n}/proc{pid}`
with dump.json, construct.json, stack.json and dump_tensor_data/, a file for each tensor.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.forms import FIGURE, INSIDE, OBJECT, TEXT, Maybe, Named, parse, problems, whole
from neoxlib.model.steps import (
    CACHED_KEY,
    CACHED_VALUE,
    CONTEXT,
    ROTARY_QUERY,
    full_name,
)

DUMP, TENSORS = "dump.json", "dump_tensor_data"
KINDS = {"tensor": "tensors", "statistics": "statistics"}  # our kind of capture by msprobe's task
OURS = "Step"  # the class in names of steps that are no module of transformers
HEADS = ("lm_head", "embed_out")  # of transformers 5, and of 4 and the checkpoint
EMBEDDING = "gpt_neox.embed_in"
AGAIN = "dump anew with task 'tensor' or 'statistics' and level 'L0' or 'mix'"
FIGURES = ("Max", "Min", "Mean", "Norm")  # NaN or infinite ones are what dumps are taken for
HEAD = {"task": TEXT, "level": TEXT, "data": Named(OBJECT)}
CALL = {"input_kwargs": Maybe(OBJECT), "parameters": Maybe(OBJECT)}
TENSOR = {
    "dtype": TEXT,
    "shape": [whole(0, 2**40)],
    "data_name": Maybe(TEXT),
    **dict.fromkeys(FIGURES, Maybe(FIGURE)),
}
MODULE = re.compile(r"Module\.(?:module\.)?(.+)\.(\w+)\.forward\.(\d+)")
BLOCK = re.compile(r"gpt_neox\.layers\.(\d+)(?:\.(.+))?")
ATTEND = re.compile(r"Functional\.scaled_dot_product_attention\.\d+\.forward")
IDS, MASK = "ids", "mask"  # what a pass holds beside steps


@dataclass(frozen=True)
class Entry:
    """A tensor of a dump: what dump.json says of it, and its file if it has one."""

    dtype: str
    shape: tuple[int, ...]
    figures: tuple[Any, ...]  # Max, Min, Mean, Norm
    file: Path | None
    bias: "Entry | None" = None  # of the module that gave it
    biased: bool = True  # False: there is none in it
    turned: bool = False  # [B, heads, tokens, head_dim] there

    def load(self) -> Tensor:
        """Read the tensor to the CPU. Raises SettingsError if there is none, or another."""
        path = self.file
        if path is None or not path.is_file():
            raise SettingsError(f"{path or 'a tensor file'} is missing; copy or take the dump anew")
        try:
            value = _loaded(path)
        except Exception as error:  # of zip, pickle, NumPy and the reading
            raise SettingsError(f"{path} cannot be read as a tensor: {error}") from error
        said = f"{self.dtype} {list(self.shape)}"
        if path.suffix == ".npy":  # NumPy has no bfloat16
            said = said.replace("bfloat16", "float32")
        if (found := _words(value)) != said:
            raise SettingsError(f"{path} holds {found}, {DUMP} says {said}; dump anew")
        return value.detach().transpose(1, 2).contiguous() if self.turned else value.detach()


def _words(value: Any) -> str:
    """Dtype and shape of a dense tensor; what else a file holds by its kind."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested or value.layout is not torch.strided:
        return "a tensor that is not dense"
    if value.is_meta:
        return "a tensor without numbers (on the device meta)"
    return f"{value.dtype} {list(value.shape)}"


def _loaded(path: Path) -> Any:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    return torch.load(path, map_location="cpu", weights_only=True)


Pass = dict[str, Entry]  # by our full name; with IDS and MASK


def is_dump(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like one of msprobe's: dump.json in it, or below steps and ranks."""
    folder = Path(folder)
    return any(any(folder.glob(f"{above}{DUMP}")) for above in ("", "*/", "step*/*/"))


def places_of(folder: Path) -> list[Path]:
    """The folders of dump.json, one a step, in the order of the steps."""
    steps = sorted(folder.glob("step*"), key=_number) or [folder]
    places = []
    for step in steps:
        ranks = sorted((path.parent for path in step.glob(f"*/{DUMP}")), key=_number)
        if (step / DUMP).is_file():
            ranks = [step]
        if not ranks:
            raise SettingsError(f"{step} has no {DUMP}; give a folder that PrecisionDebugger wrote")
        if len(ranks) > 1 and any(rank.name.startswith("proc") for rank in ranks):
            raise SettingsError(f"{step} is of several runs: {[r.name for r in ranks]}; keep one")
        places.append(ranks[0])
    return places


def _number(path: Path) -> int:
    digits = re.sub(r"\D", "", path.name)
    return int(digits) if digits else -1


def head_of(place: Path) -> dict[str, Any]:
    """Read dump.json. Raises SettingsError if it is damaged, or of a task or level without use."""
    path = place / DUMP
    try:
        head = parse(path.read_bytes())
        if wrong := problems(head, HEAD):
            raise ValueError("; ".join(wrong))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is damaged, or no {DUMP} of msprobe ({error})") from error
    task, level = head["task"], head["level"]
    if task not in KINDS or level not in ("L0", "mix"):
        raise SettingsError(f"{path} is of task {task!r}, level {level!r}: no modules; {AGAIN}")
    return head


def passes_of(place: Path, head: dict[str, Any], names: dict[str, str]) -> list[Pass]:
    """The forward passes of a step, in order: what is known of each.

    `names` has our name of each module's output, within a layer by the name within it. Raises
    SettingsError for entries of another form.
    """
    try:
        return _passes(place, head["data"], names)
    except ValueError as error:
        raise SettingsError(f"{place / DUMP} is damaged: {error}; copy or dump anew") from error


def _passes(place: Path, data: dict[str, Any], names: dict[str, str]) -> list[Pass]:
    found: dict[int, Pass] = {}
    layer = None
    for name, call in data.items():
        if wrong := problems(call, CALL, name):
            raise ValueError("; ".join(wrong))
        if match := MODULE.fullmatch(name):
            path, kind, number = match[1], match[2], int(match[3])
            block = BLOCK.match(path)
            layer = int(block[1]) if block else None
            steps = _module(place, path, kind, call, names)
        else:
            steps = _attended(place, layer, call) if ATTEND.fullmatch(name) else {}
            number = max(found, default=0)
        if steps:
            found.setdefault(number, {}).update(steps)
    return [found[number] for number in sorted(found)]


def _module(place: Path, path: str, kind: str, call: dict[str, Any], names: dict[str, str]) -> Pass:
    """What a call of one module says, by our names."""
    given, known = call.get("input_args"), call.get("input_kwargs") or {}
    if kind == OURS:
        found = {path: _entry(place, call.get("output"), biased=False)}
    elif path == "gpt_neox":
        found = {MASK: _entry(place, known.get("attention_mask"))}
    elif path in names and path.startswith(("gpt_neox.", *HEADS)):
        found = {names[path]: _entry(place, call.get("output"))}
        found |= {IDS: _entry(place, given or known.get("input"))} if path == EMBEDDING else {}
    elif (block := BLOCK.fullmatch(path)) and (block[2] or "") in names:
        ours = full_name(int(block[1]), names[block[2] or ""])
        known = call.get("parameters") or {}
        bias = _entry(place, known.get("bias"))
        found = {ours: _entry(place, call.get("output"), bias=bias, biased=bool(bias or not known))}
        if path.endswith("attention.dense"):
            found[full_name(int(block[1]), CONTEXT)] = _entry(place, given)
    else:
        found = {}
    return {name: entry for name, entry in found.items() if entry is not None}


def _attended(place: Path, layer: int | None, call: dict[str, Any]) -> Pass:
    """Queries, keys and values of a call of attention, which only level "mix" has."""
    given = call.get("input_args")
    if layer is None or not isinstance(given, list) or len(given) < 3:
        return {}
    names = (full_name(layer, name) for name in (ROTARY_QUERY, CACHED_KEY, CACHED_VALUE))
    found = {name: _entry(place, x, turned=True) for name, x in zip(names, given[:3], strict=True)}
    return {name: entry for name, entry in found.items() if entry is not None}


def _entry(place: Path, said: Any, **more: Any) -> Entry | None:
    """The first tensor of an argument, a tuple or a dict; None if there is none."""
    if isinstance(said, list):
        return next((e for each in said if (e := _entry(place, each, **more))), None)
    if not isinstance(said, dict) or not str(said.get("type", "")).startswith("torch."):
        return None
    if not {"dtype", "shape"} & set(said):  # a torch.dtype, for instance
        return None
    if wrong := problems(said, TENSOR):
        raise ValueError("; ".join(wrong))
    name = said.get("data_name")
    if name is not None and ("/" in name or not INSIDE.fits(name)):
        raise SettingsError(f"{place / DUMP} names a file outside its folder: {name!r}")
    figures = tuple(said.get(figure) for figure in FIGURES)
    file = None if name is None else place / TENSORS / name
    return Entry(said["dtype"], tuple(said["shape"]), figures, file, **more)
