"""Checks and readings of parameters. Both sides of a run use them: the command line before a kernel
starts, and `Run.start` inside it. The rows themselves are in `parameter_table`.
"""

import math
import os
import sys
from collections.abc import Iterable
from typing import Any

from neoxlib.errors import ParameterError, did_you_mean
from neoxlib.workbook import typed
from neoxlib.workbook.param import PATHS, Param
from neoxlib.workbook.parameter_table import PARAMETERS

TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


def complaint(name: str, param: Param, value: Any) -> str | None:
    """Return one line that says what is wrong with a value, or None. It starts with the name."""
    if _is_blank(param, value):
        return None
    wrong = _wrong_type(param, value) or _half(value)
    wrong = wrong or _out_of_range(param, value) or _unfit(param, value)
    return f"{name}: {wrong}" if wrong else None


def _unfit(param: Param, value: Any) -> str | None:
    try:
        return param.check(value)
    except OSError as error:  # a path that is too long, or in a folder without access
        return f"{value!r} cannot be looked up: {error.strerror}"


def _half(value: Any) -> str | None:
    """Find a lone surrogate: it has no UTF-8 form, so no file, page or tokenizer accepts it."""
    if isinstance(value, str):
        half = any("\ud800" <= letter <= "\udfff" for letter in value)
        return f"found {value!r}, with half a character; write the whole one" if half else None
    parts = value.items() if isinstance(value, dict) else value
    parts = parts if isinstance(value, (list, tuple, dict)) else ()
    return next((wrong for part in parts if (wrong := _half(part))), None)


def _is_blank(param: Param, value: Any) -> bool:
    return param.blank and (
        value is None or (param.default is not None and not value and value is not False)
    )


def _wrong_type(param: Param, value: Any) -> str | None:
    wanted = (int, float) if param.type == "float" else TYPES.get(param.type, object)
    ok = isinstance(value, wanted) and (param.type == "bool" or not isinstance(value, bool))
    if ok:
        return None
    found = f"found {value!r}, which is {type(value).__name__}"
    return f"{found}, expected {param.type}{_hint(param, value)}"


def _hint(param: Param, value: Any) -> str:
    """Say how to write a value that is easily read as another type."""
    if param.type == "str":
        return "; a text that looks like something else goes in quotes"
    many = '; a list is ["one", "two"], and a text that begins with [ stands in one, in quotes'
    return many if param.type == "list" and isinstance(value, str) else ""


def _out_of_range(param: Param, value: Any) -> str | None:
    if param.choices and value not in param.choices:
        choices = " or ".join(choice or "the empty text" for choice in param.choices)
        return f"found {value!r}, expected {choices}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"found {value!r}, expected a finite figure"
    if param.type == "float" and abs(value) > sys.float_info.max:
        return (
            f"found a number of {len(str(value))} digits, expected a figure that a float can hold"
        )
    if param.low is not None and not value >= param.low:
        return f"found {value!r}, expected {param.low} or more"
    if param.high is not None and not value <= param.high:
        return f"found {value!r}, expected {param.high} or less"
    return None


def complaints(values: dict[str, Any], declared: dict[str, Param]) -> list[str]:
    """Return one line for each value of a wrong type, choice or range, and each impossible pair."""
    problems = [
        line for name, value in values.items() if (line := complaint(name, declared[name], value))
    ]
    task = PARAMETERS["task"]
    if values.get("task", "ceval") in task.choices[1:] and not values.get("data_dir"):
        found = f"the shipped exam is none of {values['task']}'s"
        problems.append(f"data_dir: {found}; give the folder of its questions")
    low, high = (values.get(name) for name in ("min_len_exp", "max_len_exp"))
    if type(low) is type(high) is int and 0 < high < low:
        problems.append(f"min_len_exp: found {low}, expected at most max_len_exp, which is {high}")
    return problems


def refuse(problems: list[str]) -> None:
    """Raise one ParameterError with all problems, if there are any."""
    if problems:
        said = "\n".join(["the parameters cannot be used:", *(f"  {line}" for line in problems)])
        raise ParameterError(said.encode("utf-8", "backslashreplace").decode())


def placed(name: str, param: Param, value: Any) -> Any:
    """Return the value; of a path that begins with ~/, as runs record it, the whole path."""
    is_path = param.check in PATHS or name.endswith("_dir")
    found = is_path and isinstance(value, str) and value.startswith("~/")
    return os.path.expanduser(value) if found else value


def resolve(name: str, param: Param, value: Any) -> Any:
    """Return the value for the library: an empty one becomes what it stands for, an int a float."""
    if _is_blank(param, value):
        return param.stands_for() if callable(param.stands_for) else param.stands_for
    return float(value) if param.type == "float" else value


def read_text(param: Param, text: str) -> Any:
    """Read a value from the command line, with `typed`."""
    return typed.read_text(param.type, param.item, text)


def unknown(name: str, known: Iterable[str]) -> str:
    """Return the line for an unknown name: the nearest known names, then all of them."""
    known = sorted(known)
    hint = did_you_mean(name, known, most=2) or ";"
    return f"{name}: unknown parameter{hint} known are {', '.join(known)}"
