"""Load a checkpoint folder into this process: from files to an Engine."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from neoxlib.checkpoint import load as checkpoint_load
from neoxlib.checkpoint.folder import Checkpoint, check_part, fingerprint, open_checkpoint
from neoxlib.checkpoint.load import OnBytes
from neoxlib.checkpoint.match import match
from neoxlib.checkpoint.pack import choose_quant
from neoxlib.inference.engine import Engine
from neoxlib.inference.tokenizer import (
    Ends,
    Vocabulary,
    about_ends,
    end_ids,
    load_tokenizer,
    vocabulary,
)
from neoxlib.kernels.cpu import build
from neoxlib.kernels.graph import NpuGraph
from neoxlib.machine.devices import chip_for, pick_device, pick_dtype
from neoxlib.machine.runtime import fit_threads, start_npu
from neoxlib.model import on_cpu, on_npu
from neoxlib.model.config import ModelConfig, sequence_window
from neoxlib.model.decode_graph import choose_graph
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group, check_same, on_all
from neoxlib.model.parameters import count_parameters
from neoxlib.model.world_size import check_world_size

SMALL_FILES = (  # every rank reads them itself
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


def load(
    model_dir: str | os.PathLike[str],
    dtype: str = "float32",
    device: str = "cpu",
    quant: str | None = None,
    max_seq_len: int | None = None,
    compile: bool = True,
    graph: str = "auto",
    *,
    allow_long: bool = False,
    group: Group = SOLO,
    progress: bool | OnBytes = False,
) -> Engine:
    """Load a Hugging Face checkpoint folder, or a folder that `shard` wrote, into this process.

    `dtype` and `device` may be "auto". `quant` is "int8" or "int4": weights are quantized as they
    are read; None takes them as stored. `max_seq_len` sizes the KV cache: the argument, else
    MAX_SEQ_LEN, else the config. In a `group` of several ranks each reads only its shard. A CPU
    runs kernels compiled for it, if there is a C++ compiler, an NPU the chip's own operators;
    `compile=False` keeps to PyTorch's. `graph` captures decode on an NPU: "auto" where it can be,
    "on" or "off"; `describe` says which and why. `progress` shows the weights that are in place, or
    is called with their bytes: see `checkpoint.load.OnBytes`. Weights may still be copied in the
    background when this returns: `Engine.wait_until_resident` waits for it.
    Raises ConfigError, WeightsError, ShardError or SettingsError, each with what to do.
    """
    device = pick_device(device)
    source = _open_source(model_dir, quant)
    about = _settings(source, dtype, device, max_seq_len, allow_long)
    where = _start(device)
    captured, about["graph"] = choose_graph(graph, device, _family(device), compile)
    check_same(group, _facts(source.checkpoint, about), where)
    return _load_weights(source, model_dir, about, group, where, compile, captured, progress)


class Source(NamedTuple):
    """A checkpoint with its scheme, config and tokenizer, and the ids that follow from both."""

    checkpoint: Checkpoint
    quant: str | None
    config: ModelConfig
    tokenizer: PreTrainedTokenizerBase | None
    vocabulary: Vocabulary
    ends: Ends


def _open_source(model_dir: str | os.PathLike[str], quant: str | None) -> Source:
    """Read all of a folder but its weights; `quant` is the scheme that was asked for."""
    checkpoint = open_checkpoint(model_dir)
    quant = choose_quant(checkpoint, quant)
    config = ModelConfig.from_dir(checkpoint.folder)
    tokenizer = load_tokenizer(checkpoint.folder)
    known = vocabulary(tokenizer, config.vocab_size)
    ends = end_ids(checkpoint.folder, config, tokenizer)
    return Source(checkpoint, quant, config, tokenizer, known, ends)


def _settings(
    source: Source, dtype: str, device: str, max_seq_len: int | None, allow_long: bool
) -> dict[str, Any]:
    """The checkpoint's fingerprint, and the settings with "auto" and None resolved."""
    dtype = pick_dtype(dtype, device, source.config.torch_dtype)
    window = sequence_window(source.config, max_seq_len, allow_long)
    return {
        "fingerprint": fingerprint(source.checkpoint),
        "dtype": dtype,
        "quant": source.quant,
        "max_seq_len": window,
    }


