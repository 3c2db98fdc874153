"""What a GPT-NeoX checkpoint says of itself: all published spellings of config.json are read, the rest is refused."""

import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxlib.errors import ConfigError, SettingsError, unreadable_is

# All of transformers/activations.py that are one of three functions, under different names.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "tanh",
    "gelu_new": "tanh",
    "gelu_accurate": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
    "relu": "relu",
}

# Class defaults of transformers' GPTNeoXConfig, for keys that a config.json may leave out.
DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
}
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
ROPE_KEYS = ("rope_parameters", "rope_scaling")
OTHER_READ = (
    "eos_token_id",
    "torch_dtype",
    "dtype",
    "model_type",
    "quantization_config",
    "head_dim",
)
READ = (*SIZES, *DEFAULTS, *ROPE_KEYS, *OTHER_READ)
# Names of transformers' own that look like one of ours, and are no misspelling of it.
OWN_NAMES = (
    "bos_token_id",
    "cls_token_id",
    "mask_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "decoder_start_token_id",
)


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one GPT-NeoX, in the checkpoint's own words.

    `unused` lists the keys of config.json that inference does not need (dropout, initializer_range,
    ...). `eos_token_id` is what the config says, one id or several, and None where it says nothing:
    transformers' class default is 2, which is no end of text of any published model. What ends a
    text is for `tokenizer.end_ids` to say.
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
        """Leading dimensions of a head that the rotation divides its angles by: int(96 * 0.25) = 24."""
        return int(self.head_dim * self.rotary_pct)

    @classmethod
    @unreadable_is(ConfigError)
    def from_dir(cls, path: str | os.PathLike[str]) -> "ModelConfig":
        """Read `path/config.json`, or that of rank 0's part where `path` is a folder that `shard` wrote.

        Raises ConfigError when it is missing, unreadable or not a GPT-NeoX we run.
        """
        part = Path(path) / "part_model" / "0" / "config.json"
        file = (
            part
            if part.is_file() and not (Path(path) / "config.json").exists()
            else Path(path) / "config.json"
        )
        if not Path(path).is_dir():
            raise ConfigError(
                f"model folder {str(path)!r} does not exist; give the folder that holds config.json"
            )
        if not file.is_file():
            raise ConfigError(
                f"{file} is missing; a model folder holds config.json, tokenizer files and weights"
            )
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(
                f"{file} is not valid JSON ({error}); copy it anew from the checkpoint"
            ) from error
        if not isinstance(raw, dict):
            raise ConfigError(f"{file} holds a {type(raw).__name__}, not an object of settings")
        return cls.from_dict(raw, where=str(file))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config") -> "ModelConfig":
        """Read a parsed config.json. Raises ConfigError with every problem found, not the first only."""
        if dtype := raw.get("dtype") or raw.get("torch_dtype"):
            raw = {**raw, "dtype": _dtype_name(dtype)}
        values = {
            **DEFAULTS,
            **{key: raw[key] for key in (*SIZES, *DEFAULTS) if raw.get(key) is not None},
        }
        values |= _rotary(raw)
        eos = raw.get("eos_token_id")
        problems = [*_foreign(raw), *_missing_or_wrong(values), *_misspelt(raw)]
        problems += wrong_ends(eos, values.get("vocab_size"))
        if not problems:
            problems = _inconsistent(values, raw)
        if problems:
            raise ConfigError(
                f"{where} is not a GPT-NeoX that neoxlib runs:\n  " + "\n  ".join(problems)
            )
        dtype = raw.get("dtype") or raw.get("torch_dtype")
        unused = tuple(sorted(key for key in raw if key not in READ))
        ends = tuple(eos) if isinstance(eos, list) else eos
        return cls(**values, eos_token_id=ends, torch_dtype=dtype, unused=unused)


def sequence_window(config: ModelConfig, max_seq_len: int | None, allow_long: bool = False) -> int:
    """Positions the KV cache is sized for: the argument, else the variable MAX_SEQ_LEN, else the config's maximum.

    Raises SettingsError for a window below 1, or past `max_position_embeddings` unless `allow_long`: the model has
    seen no such position in training and its text decays without a word of warning.
    """
    asked, said = (
        (max_seq_len, "max_seq_len")
        if max_seq_len is not None
        else (_from_environment(), "MAX_SEQ_LEN")
    )
    if asked is None:
        return config.max_position_embeddings
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise SettingsError(f"{said} is {asked!r}; it is a number of positions, 1 or more")
    if asked > config.max_position_embeddings and not allow_long:
        raise SettingsError(
            f"{said} is {asked}, the model was trained for {config.max_position_embeddings} positions "
            f"(max_position_embeddings); lower it, or pass allow_long=True and expect the text to decay"
        )
    return asked


def _from_environment() -> int | str | None:
    text = os.environ.get("MAX_SEQ_LEN", "").strip()
    if not text:
        return None
    return int(text) if text.isdecimal() else text


