"""Problems of a parsed config.json, as lines that say what was found and what is expected."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from neoxlib.errors import did_you_mean, nearest
from neoxlib.model.config_keys import ACTIVATIONS, DEFAULTS, OWN_NAMES, READ, ROPE_KEYS, SIZES

MOST_KEYS = 1000


def foreign(raw: Mapping[str, Any]) -> list[str]:
    """Keys that ask for another architecture, a rope scaling or a quantized checkpoint."""
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
    # SIZES and DEFAULTS have their own lines.
    others = {key: value for key, value in raw.items() if key not in (*SIZES, *DEFAULTS)}
    return problems + [
        f"{key} is {value}; every number is finite" for key, value in _not_finite("", others)
    ]


def _rope_kind(rope: Any) -> Any:
    """The name of a rope scaling; "default" for none, and for a linear one by 1."""
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        return rope
    kind = next(
        (rope[key] for key in ("rope_type", "type") if rope.get(key) is not None), "default"
    )
    return "default" if kind == "linear" and rope.get("factor") == 1 else kind


def _quantization(asked: Any) -> str:
    """The quantization that a quantization_config asks for; empty if it asks for none."""
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
    """Names and values of all NaN and infinite numbers: JSON has none, but Python reads them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _not_finite(name, inner)
    elif isinstance(value, float) and not abs(value) <= sys.float_info.max:
        yield name, value


def missing_or_wrong(values: Mapping[str, Any]) -> list[str]:
    """Keys that are missing, or of the wrong type or range."""
    problems = [f"{key} is missing" for key in SIZES if key not in values]
    for key in SIZES:
        size = values.get(key, 1)
        if type(size) is not int or size < 1:
            problems.append(f"{key} is {size!r}; it is a whole number, 1 or more")
        elif size > SIZES[key]:
            problems.append(f"{key} is {size}; it is a whole number of at most {SIZES[key]:,}")
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
    """Return whether `value` is a finite number, 0 or more."""
    return (
        not isinstance(value, bool)
        and isinstance(value, int | float)
        and 0 <= value <= sys.float_info.max
    )


def misspelt(raw: Mapping[str, Any]) -> list[str]:
    """Keys that resemble one of ours: a misspelt key would silently get its default."""
    if len(raw) > MOST_KEYS:
        return [f"there are {len(raw):,} keys; a config has some tens, and at most {MOST_KEYS:,}"]
    problems = []
    for key in raw:
        known = key in READ or key in OWN_NAMES
        near = [] if known else nearest(key, READ, cutoff=0.8)
        if near and near[0] not in raw:
            problems.append(f"unknown key {key!r}{did_you_mean(key, near)}")
    return problems


def inconsistent(values: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    """Keys, each valid, that contradict each other."""
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
        turned = f"{width + width % 2} of {head_dim} dimensions of a head"
        return [f"rotary_pct {values['rotary_pct']} rotates {turned}"]
    return []


def eos_problems(eos: Any, rows: Any) -> list[str]:
    """Problems of an `eos_token_id` (an id, a list, or None) of a vocabulary of `rows` ids."""
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    limit = rows if type(rows) is int else 2**63  # another type has its own line
    if all(type(n) is int and 0 <= n < limit for n in ids):
        return []
    right = f"an id of the vocabulary (vocab_size is {rows!r}), or a list of such ids"
    return [f"eos_token_id is {eos!r}; it is {right}"]
