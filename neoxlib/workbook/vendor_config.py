"""Import of a config.ini of the vendor's SDK: every key becomes a parameter or a note.

The SDK's README and its code differ in some defaults; the code decided what a file without the key
ran, so its defaults are used. A value that the code cannot read, or reads as something else than is
meant, is refused with its line and what to write.
"""

import configparser
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neoxlib.errors import ParameterError, did_you_mean
from neoxlib.files import read_whole
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.parameters import complaint
from neoxlib.workbook.vendor_keys import ALIASES, KEYS, LENGTHS, PATHS, Key, cure

MOST_BYTES = 1 << 20  # of a config.ini


@dataclass
class Import:
    """The result of an import: `values` of parameters, and `notes` about all the rest.

    `places` holds the line of each value.
    """

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def preset(self, source: str) -> str:
        """Return YAML for `report -f`: the notes as comments, then the parameters."""
        notes = [f"Made from {source} by `python -m neoxlib import-config`.", *self.notes]
        lines = [f"# {line}" for note in notes for line in note.splitlines()]
        values = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True)
        return "\n".join(lines) + "\n" + values


def import_config(path: str | os.PathLike[str]) -> Import:
    """Read a config.ini.

    Each section of the file gives all its keys, absent ones by the default in the SDK's code.
    Relative paths start at the file's folder, where the SDK is started.
    Raises ParameterError if it cannot be read, or with every value that cannot be used.
    """
    text, parser = _read(Path(path))
    found = Import()
    for section in parser.sections():
        lines = _lines(text, section)
        _section(found, section, dict(parser[section]), lines, Path(path).absolute().parent)
    _lengths(found)
    found.problems += _doubts(found, parser.sections())
    if found.problems:
        problems = [f"{path} cannot be imported:", *(f"  {line}" for line in found.problems)]
        raise ParameterError("\n".join(problems))
    return found