def _rotary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Both generations: `rotary_pct`, `rotary_emb_base`, and `rope_parameters` of transformers 5, which wins."""
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


def _foreign(raw: Mapping[str, Any]) -> list[str]:
    """What names another architecture, a rope scaling or a quantized checkpoint."""
    problems = []
    if (kind := raw.get("model_type", "gpt_neox")) != "gpt_neox":
        problems.append(f"model_type is {kind!r}; neoxlib runs 'gpt_neox' only")
    for key in ROPE_KEYS:
        if (kind := _rope_kind(raw.get(key) or {})) != "default":
            problems.append(
                f"{key} asks for rope scaling {kind!r}; only 'default' (none) is supported"
            )
    if how := _quantization(raw.get("quantization_config")):
        problems.append(f"quantization_config asks for {how}; give the unquantized checkpoint")
    if not isinstance(raw.get("dtype"), str | None):
        problems.append(f"dtype is {raw['dtype']!r}; it is the name of a dtype")
    others = {
        key: value for key, value in raw.items() if key not in (*SIZES, *DEFAULTS)
    }  # those have their own lines
    return problems + [
        f"{key} is {value}; every number is finite" for key, value in _not_finite("", others)
    ]


def _dtype_name(dtype: Any) -> Any:
    """One name for each dtype: "torch.float16" and "half" are float16."""
    if not isinstance(dtype, str):
        return dtype
    name = dtype.removeprefix("torch.")
    return {"half": "float16", "float": "float32", "double": "float64"}.get(name, name)


def _rope_kind(rope: Any) -> Any:
    """The name of a rope scaling; "default" for none, and for one that divides positions by 1."""
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        return rope
    kind = next(
        (rope[key] for key in ("rope_type", "type") if rope.get(key) is not None), "default"
    )
    return "default" if kind == "linear" and rope.get("factor") == 1 else kind


def _quantization(asked: Any) -> str:
    """What a quantization_config asks for; empty for nothing, as bitsandbytes leaves it."""
    if not asked or (isinstance(asked, Mapping) and not any(asked.values())):
        return ""
    if not isinstance(asked, Mapping):
        return repr(asked)
    method = asked.get("quant_method")
    switches = {
        key: asked[key] for key in asked if key.lstrip("_") in ("load_in_8bit", "load_in_4bit")
    }
    if switches and not any(switches.values()) and method in (None, "bitsandbytes"):
        return ""
    bits = asked.get("bits") or next((key for key, value in switches.items() if value), None)
    return f"weights quantized by {method or 'a method without a name'}" + (
        f" ({bits})" if bits else ""
    )


def _not_finite(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of all numbers that are none: JSON has no NaN, but Python reads it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _not_finite(name, inner)
    elif isinstance(value, float) and not abs(value) <= sys.float_info.max:
        yield name, value


def _missing_or_wrong(values: Mapping[str, Any]) -> list[str]:
    problems = [f"{key} is missing" for key in SIZES if key not in values]
    for key in SIZES:
        size = values.get(key, 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            problems.append(f"{key} is {size!r}; it is a whole number, 1 or more")
    for key in ("use_parallel_residual", "attention_bias", "tie_word_embeddings"):
        if not isinstance(values[key], bool):
            problems.append(f"{key} is {values[key]!r}; it is true or false")
    for key in ("layer_norm_eps", "rotary_pct", "rotary_emb_base"):
        if not _is_number(values[key]):
            problems.append(f"{key} is {values[key]!r}; it is a number, 0 or more")
    if values["rotary_emb_base"] == 0:
        problems.append("rotary_emb_base is 0; it is a number above 0")
    if not isinstance(values["hidden_act"], str) or values["hidden_act"] not in ACTIVATIONS:
        problems.append(
            f"hidden_act is {values['hidden_act']!r}; supported are {', '.join(ACTIVATIONS)}"
        )
    return problems


def _is_number(value: Any) -> bool:
    """Whether it is one of float's, 0 or more."""
    return (
        not isinstance(value, bool)
        and isinstance(value, int | float)
        and 0 <= value <= sys.float_info.max
    )


def _misspelt(raw: Mapping[str, Any]) -> list[str]:
    """A key that almost is one of ours would fall back to its default in silence: refuse it instead."""
    problems = []
    for key in raw:
        known = key in READ or key in OWN_NAMES
        near = [] if known else difflib.get_close_matches(key, READ, n=1, cutoff=0.8)
        if near and near[0] not in raw:
            problems.append(f"unknown key {key!r}; did you mean {near[0]!r}?")
    return problems


def _inconsistent(values: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    hidden = values["hidden_size"]
    heads = values["num_attention_heads"]
    if hidden % heads:
        return [f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}"]
    head_dim = hidden // heads
    if raw.get("head_dim") not in (None, head_dim):
        return [
            f"head_dim is {raw['head_dim']}, but hidden_size / num_attention_heads is {head_dim}"
        ]
    width = int(head_dim * min(values["rotary_pct"], 2.0))  # more than 1 is refused here
    if width + width % 2 > head_dim:
        return [
            f"rotary_pct {values['rotary_pct']} rotates {width + width % 2} of {head_dim} dimensions of a head"
        ]
    return []


def wrong_ends(eos: Any, rows: Any) -> list[str]:
    """What is wrong with an `eos_token_id` (an id, a list, or None) of a model of `rows` rows."""
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    limit = rows if type(rows) is int else 2**63  # what is no number is a problem of its own
    if all(type(n) is int and 0 <= n < limit for n in ids):
        return []
    right = f"an id of the vocabulary (vocab_size is {rows!r}), or a list of such ids"
    return [f"eos_token_id is {eos!r}; it is {right}"]
