"""The keys of the vendor's SDK: the parameter of each, the reading of its value, and its repair.

A value is read as the SDK's code reads it. One that the code reads as something else than is meant
is an error.
"""

import ast
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neoxlib.workbook.parameter_table import PARAMETERS


def _text(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] in "'\"":
        raise ValueError("the quotes are part of the value")
    if re.search(r"(^|\s)#", text):
        raise ValueError("what follows # is part of the value: a comment begins with ;")
    return text


def _path(text: str) -> str:
    if text.startswith("~") or "${" in text:
        raise ValueError(
            "~ and variables are not replaced: a folder of that very name is looked for"
        )
    return _text(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected one whole number") from None


def _bool(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return text == "1"


def _ids(text: str) -> list[int]:
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise ValueError("expected numbers of devices with commas between them")
    ids = [int(one) for one in text.split(",")]
    if len(set(ids)) < len(ids):
        raise ValueError("a device is named twice")
    return ids


def _pairs(text: str) -> list[list[int]] | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = ()
    if value is None:
        return None
    pairs = isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_pair, value))
    if not pairs:
        raise ValueError("expected a list of pairs of whole numbers above 0")
    return [list(pair) for pair in value]


def _is_pair(value: Any) -> bool:
    whole = isinstance(value, (list, tuple)) and all(type(one) is int and one > 0 for one in value)
    return whole and len(value) == 2


@dataclass(frozen=True)
class Key:
    """A key of the SDK: its parameter or the reason for none, its type, its defaults."""

    to: str | None
    kind: Callable[[str], Any] = _text
    default: Any = None  # in the code; None: unset, and ours holds
    readme: Any = None  # where the README says otherwise
    instead: str = ""


_LENGTHS = (
    "profile vendor writes 32 tokens, the SDK's default, and reads its letter; "
    "others take the most likely choice"
)
KEYS: dict[str, dict[str, Key]] = {
    "model": {
        "model_path": Key("model_dir", _path, readme="../model"),
        "device_ids": Key("world_size", _ids, [0], 2),
        "parallel_backend": Key(None, instead="hccl on NPUs, shared memory or gloo on the CPU"),
        "log_dir": Key(
            None,
            instead="the folder logs of each run "
            "(the SDK: README says the script's folder, its code ./atb_speed_log)",
        ),
        "bind_cpu": Key(None, instead="ranks are bound to cores near their device by themselves"),
    },
    "precision": {
        "mode": Key("task", default="ceval"),
        "work_dir": Key("data_dir", _path),
        "batch": Key(None, instead="questions are scored, so a batch changes no answer"),
        "shot": Key("shots", _whole, 5),
        "seq_len_out": Key(None, instead=_LENGTHS),
    },
    "performance": {
        "model_name": Key(None, instead="the CSV is named after the model folder"),
        "batch_size": Key("batch_size", _whole, 1),
        "max_len_exp": Key("max_len_exp", _whole, 11, 10),
        "min_len_exp": Key("min_len_exp", _whole, 5),
        "case_pair": Key("case_pair", _pairs),
        "save_file_name": Key(None, instead="the file is in the run's own folder"),
        "perf_mode": Key("perf_mode", default="normal"),
        "skip_decode": Key("skip_decode", _bool, False, "1 in its older edition"),
    },
}
ALIASES = {"ceval": "precision"}  # deprecated, but still in the SDK's own file for GPT-NeoX
PATHS = ("model_path", "work_dir")
LENGTHS = ("min_len_exp", "max_len_exp")
KEYS_TO = {key: about.to for keys in KEYS.values() for key, about in keys.items() if about.to}


def cure(key: str, text: str) -> str:
    """Return what to write: without quotes and comment, one of many numbers, pairs in a list."""
    bare = re.sub(r"\s*#.*", "", text).strip().strip("'\"").strip()
    numbers = re.findall(r"\d+", bare)
    if key in PATHS:
        if "${" in bare:
            return f"the folder itself after {key}="
        return f"{key}={os.path.expanduser(bare)}"
    if key == "case_pair":
        even = numbers if len(numbers) % 2 == 0 else []
        pairs = [f"[{a},{b}]" for a, b in zip(even[::2], even[1::2], strict=True)]
        return f"{key}=[{','.join(pairs) or '[256,256]'}]"
    if key == "device_ids":
        return f"{key}={','.join(_devices(bare, numbers)) or '0'}"
    if key == "batch_size" and len(numbers) > 1 and re.fullmatch(r"[\[({\d,\s\])}]+", bare):
        sizes = f"batch_sizes: [{', '.join(numbers)}]"
        return f"{key}={numbers[0]}, and {sizes} into the preset for all of them"
    if key == "skip_decode":
        return f"{key}={int(bare.lower() in ('1', 'true', 'yes', 'on'))}"
    if PARAMETERS[KEYS_TO[key]].type == "int":
        return f"{key}={numbers[0] if len(numbers) == 1 else PARAMETERS[KEYS_TO[key]].low}"
    return f"{key}={bare}"


def _devices(text: str, numbers: list[str]) -> list[str]:
    """Return the devices: 0-3 is 0,1,2,3; otherwise every number once."""
    if span := re.fullmatch(r"(\d{1,9})\s*-\s*(\d{1,9})", text):
        return [str(one) for one in range(int(span[1]), min(int(span[2]), int(span[1]) + 63) + 1)]
    return list(dict.fromkeys(numbers))
