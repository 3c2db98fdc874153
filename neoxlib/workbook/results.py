"""A run's results.json, whatever became of it: read with every key, or refused in one sentence."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any

MOST_NESTED = 50  # objects and lists inside one another, in results that are shown
NO_RUN = {
    "run": "",
    "notebook": "",
    "status": "broken",
    "parameters": {},
    "given": [],
    "environment": {},
    "model": {},
    "metrics": {},
    "checks": [],
    "process": {},
    "started": None,
    "seconds": None,
    "error": None,
}


def read_results(path: Path) -> dict[str, Any]:
    """A run's results, by its folder or the file itself, with every key of NO_RUN present.

    Raises ValueError for whatever else lies there: nothing, no JSON, JSON of another form.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"no {path.name} that can be read") from error
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if wrong := _wrong(found):
        raise ValueError(f"{path.name} is not of this format: {wrong}")
    return NO_RUN | {"run": path.parent.name, "notebook": path.parent.parent.name} | found


def _wrong(found: Any) -> str:
    """What keeps a value from being a run's results; empty where nothing does."""
    if not isinstance(found, dict):
        return f"it holds {type(found).__name__}, expected an object"
    kinds = {name: type(value) for name, value in NO_RUN.items() if value is not None}
    odd = [key for key, kind in kinds.items() if not isinstance(found.get(key, kind()), kind)]
    odd += ["error"] if not isinstance(found.get("error"), (dict, NoneType)) else []
    odd += (
        ["checks"] if not all(isinstance(check, dict) for check in found.get("checks", [])) else []
    )
    odd += ["given"] if not all(isinstance(name, str) for name in found.get("given", [])) else []
    if odd:
        return f"{', '.join(sorted(set(odd)))} of another type"
    return "" if _depth(found) <= MOST_NESTED else "it is nested too deeply"


def _depth(value: Any) -> int:
    """How many lists and objects are inside one another."""
    depth = 0
    level = [value]
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
    return depth


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
