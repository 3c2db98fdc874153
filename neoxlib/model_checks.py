"""Rows of the doctor for a model folder: its config, its weights by name, shape and size, its tokenizer."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from neoxlib.checks import Row
from neoxlib.config import ModelConfig
from neoxlib.errors import ConfigError, NeoXError


def model_rows(model_dir: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Verdicts on a model folder: its config, the names, shapes and sizes of its weights (no data is read), its ids."""
    copy = f"ls -l {shlex.quote(str(model_dir))}  # then copy what is named from the checkpoint anew"
    return (
        _look("model config", lambda: _config(model_dir), "a GPT-NeoX that neoxlib runs", copy),
        _look("model weights", lambda: _weights(model_dir), "every tensor of the config, and no other", copy),
        _look("model tokenizer", lambda: _tokenizer(model_dir), "tokenizer.json, with ids for rows of embed_in", copy),
    )


def _look(name: str, look: Callable[[], str], needed: str, repair: str) -> Row:
    try:
        return Row(name, "OK", look(), needed)
    except NeoXError as error:
        return Row(name, "FAIL", str(error), needed, repair)
    except (ImportError, RuntimeError) as error:  # what `import torch` raises where its backend cannot be loaded
        see = "python -m neoxlib doctor  # see torch_npu and packages"
        return Row(name, "FAIL", f"torch cannot be used: {error}", needed, see)


def _config(model_dir: str | os.PathLike[str]) -> str:
    config = ModelConfig.from_dir(model_dir)
    return f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, {config.num_attention_heads} heads"


def _weights(model_dir: str | os.PathLike[str]) -> str:
    from neoxlib.checkpoint import open_checkpoint  # needs torch, which may be what is broken
    from neoxlib.model import count_parameters
    from neoxlib.names import match

    checkpoint, config = open_checkpoint(model_dir), ModelConfig.from_dir(model_dir)
    tensors = [stored for _, stored in match(checkpoint, config).values()]
    dtypes = ", ".join(sorted({str(stored.dtype).removeprefix("torch.") for stored in tensors}))
    size = sum(stored.nbytes for stored in tensors) / 1e9
    what = f"{size:.3g} GB of {dtypes}" + (f" (packed as {checkpoint.quant})" if checkpoint.quant else "")
    return f"{count_parameters(config):,} parameters, {what} in {len(checkpoint.files)} file(s)"


def _tokenizer(model_dir: str | os.PathLike[str]) -> str:
    from tokenizers import Tokenizer

    places = (Path(model_dir), Path(model_dir) / "part_model" / "0")  # a checkpoint, or a cut
    path = next((place / "tokenizer.json" for place in places if (place / "tokenizer.json").is_file()), None)
    if path is None:
        raise ConfigError(f"{model_dir} has no tokenizer.json: only token ids can be given, no text")
    try:
        ids = Tokenizer.from_file(str(path)).get_vocab_size()
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise ConfigError(f"{path} cannot be read ({error})") from error
    rows = ModelConfig.from_dir(model_dir).vocab_size
    if ids > rows:
        raise ConfigError(f"{path} has {ids} ids, the model {rows} rows: it belongs to another model")
    return f"{ids} ids for {rows} rows"
