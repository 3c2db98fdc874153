"""The config.ini of the vendor's SDK as a preset of ours: every key is taken over, or named with what is there instead.

The SDK's README and its code differ in some defaults. Its code decides what a file without the key has run, so do we.
"""

import ast
import configparser
import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neoxlib.errors import ParameterError
from neoxlib.parameters import PARAMETERS, complaint


@dataclass(frozen=True)
class Key:
    """One key of the SDK: its parameter here, or why there is none; its type; the defaults of code and README."""

    to: str | None
    kind: Callable[[str], Any] = str
    default: Any = None  # in the code; None: unset, and ours holds
    readme: Any = None  # where the README says otherwise
    instead: str = ""


def _bool(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def _ids(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


_LENGTHS = "profile vendor writes 32 tokens, the SDK's default, and reads its letter; others take the likeliest choice"
KEYS: dict[str, dict[str, Key]] = {
    "model": {
        "model_path": Key("model_dir", readme="../model"),
        "device_ids": Key("world_size", _ids, [0], 2),
        "parallel_backend": Key(None, instead="hccl on NPUs, shared memory or gloo on the CPU"),
        "log_dir": Key(None, instead="the folder logs of each run (the SDK: README says the script's folder, its code "
                                     "./atb_speed_log)"),
        "bind_cpu": Key(None, instead="ranks are bound to cores near their device by themselves"),
    },
    "precision": {
        "mode": Key("task", default="ceval"),
        "work_dir": Key("data_dir"),
        "batch": Key(None, instead="questions are scored, so a batch changes no answer"),
        "shot": Key("shots", int, 5),
        "seq_len_out": Key(None, instead=_LENGTHS),
    },
    "performance": {
        "model_name": Key(None, instead="the CSV is named after the model folder"),
        "batch_size": Key("batch_size", int, 1),
        "max_len_exp": Key("max_len_exp", int, 11, 10),
        "min_len_exp": Key("min_len_exp", int, 5),
        "case_pair": Key("case_pair", ast.literal_eval),
        "save_file_name": Key(None, instead="the file is in the run's own folder"),
        "perf_mode": Key("perf_mode", default="normal"),
        "skip_decode": Key("skip_decode", _bool, False, "1 in its older edition"),
    },
}  # fmt: skip
ALIASES = {"ceval": "precision"}  # deprecated by the SDK, and what its own file for GPT-NeoX still has
PATHS = ("model_path", "work_dir")


@dataclass
class Import:
    """What became of a file: `values` are parameters; `notes` name all that is none, and every doubt."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def preset(self, source: str) -> str:
        """YAML for `report -f`: the notes as comments, then the parameters."""
        lines = [f"# Made from {source} by `python -m neoxlib import-config`.", *(f"# {note}" for note in self.notes)]
        return "\n".join(lines) + "\n" + yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)


def import_config(path: str | os.PathLike[str]) -> Import:
    """Read a config.ini. Raises ParameterError when it cannot be read, or with every value that cannot be used.

    Sections that the file has bring all their keys, the absent ones by the default in the SDK's code.
    Relative paths count from the file's folder, where the SDK is started.
    """
    parser = configparser.ConfigParser(comment_prefixes=(";", "#"), inline_comment_prefixes=(";",), interpolation=None)
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ParameterError(f"{path} cannot be read as the SDK's config.ini: {error}") from error
    found = Import()
    for section in parser.sections():
        _section(found, section, dict(parser[section]), Path(path).absolute().parent)
    if not found.values and not found.problems:
        found.problems.append(f"nothing to import: no section is one of {', '.join((*KEYS, *ALIASES))}")
    found.problems += [line for name, value in found.values.items() if (line := _complaint(name, value))]
    if found.problems:
        raise ParameterError("\n".join([f"{path} cannot be imported:", *(f"  {line}" for line in found.problems)]))
    return found


def _section(found: Import, name: str, given: dict[str, str], folder: Path) -> None:
    known = KEYS.get(ALIASES.get(name, name))
    if known is None:
        found.notes.append(f"[{name}]: unknown section, left out{_near(name, (*KEYS, *ALIASES))}")
        return
    if name in ALIASES:
        found.notes.append(f"[{name}]: read as [{ALIASES[name]}], of which it is the deprecated name")
    for key in sorted(given.keys() - known.keys()):
        found.notes.append(f"[{name}] {key} = {given[key]}: unknown key, left out{_near(key, known)}")
    for key, about in known.items():
        _key(found, f"[{name}] {key}", key, about, given.get(key), folder)


def _key(found: Import, place: str, key: str, about: Key, text: str | None, folder: Path) -> None:
    if about.to is None:
        if text is not None:
            found.notes.append(f"{place} = {text}: no parameter here; {about.instead}")
        return
    if text is None and about.readme is not None:
        said = "unset" if about.default is None else repr(about.default)
        found.notes.append(f"{place} is not given: the SDK's README says {about.readme}, its code takes {said}")
    if text in (None, ""):
        value = about.default
    else:
        try:
            value = about.kind(text)
        except (ValueError, SyntaxError) as error:
            found.problems.append(f"{place} = {text}: cannot be read ({error})")
            return
    if value is not None:
        _take(found, key, about.to, value, folder)


def _take(found: Import, key: str, name: str, value: Any, folder: Path) -> None:
    """Put a value under its parameter's name; paths, devices and the data folder have their own meaning in the SDK."""
    if key == "device_ids":
        ids = ",".join(str(one) for one in sorted(set(value)))
        found.notes.append(f"device_ids: {len(value)} rank(s); to take those: export ASCEND_RT_VISIBLE_DEVICES={ids}")
        value = len(value)
    elif key in PATHS:
        value = str((folder / value / "data" if key == "work_dir" else folder / value).resolve())
        if not Path(value).is_dir():
            found.notes.append(f"{name}: {value} is not there on this machine")
    elif key == "case_pair":
        value = [list(pair) for pair in value] if isinstance(value, (list, tuple)) else value
        found.notes.append("case_pair is given: min_len_exp and max_len_exp are not used, as in the SDK")
    elif key == "max_len_exp":
        tokens = 2 * 2**min(value, 40)
        found.notes.append(f"max_len_exp {value}: the longest prompt and answer need {tokens} positions together")
    found.values[name] = value


def _complaint(name: str, value: Any) -> str | None:
    """The table's own check of a value; folders may be on another machine, and were noted."""
    return None if name in ("model_dir", "data_dir") else complaint(name, PARAMETERS[name], value)


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
