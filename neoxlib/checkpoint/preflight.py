"""What config.json, the weights' headers and this machine decide, before a kernel or rank starts.

A folder in which nothing looks odd is judged by small reads alone. Only for one that does is torch
imported and asked for the error that `neoxlib.load` would raise: this process stays light.
"""

import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from neoxlib.checkpoint.manifest import read_manifest
from neoxlib.errors import NeoXError
from neoxlib.machine.devices import pick_device, pick_dtype
from neoxlib.model.config import ModelConfig, sequence_window

Shape = tuple[int, ...]
# Columns that a scheme of quant.py packs together, which no cut may part.
GROUPS = {None: 1, "int8": 1, "int4": 32}
LONGEST_HEADER = 100 << 20
FLOATS = ("F16", "BF16", "F32", "F64")
HEADS = {"lm_head.weight": "embed_out.weight"}
# Tables that old checkpoints have, too.
TABLES = re.compile(r"\.attention\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")


def preflight(
    model_dir: str | os.PathLike[str],
    world_size: int,
    dtype: str = "auto",
    device: str = "auto",
    quant: str | None = None,
    max_seq_len: int | None = None,
    elsewhere: bool = False,
) -> None:
    """Raise what `neoxlib.load` on that many ranks would raise, if no weight has to be read for it.

    `elsewhere` says that the ranks may be on other machines, with other devices and folders.
    """
    for error in doubts(model_dir, world_size, dtype, device, quant, max_seq_len, elsewhere):
        raise error


def doubts(
    model_dir: str | os.PathLike[str],
    world_size: int,
    dtype: str,
    device: str,
    quant: str | None,
    max_seq_len: int | None,
    elsewhere: bool,
) -> Iterator[NeoXError]:
    """All that speaks against it; the first is what `load` would raise."""
    here = config = None
    if not elsewhere:
        here = yield from _try(pick_device, device)
    if not elsewhere or Path(model_dir).is_dir():
        config = yield from _try(_model, Path(model_dir), world_size, quant or None)
    if here:
        yield from _try(pick_dtype, dtype, here, config and config.torch_dtype)
    if config:
        yield from _try(sequence_window, config, max_seq_len)


def _try(function: Callable[..., Any], *args: Any) -> Generator[NeoXError, None, Any]:
    """What a function returns; where it raises, None, after its error."""
    try:
        return function(*args)
    except NeoXError as error:
        yield error


def plannable(
    model_dir: str | os.PathLike[str],
    world_size: int,
    quant: str | None = None,
    max_seq_len: int | None = None,
) -> None:
    """The same of what a plan needs, which is config.json alone."""
    config = ModelConfig.from_dir(model_dir)
    sequence_window(config, max_seq_len)
    if not _cuts_whole(config, world_size, quant or None):
        from neoxlib.model.world_size import check_world_size

        check_world_size(config, world_size, quant or None)


def _model(folder: Path, world_size: int, quant: str | None) -> ModelConfig:
    try:
        config = ModelConfig.from_dir(folder)
        stored = _stored(folder, config)
    except (NeoXError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return _look(folder, world_size, quant)
    fits = not stored or quant in (None, stored)
    if fits and _cuts_whole(config, world_size, quant or stored):
        return config
    return _look(folder, world_size, quant)


def _look(folder: Path, world_size: int, quant: str | None) -> ModelConfig:
    """Look with all that `load` knows: its error, or the config where nothing is wrong."""
    from neoxlib.checkpoint.folder import open_checkpoint
    from neoxlib.checkpoint.match import match
    from neoxlib.checkpoint.pack import choose_quant
    from neoxlib.model.world_size import check_world_size

    checkpoint = open_checkpoint(folder)
    quant = choose_quant(checkpoint, quant)
    config = ModelConfig.from_dir(checkpoint.folder)
    check_world_size(config, world_size, quant)
    match(checkpoint, config)
    return config


def _cuts_whole(config: ModelConfig, world_size: int, quant: str | None) -> bool:
    """Whether every rank gets whole heads and whole groups of packed columns."""
    if quant not in GROUPS or config.num_attention_heads % world_size:
        return False
    if world_size > config.vocab_size:
        return False
    group = GROUPS[quant]
    widths = (config.hidden_size, config.intermediate_size)
    return group == 1 or not any(width % (group * world_size) for width in widths)


def _stored(folder: Path, config: ModelConfig) -> str | None:
    """How the weights are packed; one of many errors where the folder is not as most are."""
    if (folder / "manifest.json").exists():
        return _stored_cut(folder)
    unfinished = (folder / "shard.progress.jsonl").exists()
    names = {"model.safetensors"}
    if not (folder / "model.safetensors").is_file():
        names = set(_read(folder / "model.safetensors.index.json")["weight_map"].values())
    found = {name: shape for file in names for name, shape in _header(folder / file)}
    if unfinished or config.tie_word_embeddings or found != _shapes(config):
        raise LookupError("not every tensor of the config, and no other")
    return None


def _stored_cut(folder: Path) -> str | None:
    manifest = read_manifest(folder)
    sizes = {file: (folder / file).stat().st_size for file in manifest["files"]}
    if sizes != {file: entry["bytes"] for file, entry in manifest["files"].items()}:
        raise LookupError("not a finished cut of ours")
    for file in manifest["files"]:
        (folder / file).open("rb").close()
    return manifest["quant"]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _header(path: Path) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every weight of a safetensors file that is whole, and not packed or cut."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, LONGEST_HEADER)))
    marks = header.pop("__metadata__", None) or {}
    if any(key.startswith("neoxlib") and mark != "0/1" for key, mark in marks.items()):
        raise LookupError("packed, or a part of a cut")
    if path.stat().st_size != 8 + length + max(
        tensor["data_offsets"][1] for tensor in header.values()
    ):
        raise LookupError("cut short")
    for name, tensor in header.items():
        if not TABLES.search(name):
            yield (
                HEADS.get(name, name),
                (tuple(tensor["shape"]) if tensor["dtype"] in FLOATS else ()),
            )


def _shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of a checkpoint as most are published; `model.full_parameters` has the truth."""
    hidden = config.hidden_size
    inner = config.intermediate_size
    vocabulary = config.vocab_size
    block = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
    }
    layers = {
        f"layers.{n}.{name}": shape
        for n in range(config.num_hidden_layers)
        for name, shape in block.items()
    }
    layers["final_layer_norm"] = (hidden,)
    weights = {f"gpt_neox.{name}.weight": shape for name, shape in layers.items()}
    biases = {
        f"gpt_neox.{name}.bias": shape[:1]
        for name, shape in layers.items()
        if config.attention_bias or ".attention." not in name
    }
    ends = {
        "gpt_neox.embed_in.weight": (vocabulary, hidden),
        "embed_out.weight": (vocabulary, hidden),
    }
    return weights | biases | ends