def _start(device: str) -> torch.device:
    """Start the device; for NPUs it is the one that this process has set as its own."""
    fit_threads()
    if device == "npu":
        start_npu()
    return torch.device(device)


def _facts(checkpoint: Checkpoint, about: dict[str, Any]) -> dict[str, str]:
    """Everything that each rank reads or is told itself and that must be the same on every rank."""
    facts = {name: str(fact) for name, fact in about.items()}
    if checkpoint.part[1] > 1:  # each rank reads its own shard
        del facts["fingerprint"]
    return facts | dict.fromkeys(SMALL_FILES, "missing") | small_files(checkpoint.folder)


def small_files(folder: Path) -> dict[str, str]:
    """sha256 of each of SMALL_FILES that is there: what answers depend on beside the weights."""
    files = (folder / name for name in SMALL_FILES)
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def _family(device: str) -> str:
    """The chip family of an NPU; empty on a CPU."""
    return chip_for(device).family if device == "npu" else ""


def _refuse_misfits(source: Source, group: Group) -> None:
    """Raise the errors of loading before memory is allocated for whatever the config says."""
    check_world_size(source.config, group.size, source.quant)
    check_part(source.checkpoint, group.rank, group.size)
    match(source.checkpoint, source.config)


def _load_weights(
    source: Source,
    model_dir: str | os.PathLike[str],
    about: dict[str, Any],
    group: Group,
    device: torch.device,
    compile: bool,
    captured: bool,
    progress: bool | OnBytes,
) -> Engine:
    """Read this rank's weights and attach what runs them; `about` describes the model."""
    _refuse_misfits(source, group)
    model = _empty_model(source.config, group, source.quant, about["dtype"], device)
    compiled = on_all(group, _can_compile(compile, device), device)
    # PyTorch's products may sum in another order if memory begins at another address: without the
    # compiled kernels no tensor is memory-mapped.
    residency = checkpoint_load.load_into(
        model.eval(), source.checkpoint, progress, mmap=compiled, allow_16bit=compiled
    )
    about = about | {"model_dir": str(model_dir)}
    about |= _place(model, device, compile, compiled, captured)
    about |= about_ends(source.tokenizer, source.ends, source.vocabulary)
    engine = Engine(model, source.tokenizer, about["max_seq_len"], about, residency)
    residency.start()
    return engine


def _empty_model(
    config: ModelConfig, group: Group, quant: str | None, dtype: str, device: torch.device
) -> GPTNeoX:
    """This rank's model on `device`, its weights not read yet."""
    with torch.device("meta"):
        model = GPTNeoX(config, group, quant=quant).to(getattr(torch, dtype))
    return on_cpu.in_one_block(model) if device.type == "cpu" else model.to_empty(device=device)


def _can_compile(wanted: bool, device: torch.device) -> bool:
    return wanted and device.type == "cpu" and build.compiled("forward") is not None


def _place(
    model: GPTNeoX, device: torch.device, wanted: bool, compiled: bool, captured: bool
) -> dict[str, Any]:
    """Attach the device's operators and describe where and how the model runs."""
    kernels = ["pack", "forward"] if wanted and device.type == "cpu" else ["pack"]
    return {
        "parameters": count_parameters(model.config),
        "device": str(device),
        "world_size": model.group.size,
        "backend": model.group.backend,
        "threads": torch.get_num_threads(),
        "compile": _attach_operators(model, device, wanted, compiled, captured),
        "compile_s": round(build.seconds(*kernels), 2),
    }


def _attach_operators(
    model: GPTNeoX, device: torch.device, wanted: bool, compiled: bool, captured: bool
) -> str:
    """Attach the device's operators; say which the model runs on, and if plain ones, why."""
    if not wanted:
        return "plain: compile is False"
    if device.type != "cpu":
        chip = chip_for(device.type)
        on_npu.attach(model, chip.family, NpuGraph if captured else None)
        return f"operators for {chip.name}"
    if not compiled:
        return (
            f"plain: {build.compile_error('forward') or 'another rank cannot compile the kernels'}"
        )
    on_cpu.attach(model)
    return "compiled kernels"
