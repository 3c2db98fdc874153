"""A capture of transformers' own model, to hold another capture against.

Its modules have the checkpoint's names. The whole model is in memory, on one process. Not taken are
steps that are no module of its own there: rotation, cache, sums over ranks.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neoxlib.align.capture import FORMAT, Writer, finish
from neoxlib.align.reader import Capture, read_capture
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import read_manifest
from neoxlib.checkpoint.pack import choose_quant
from neoxlib.errors import SettingsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.steps import CONTEXT, LOGITS, QUERY_KEY_VALUE, all_steps, full_name

LAYER = {  # our name within a layer: transformers' module
    "input_layernorm": "input_layernorm",
    QUERY_KEY_VALUE: "attention.query_key_value",
    "attention.dense": "attention.dense",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.dense_h_to_4h": "mlp.dense_h_to_4h",
    "mlp.activation": "mlp.act",
    "mlp.dense_4h_to_h": "mlp.dense_4h_to_h",
    "": "",
}
WHOLE = {
    "gpt_neox.embed_in": "gpt_neox.embed_in",
    "gpt_neox.final_layer_norm": "gpt_neox.final_layer_norm",
    LOGITS: "embed_out",
}
ROW_BIASES = ("attention.dense", "mlp.dense_4h_to_h")  # there part of the product


@torch.inference_mode()
def capture_transformers(
    model_dir: str | os.PathLike[str], folder: str | os.PathLike[str], like: Capture
) -> Capture:
    """Run transformers' model over the tokens and passes of `like`, in its dtype, on this CPU.

    Raises SettingsError for a folder that is there already, and for a model folder that
    transformers cannot read: a cut, or packed weights.
    """
    folder = Path(folder)
    if folder.exists():
        raise SettingsError(f"{folder} is there already; name a new folder")
    model = _load(Path(model_dir), getattr(torch, like.manifest["dtype"]))
    config = ModelConfig.from_dir(Path(model_dir))
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)  # what a kill left
    writer = Writer(aside, 0, frozenset(all_steps(config)), "tensors")
    try:
        _run(model, like, writer)
        if writer.failure is not None:
            raise SettingsError(f"{folder} could not be written: {writer.failure}")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    about = {"model_dir": str(model_dir), "world_size": 1, "quant": None, "device": "cpu"}
    manifest = like.manifest | about | {"compile": "transformers", "format": FORMAT}
    finish(aside, folder, manifest)
    return read_capture(folder)


def _load(model_dir: Path, dtype: torch.dtype) -> nn.Module:
    from transformers import GPTNeoXForCausalLM
    from transformers.utils import logging

    stored = open_checkpoint(model_dir)
    packed = choose_quant(stored, None)
    if packed or read_manifest(model_dir) is not None:
        what = f"{packed} weights" if packed else "a cut's"
        raise SettingsError(
            f"{model_dir} holds {what}, which transformers cannot read; run the checkpoint that "
            "was cut, or give another reference"
        )
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return GPTNeoXForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    finally:
        logging.enable_progress_bar() if bars else None


def _run(model: nn.Module, like: Capture, writer: Writer) -> None:
    """All passes, with a hook on every module that is a step."""
    now = {"pass": 0}
    handles = []
    for name, module in _modules(model).items():
        hook = _hook(writer, now, name)
        handles.append(module.register_forward_hook(hook))
    for layer, block in enumerate(model.gpt_neox.layers):
        hook = _before(writer, now, full_name(layer, CONTEXT))
        handles.append(block.attention.dense.register_forward_pre_hook(hook))
    past = None
    for number, (first, end) in enumerate(like.passes):
        now["pass"] = number
        given = {"attention_mask": like.mask[:, :end].long(), "past_key_values": past}
        positions = (like.mask.long().cumsum(-1) - 1).clamp(min=0)[:, first:end]
        given |= {"position_ids": positions, "use_cache": True}
        past = model(like.ids[:, first:end], **given).past_key_values
    for handle in handles:
        handle.remove()
    writer.flush()


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    head = model.get_output_embeddings()
    found = {ours: head if ours == LOGITS else model.get_submodule(m) for ours, m in WHOLE.items()}
    for number, block in enumerate(model.gpt_neox.layers):
        found |= {full_name(number, ours): block.get_submodule(m) for ours, m in LAYER.items()}
    return found


def _hook(writer: Writer, now: dict[str, int], name: str) -> Callable[..., None]:
    def seen(module: nn.Module, _: Any, y: Any) -> None:
        value: Tensor = y[0] if isinstance(y, tuple) else y
        bias = getattr(module, "bias", None)
        if name.endswith(ROW_BIASES) and bias is not None:
            value = value - bias
        writer(now["pass"], name, value)

    return seen


def _before(writer: Writer, now: dict[str, int], name: str) -> Callable[..., None]:
    return lambda _, given: writer(now["pass"], name, given[0])
