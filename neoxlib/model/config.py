"""The config of a GPT-NeoX checkpoint, in any published spelling of config.json."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxlib.errors import ConfigError, SettingsError, unreadable_is
from neoxlib.files import read_whole
from neoxlib.forms import parse
from neoxlib.model import config_problems
from neoxlib.model.config_keys import ACTIVATIONS as ACTIVATIONS
from neoxlib.model.config_keys import DEFAULTS, READ, SIZES
from neoxlib.model.config_problems import eos_problems

MOST_BYTES = 1 << 24  # of a config.json; real ones have a thousand


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one GPT-NeoX, in the checkpoint's own words.

    `unused` lists the keys of config.json that inference does not need (dropout, initializer_range,
    ...). `eos_token_id` is one id, several, or None if the config has none: transformers' class
    default is 2, which ends the text of no published model. `tokenizer.end_ids` decides what ends a
    text.
    """

    vocab_size: int  # rows of embed_in and embed_out; often more than the tokenizer has ids
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str = "gelu"
    rotary_pct: float = 0.25
    rotary_emb_base: float = 10000.0
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False
    eos_token_id: int | tuple[int, ...] | None = None
    torch_dtype: str | None = None
    unused: tuple[str, ...] = ()

    @property
    def head_dim(self) -> int:
        """Width of one head: 6144 / 64 = 96 for GPT-NeoX-20B."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of a head that are rotated: int(96 * 0.25) = 24."""
        return int(self.head_dim * self.rotary_pct)

    @classmethod
    @unreadable_is(ConfigError)
    def from_dir(cls, path: str | os.PathLike[str]) -> "ModelConfig":
        """Read `path/config.json`, or rank 0's part of a folder that `shard` wrote.

        Raises ConfigError if it is missing, unreadable or not a GPT-NeoX that neoxlib runs.
        """
        file = _config_file(path)
        try:
            raw = parse(read_whole(file, MOST_BYTES))
        except ValueError as error:
            raise ConfigError(
                f"{file} is not valid JSON ({error}); copy it anew from the checkpoint"
            ) from error
        if not isinstance(raw, dict):
            raise ConfigError(f"{file} holds a {type(raw).__name__}, not an object of settings")
        return cls.from_dict(raw, where=str(file))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config") -> "ModelConfig":
        """Read a parsed config.json. Raises ConfigError that lists every problem."""
        if dtype := raw.get("dtype") or raw.get("torch_dtype"):
            raw = {**raw, "dtype": _dtype_name(dtype)}
        values = {
            **DEFAULTS,
            **{key: raw[key] for key in (*SIZES, *DEFAULTS) if raw.get(key) is not None},
        }
        values |= _rotary(raw)
        eos = raw.get("eos_token_id")
        problems = [
            *config_problems.foreign(raw),
            *config_problems.missing_or_wrong(values),
            *config_problems.misspelt(raw),
        ]
        problems += eos_problems(eos, values.get("vocab_size"))
        if not problems:
            problems = config_problems.inconsistent(values, raw)
        if problems:
            raise ConfigError(
                f"{where} is not a GPT-NeoX that neoxlib runs:\n  " + "\n  ".join(problems)
            )
        values["rotary_emb_base"] = float(values["rotary_emb_base"])  # a whole one may be huge
        dtype = raw.get("dtype") or raw.get("torch_dtype")
        unused = tuple(sorted(key for key in raw if key not in READ))
        ends = tuple(eos) if isinstance(eos, list) else eos
        return cls(**values, eos_token_id=ends, torch_dtype=dtype, unused=unused)


def _config_file(path: str | os.PathLike[str]) -> Path:
    """The config.json of a model folder. Raises ConfigError if there is none."""
    folder = Path(path)
    file = folder / "config.json"
    part = folder / "part_model" / "0" / "config.json"
    if not folder.is_dir():
        raise ConfigError(
            f"model folder {str(path)!r} does not exist; give the folder that holds config.json"
        )
    if part.is_file() and not file.exists():
        return part
    if not file.is_file():
        raise ConfigError(
            f"{file} is missing; a model folder holds config.json, tokenizer files and weights"
        )
    return file


def sequence_window(config: ModelConfig, max_seq_len: int | None, allow_long: bool = False) -> int:
    """Positions of the KV cache: the argument, else MAX_SEQ_LEN, else the config's maximum.

    Raises SettingsError for a window below 1, or past `max_position_embeddings` unless
    `allow_long`: the model saw no such position in training, and its text decays without warning.
    """
    if max_seq_len is not None:
        asked = max_seq_len
        said = "max_seq_len"
    else:
        asked = _from_environment()
        said = "MAX_SEQ_LEN"
    if asked is None:
        return config.max_position_embeddings
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise SettingsError(f"{said} is {asked!r}; it is a number of positions, 1 or more")
    if asked > config.max_position_embeddings and not allow_long:
        raise SettingsError(
            f"{said} is {asked}, the model was trained for {config.max_position_embeddings} "
            "positions (max_position_embeddings); lower it, or pass allow_long=True to "
            "neoxlib.load and expect the text to decay"
        )
    return asked


def _from_environment() -> int | str | None:
    text = os.environ.get("MAX_SEQ_LEN", "").strip()
    if not text:
        return None
    return int(text) if text.isdecimal() else text


def _dtype_name(dtype: Any) -> Any:
    """The usual name of a dtype: "torch.float16" and "half" are float16."""
    if not isinstance(dtype, str):
        return dtype
    name = dtype.removeprefix("torch.")
    return {"half": "float16", "float": "float32", "double": "float64"}.get(name, name)


def _rotary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings of both spellings; transformers 5's `rope_parameters` take precedence."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        return {}
    old = {"rotary_emb_base": raw.get("rotary_emb_base"), "rotary_pct": raw.get("rotary_pct")}
    new = {
        "rotary_emb_base": rope.get("rope_theta"),
        "rotary_pct": rope.get("partial_rotary_factor"),
    }
    found = {key: new[key] if new[key] is not None else old[key] for key in old}
    return {key: value for key, value in found.items() if value is not None}
