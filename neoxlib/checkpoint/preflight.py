"""Check config.json, the weights' headers and this machine before a kernel or a rank starts.

A folder in which nothing looks odd needs small reads only. For any other, torch is imported to get
the error that `neoxlib.load` would raise. Most processes so never import it.
"""

import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from neoxlib.checkpoint.manifest import JOURNAL, MANIFEST, MOST_BYTES, read_manifest
from neoxlib.checkpoint.names import EMBED, FLOATS, HEAD, HEADS, MAX_HEADER, SKIPPED
from neoxlib.errors import NeoXError
from neoxlib.files import read_whole
from neoxlib.forms import parse
from neoxlib.machine.devices import chip_for, pick_device, pick_dtype
from neoxlib.machine.launch_env import launch_env
from neoxlib.model.config import ModelConfig, sequence_window

Shape = tuple[int, ...]
# Columns that a scheme of model/quant.py quantizes together, which no cut may divide.
GROUPS = {None: 1, "int8": 1, "int4": 32}


def preflight(
    model_dir: str | os.PathLike[str],
    world_size: int,
    dtype: str = "auto",
    device: str = "auto",
    quant: str | None = None,
    max_seq_len: int | None = None,
    elsewhere: bool = False,
) -> None:
    """Raise the error that a load on `world_size` ranks would raise before it reads weights.

    `elsewhere`: the ranks may be on other machines, with other devices and folders.
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
    """Yield every error of such a load; the first is the one that `load` would raise."""
    here = config = None
    if not elsewhere:
        here = yield from _try(pick_device, device)
    if not elsewhere or Path(model_dir).is_dir():
        config = yield from _try(_model, Path(model_dir), world_size, quant or None, elsewhere)
    if here:
        yield from _try(pick_dtype, dtype, here, config and config.torch_dtype)
    if here == "npu":
        yield from _try(partial(launch_env, exported=os.environ), chip_for(here), world_size)
    if config:
        yield from _try(sequence_window, config, max_seq_len)


def _try(function: Callable[..., Any], *args: Any) -> Generator[NeoXError, None, Any]:
    """Return what `function` returns; if it raises, yield the error and return None."""
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
    """Raise the errors of a plan, which needs config.json only."""
    config = ModelConfig.from_dir(model_dir)
    sequence_window(config, max_seq_len)
    if not _cuts_whole(config, world_size, quant or None):
        from neoxlib.model.world_size import check_world_size

        check_world_size(config, world_size, quant or None)


def _model(folder: Path, world_size: int, quant: str | None, elsewhere: bool) -> ModelConfig:
    """The config of a model folder whose weights fit it. Raises the error of `load` otherwise."""
    known = os.path.isfile(folder / "config.json")  # False without access
    config = ModelConfig.from_dir(folder) if known else None  # its errors need no torch
    try:
        config = config or ModelConfig.from_dir(folder)
        stored = _stored(folder, config)
    except (NeoXError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return _look(folder, world_size, quant, elsewhere)
    fits = not stored or quant in (None, stored)
    if fits and _cuts_whole(config, world_size, quant or stored):
        return config
    return _look(folder, world_size, quant, elsewhere)


def _look(folder: Path, world_size: int, quant: str | None, elsewhere: bool) -> ModelConfig:
    """Check as `load` does, with torch. Returns the config, or raises the error of `load`."""
    from neoxlib.checkpoint.folder import check_part, open_checkpoint
    from neoxlib.checkpoint.match import match
    from neoxlib.checkpoint.pack import choose_quant
    from neoxlib.model.world_size import check_world_size

    checkpoint = open_checkpoint(folder)
    quant = choose_quant(checkpoint, quant)
    config = ModelConfig.from_dir(checkpoint.folder)
    check_world_size(config, world_size, quant)
    # On other machines each rank may find its own part under this name.
    for rank in checkpoint.part[:1] if elsewhere else range(world_size):
        check_part(checkpoint, rank, world_size)
    match(checkpoint, config)
    return config


def _cuts_whole(config: ModelConfig, world_size: int, quant: str | None) -> bool:
    """Whether every rank gets whole heads and whole groups of quantized columns."""
    if quant not in GROUPS or config.num_attention_heads % world_size:
        return False
    if world_size > config.vocab_size:
        return False
    group = GROUPS[quant]
    widths = (config.hidden_size, config.intermediate_size)
    return group == 1 or not any(width % (group * world_size) for width in widths)


def _stored(folder: Path, config: ModelConfig) -> str | None:
    """The scheme of the weights. Raises one of many errors for an unusual folder."""
    if (folder / MANIFEST).exists():
        return _stored_cut(folder)
    is_unfinished = (folder / JOURNAL).exists()
    names = {"model.safetensors"}
    if not (folder / "model.safetensors").is_file():
        names = set(_read(folder / "model.safetensors.index.json")["weight_map"].values())
    found = {name: shape for file in names for name, shape in _header(folder / file)}
    if is_unfinished or config.tie_word_embeddings or found != _shapes(config):
        raise LookupError("not every tensor of the config, and no other")
    return None


def _stored_cut(folder: Path) -> str | None:
    """The scheme of a finished cut whose files have the sizes of its manifest and can be opened."""
    manifest = read_manifest(folder)
    sizes = {file: (folder / file).stat().st_size for file in manifest["files"]}
    if sizes != {file: entry["bytes"] for file, entry in manifest["files"].items()}:
        raise LookupError("not a finished cut of ours")
    for file in manifest["files"]:
        (folder / file).open("rb").close()
    return manifest["quant"]


def _read(path: Path) -> dict[str, Any]:
    return parse(read_whole(path, MOST_BYTES))


def _header(path: Path) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of every weight of a complete safetensors file.

    Raises LookupError if it is quantized, part of a cut, or truncated.
    """
    if not path.is_file():
        raise LookupError("missing, or a FIFO that would be waited for")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse(file.read(min(length, MAX_HEADER)))
    marks = header.pop("__metadata__", None) or {}
    if any(key.startswith("neoxlib") and mark != "0/1" for key, mark in marks.items()):
        raise LookupError("packed, or a part of a cut")
    end = max(tensor["data_offsets"][1] for tensor in header.values())
    if path.stat().st_size != 8 + length + end:
        raise LookupError("cut short")
    for name, tensor in header.items():
        if not SKIPPED.search(name):
            shape = tuple(tensor["shape"]) if tensor["dtype"] in FLOATS else ()
            yield HEAD if name in HEADS else name, shape


def _shapes(config: ModelConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a checkpoint as most are published.

    `full_parameters` in model/parameters.py, which needs torch, is the authority.
    """
    layers = {
        f"layers.{n}.{name}": shape
        for n in range(config.num_hidden_layers)
        for name, shape in _layer_shapes(config.hidden_size, config.intermediate_size).items()
    }
    layers["final_layer_norm"] = (config.hidden_size,)
    weights = {f"gpt_neox.{name}.weight": shape for name, shape in layers.items()}
    biases = {
        f"gpt_neox.{name}.bias": shape[:1]
        for name, shape in layers.items()
        if config.attention_bias or ".attention." not in name
    }
    table = (config.vocab_size, config.hidden_size)
    return weights | biases | {EMBED: table, HEAD: table}


def _layer_shapes(hidden: int, inner: int) -> dict[str, Shape]:
    """Shape of each weight of one layer."""
    return {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
    }
