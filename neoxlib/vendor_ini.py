"""The config.ini of the vendor's SDK as a preset of ours: every key is taken over, or named with what is there instead.

The SDK's README and its code differ in some defaults. Its code decides what a file without the key has run, so do we.
What its code cannot read, or reads as something else than is meant, is refused with the line and what to write.
"""

import ast
import configparser
import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neoxlib.errors import ParameterError
from neoxlib.parameters import PARAMETERS, complaint


def _text(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] in "'\"":
        raise ValueError("the quotes are part of the value")
    if re.search(r"(^|\s)#", text):
        raise ValueError("what follows # is part of the value: a comment begins with ;")
    return text


def _path(text: str) -> str:
    if text.startswith("~") or "${" in text:
        raise ValueError("~ and variables are not replaced: a folder of that very name is looked for")
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
    """One key of the SDK: its parameter here, or why there is none; its type; the defaults of code and README."""

    to: str | None
    kind: Callable[[str], Any] = _text
    default: Any = None  # in the code; None: unset, and ours holds
    readme: Any = None  # where the README says otherwise
    instead: str = ""


_LENGTHS = "profile vendor writes 32 tokens, the SDK's default, and reads its letter; others take the likeliest choice"
KEYS: dict[str, dict[str, Key]] = {
    "model": {
        "model_path": Key("model_dir", _path, readme="../model"),
        "device_ids": Key("world_size", _ids, [0], 2),
        "parallel_backend": Key(None, instead="hccl on NPUs, shared memory or gloo on the CPU"),
        "log_dir": Key(None, instead="the folder logs of each run (the SDK: README says the script's folder, its code "
                                     "./atb_speed_log)"),
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
}  # fmt: skip
ALIASES = {"ceval": "precision"}  # deprecated by the SDK, and what its own file for GPT-NeoX still has
PATHS = ("model_path", "work_dir")
LENGTHS = ("min_len_exp", "max_len_exp")
KEYS_TO = {key: about.to for keys in KEYS.values() for key, about in keys.items() if about.to}


@dataclass
class Import:
    """What became of a file: `values` are parameters; `notes` name all that is none, and every doubt.

    `places` say for a value which line it is from.
    """

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def preset(self, source: str) -> str:
        """YAML for `report -f`: the notes as comments, then the parameters."""
        notes = [f"Made from {source} by `python -m neoxlib import-config`.", *self.notes]
        lines = [f"# {line}" for note in notes for line in note.splitlines()]
        return "\n".join(lines) + "\n" + yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)


def import_config(path: str | os.PathLike[str]) -> Import:
    """Read a config.ini. Raises ParameterError when it cannot be read, or with every value that cannot be used.

    Sections that the file has bring all their keys, the absent ones by the default in the SDK's code.
    Relative paths count from the file's folder, where the SDK is started.
    """
    parser = configparser.ConfigParser(comment_prefixes=(";", "#"), inline_comment_prefixes=(";",), interpolation=None)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        parser.read_string(text, str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ParameterError(f"{path} cannot be read as the SDK's config.ini: {_twice(error)}") from error
    found = Import()
    for section in parser.sections():
        lines = _lines(text, section)
        _section(found, section, dict(parser[section]), lines, Path(path).absolute().parent)
    if {"ceval", "precision"} <= set(parser.sections()):
        found.problems.append("[ceval] and [precision] are one section by two names: keep one of them")
    _lengths(found)
    if not found.values and not found.problems:
        found.problems.append(f"nothing to import: no section is one of {', '.join((*KEYS, *ALIASES))}")
    found.problems += [f"{found.places.get(name, '')}{line}" for name, value in found.values.items()
                       if (line := _complaint(name, value))]  # fmt: skip
    if found.problems:
        raise ParameterError("\n".join([f"{path} cannot be imported:", *(f"  {line}" for line in found.problems)]))
    return found


def _twice(error: Exception) -> str:
    """What Python's parser says, but of a name that is there twice where it is and what to do."""
    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno}: [{error.section}] {error.option} is there twice; keep one of them"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno}: [{error.section}] is there twice; put its keys into one section"
    return str(error)


def _lines(text: str, section: str) -> dict[str, int]:
    """The line of each key of a section, and under "" that of its head."""
    lines: dict[str, int] = {}
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("["):
            inside = line.startswith(f"[{section}]")
            lines |= {"": number} if inside else {}
        elif inside and (match := re.match(r"\s*([^=:]+?)\s*[=:]", line)):
            lines.setdefault(match[1].lower(), number)
    return lines


