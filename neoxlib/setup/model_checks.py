"""The doctor's checks of a model folder: its config, weights and tokenizer."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from neoxlib.errors import ConfigError, NeoXError
from neoxlib.model.config import ModelConfig
from neoxlib.setup.machine_checks import CheckRow


def model_rows(model_dir: str | os.PathLike[str]) -> tuple[CheckRow, ...]:
    """Check a model folder: its config, its weights' names, shapes and sizes, and its tokenizer.

    No weights are read.
    """
    copy = (
        f"ls -l {shlex.quote(str(model_dir))}  # then copy what is named from the checkpoint anew"
    )
    return tuple(_look(*check, model_dir, copy) for check in CHECKS)


def _look(
    name: str,
    look: Callable[[str | os.PathLike[str]], str | CheckRow],
    needed: str,
    model_dir: str | os.PathLike[str],
    repair: str,
) -> CheckRow:
    """Run one check; an error is a FAIL row."""
    try:
        found = look(model_dir)
        return found if isinstance(found, CheckRow) else CheckRow(name, "OK", found, needed)
    except (NeoXError, OSError) as error:
        return CheckRow(name, "FAIL", str(error), needed, repair)
    except (ImportError, RuntimeError) as error:  # `import torch`, if a backend cannot be loaded
        see = "python -m neoxlib doctor  # see torch_npu and packages"
        return CheckRow(name, "FAIL", f"torch cannot be used: {error}", needed, see)


def _config(model_dir: str | os.PathLike[str]) -> str:
    config = ModelConfig.from_dir(model_dir)
    sizes = f"{config.num_hidden_layers} layers, hidden {config.hidden_size}"
    return f"{sizes}, {config.num_attention_heads} heads"


def _weights(model_dir: str | os.PathLike[str]) -> str:
    from neoxlib.checkpoint.folder import open_checkpoint  # imports torch, which may be broken
    from neoxlib.checkpoint.match import match
    from neoxlib.model.parameters import count_parameters

    checkpoint = open_checkpoint(model_dir)
    config = ModelConfig.from_dir(model_dir)
    tensors = [stored for _, stored in match(checkpoint, config).values()]
    dtypes = ", ".join(sorted({str(stored.dtype).removeprefix("torch.") for stored in tensors}))
    size = sum(stored.nbytes for stored in tensors) / 1e9
    packed = f" (packed as {checkpoint.quant})" if checkpoint.quant else ""
    what = f"{size:.3g} GB of {dtypes}{packed}"
    return f"{count_parameters(config):,} parameters, {what} in {len(checkpoint.files)} file(s)"


def _tokenizer(model_dir: str | os.PathLike[str]) -> str | CheckRow:
    from neoxlib.inference.tokenizer import SHOWN, end_ids, load_tokenizer, named, vocabulary

    places = (Path(model_dir), Path(model_dir) / "part_model" / "0")  # a checkpoint, or a cut
    found = ((place, load_tokenizer(place)) for place in places)
    folder, tokenizer = next((pair for pair in found if pair[1] is not None), (None, None))
    if tokenizer is None:
        raise ConfigError(
            f"{model_dir} has no tokenizer.json: only token ids can be given, no text"
        )
    config = ModelConfig.from_dir(model_dir)
    rowless = vocabulary(tokenizer, config.vocab_size).rowless
    ends = end_ids(folder, config, tokenizer)
    text = f"{len(tokenizer)} ids for {config.vocab_size} rows"
    text += f"; a text ends at {named(ends.ids, tokenizer)}" if len(ends.ids) > 1 else ""
    wrong = [] if ends.ids else ["no id ends a text"]
    if rowless:
        wrong.append(f"no row for {', '.join(rowless[:SHOWN])}")
    if ends.left_out:
        wrong.append(f"config.json's end, {named(ends.left_out, tokenizer)}, is ordinary text")
    return _warning("; ".join((text, *wrong)), model_dir) if wrong else text


def _warning(text: str, model_dir: str | os.PathLike[str]) -> CheckRow:
    needed = "a row for each id, and one word on what ends a text"
    repair = (
        f"ls -l {shlex.quote(str(model_dir))}  # compare config.json with the tokenizer's files"
    )
    return CheckRow("model tokenizer", "WARN", text, needed, repair)


CHECKS: tuple[tuple[str, Callable[[str | os.PathLike[str]], str | CheckRow], str], ...] = (
    ("model config", _config, "a GPT-NeoX that neoxlib runs"),
    ("model weights", _weights, "every tensor of the config, and no other"),
    ("model tokenizer", _tokenizer, "a tokenizer for embed_in's rows"),
)