def _read(path: Path) -> tuple[str, configparser.ConfigParser]:
    """Return the file's text, and the result of Python's own parser, which the SDK uses."""
    marks = {"comment_prefixes": (";", "#"), "inline_comment_prefixes": (";",)}
    parser = configparser.ConfigParser(**marks, interpolation=None)
    try:
        text = read_whole(path, MOST_BYTES).decode("utf-8-sig")
        parser.read_string(text, str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        why = f"{path} cannot be read as the SDK's config.ini: {_twice(error)}"
        raise ParameterError(why) from error
    return text, parser


def _doubts(found: Import, sections: list[str]) -> Iterator[str]:
    """Return the faults of a file as a whole, and of values that no parameter takes."""
    if {"ceval", "precision"} <= set(sections):
        yield "[ceval] and [precision] are one section by two names: keep one of them"
    if not found.values and not found.problems:
        yield f"nothing to import: no section is one of {', '.join((*KEYS, *ALIASES))}"
    for name, value in found.values.items():
        if line := _complaint(name, value):
            yield f"{found.places.get(name, '')}{line}"


def _twice(error: Exception) -> str:
    """Return the parser's error; for a name that is there twice, the place and what to do."""
    if isinstance(error, configparser.DuplicateOptionError):
        place = f"line {error.lineno}: [{error.section}] {error.option}"
        return f"{place} is there twice; keep one of them"
    if isinstance(error, configparser.DuplicateSectionError):
        place = f"line {error.lineno}: [{error.section}]"
        return f"{place} is there twice; put its keys into one section"
    return str(error)


def _lines(text: str, section: str) -> dict[str, int]:
    """Return the line of each key of a section, and under "" the line of its head."""
    lines: dict[str, int] = {}
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("["):
            inside = line.startswith(f"[{section}]")
            lines |= {"": number} if inside else {}
        elif inside and (match := re.match(r"\s*([^=:]+?)\s*[=:]", line)):
            lines.setdefault(match[1].lower(), number)
    return lines


def _section(
    found: Import, name: str, given: dict[str, str], lines: dict[str, int], folder: Path
) -> None:
    known = KEYS.get(ALIASES.get(name, name))
    if known is None and (meant := name.strip().lower()) in (*KEYS, *ALIASES):
        place = f"line {lines['']}: " if lines else ""
        found.problems.append(
            f"{place}[{name}]: the SDK looks for [{meant}] and finds none; write [{meant}]"
        )
        return
    if known is None:
        hint = did_you_mean(name, (*KEYS, *ALIASES))
        found.notes.append(f"[{name}]: unknown section, left out{hint}")
        return
    if name in ALIASES:
        found.notes.append(
            f"[{name}]: read as [{ALIASES[name]}], of which it is the deprecated name"
        )
    for key in sorted(given.keys() - known.keys()):
        found.notes.append(
            f"[{name}] {key} = {given[key]}: unknown key, left out{did_you_mean(key, known)}"
        )
    for key, about in known.items():
        place = f"line {lines[key]}: " if key in lines else ""
        _key(found, (place, f"[{name}] {key}"), key, about, given.get(key), folder)


def _key(
    found: Import, where: tuple[str, str], key: str, about: Key, text: str | None, folder: Path
) -> None:
    line, place = where
    if about.to is None:
        if text is not None:
            found.notes.append(f"{place} = {text}: no parameter here; {about.instead}")
        return
    if text is None and about.readme is not None:
        said = "unset" if about.default is None else repr(about.default)
        found.notes.append(
            f"{place} is not given: the SDK's README says {about.readme}, its code takes {said}"
        )
    if text in (None, ""):
        value = about.default
    else:
        try:
            there = key in PATHS and _place("", text, folder).is_dir()  # whatever it is called
            value = text if there else about.kind(text)
        except (ValueError, OSError) as error:
            found.problems.append(
                f"{line}{place} = {text}: cannot be read ({error}); write {cure(key, text)}"
            )
            return
        found.places[about.to] = f"{line}{place} = {text}: "
    if value is not None:
        _take(found, key, about.to, value, folder)


def _lengths(found: Import) -> None:
    """Check the lengths: the SDK runs every power from min_len_exp to max_len_exp, or case_pair."""
    low, high = (found.values.get(name) for name in LENGTHS)
    if low is None or high is None or min(low, high) < 0 or (low <= high and high > 0):
        return  # the check of parameters refuses other values
    usual = {name: f"{name} is not given, so {found.values[name]}: " for name in LENGTHS}
    told = [found.places.get(name, usual[name]) for name in LENGTHS]
    places = " and ".join(place.removesuffix(": ") for place in told)
    for name in LENGTHS:
        del found.values[name]
    if "case_pair" not in found.values:
        ends = f"min_len_exp={min(low, high)} and max_len_exp={max(low, high)}"
        write = "case_pair=[[1,1]]" if low == high else ends
        found.problems.append(f"{places}: no length lies between them; write {write}")


def _take(found: Import, key: str, name: str, value: Any, folder: Path) -> None:
    """Set a parameter. Paths, devices and the data folder mean something else in the SDK."""
    if key == "device_ids":
        ids = ",".join(str(one) for one in sorted(set(value)))
        take = f"to take those: export ASCEND_RT_VISIBLE_DEVICES={ids}"
        found.notes.append(f"device_ids: {len(value)} rank(s); {take}")
        value = len(value)
    elif key in PATHS:
        value = str(_place(key, value, folder))
        if not Path(value).is_dir():
            found.notes.append(f"{name}: {value} is not there on this machine")
    elif key == "case_pair":
        found.notes.append(
            "case_pair is given: min_len_exp and max_len_exp are not used, as in the SDK"
        )
    elif key == "max_len_exp":
        tokens = 2 * 2 ** max(0, min(value, 40))
        found.notes.append(
            f"max_len_exp {value}: the longest prompt and answer need {tokens} positions together"
        )
    found.values[name] = value


def _place(key: str, text: str, folder: Path) -> Path:
    """Return the folder that a path means. Raises ValueError or OSError for what can be none."""
    return (folder / text / "data" if key == "work_dir" else folder / text).resolve()


def _complaint(name: str, value: Any) -> str | None:
    """Return the table's complaint; folders may be on another machine, and have a note instead."""
    return None if name in ("model_dir", "data_dir") else complaint(name, PARAMETERS[name], value)