def _section(found: Import, name: str, given: dict[str, str], lines: dict[str, int], folder: Path) -> None:
    known = KEYS.get(ALIASES.get(name, name))
    if known is None and (meant := name.strip().lower()) in (*KEYS, *ALIASES):
        place = f"line {lines['']}: " if lines else ""
        found.problems.append(f"{place}[{name}]: the SDK looks for [{meant}] and finds none; write [{meant}]")
        return
    if known is None:
        found.notes.append(f"[{name}]: unknown section, left out{_near(name, (*KEYS, *ALIASES))}")
        return
    if name in ALIASES:
        found.notes.append(f"[{name}]: read as [{ALIASES[name]}], of which it is the deprecated name")
    for key in sorted(given.keys() - known.keys()):
        found.notes.append(f"[{name}] {key} = {given[key]}: unknown key, left out{_near(key, known)}")
    for key, about in known.items():
        place = f"line {lines[key]}: " if key in lines else ""
        _key(found, (place, f"[{name}] {key}"), key, about, given.get(key), folder)


def _key(found: Import, where: tuple[str, str], key: str, about: Key, text: str | None, folder: Path) -> None:
    line, place = where
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
            there = key in PATHS and (folder / text).is_dir()  # whatever it is called
            value = text if there else about.kind(text)
        except (ValueError, OSError) as error:
            found.problems.append(f"{line}{place} = {text}: cannot be read ({error}); write {_cure(key, text)}")
            return
        found.places[about.to] = f"{line}{place} = {text}: "
    if value is not None:
        _take(found, key, about.to, value, folder)


def _cure(key: str, text: str) -> str:
    """What to write instead: without quotes and comment, one number of several, pairs in a list."""
    bare = re.sub(r"\s*#.*", "", text).strip().strip("'\"").strip()
    numbers = re.findall(r"\d+", bare)
    if key in PATHS:
        return f"{key}={os.path.expanduser(bare)}" if "${" not in bare else f"the folder itself after {key}="
    if key == "case_pair":
        even = numbers if len(numbers) % 2 == 0 else []
        pairs = [f"[{a},{b}]" for a, b in zip(even[::2], even[1::2], strict=True)]
        return f"{key}=[{','.join(pairs) or '[256,256]'}]"
    if key == "device_ids":
        return f"{key}={','.join(_devices(bare, numbers)) or '0'}"
    if key == "batch_size" and len(numbers) > 1 and re.fullmatch(r"[\[({\d,\s\])}]+", bare):
        return f"{key}={numbers[0]}, and batch_sizes: [{', '.join(numbers)}] into the preset for all of them"
    if key == "skip_decode":
        return f"{key}={int(bare.lower() in ('1', 'true', 'yes', 'on'))}"
    if PARAMETERS[KEYS_TO[key]].type == "int":
        return f"{key}={numbers[0] if len(numbers) == 1 else PARAMETERS[KEYS_TO[key]].low}"
    return f"{key}={bare}"


def _devices(text: str, numbers: list[str]) -> list[str]:
    """0-3 is 0,1,2,3; else every number once."""
    if span := re.fullmatch(r"(\d+)\s*-\s*(\d+)", text):
        return [str(one) for one in range(int(span[1]), min(int(span[2]), int(span[1]) + 63) + 1)]
    return list(dict.fromkeys(numbers))


def _lengths(found: Import) -> None:
    """The SDK takes every power from min_len_exp to max_len_exp, unless case_pair is given; there must be one."""
    low, high = (found.values.get(name) for name in LENGTHS)
    if low is None or high is None or min(low, high) < 0 or (low <= high and high > 0):
        return  # what is no number, or one below 0, is refused with the others
    places = " and ".join(found.places.get(name, f"{name} is not given, so {found.values[name]}: ").removesuffix(": ")
                          for name in LENGTHS)  # fmt: skip
    for name in LENGTHS:
        del found.values[name]
    if "case_pair" not in found.values:
        cure = f"min_len_exp={min(low, high)} and max_len_exp={max(low, high)}"
        cure = "case_pair=[[1,1]]" if low == high else cure
        found.problems.append(f"{places}: no length lies between them; write {cure}")


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
