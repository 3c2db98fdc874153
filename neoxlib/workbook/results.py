"""Reading of a run's results.json: with every key present, or refused in one sentence."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any

MOST_NESTED = 50  # levels of objects and lists in results
NO_RUN = {
    "run": "",
    "notebook": "",
    "status": "broken",
    "parameters": {},
    "given": [],
    "environment": {},
    "model": {},
    "verdict": "",
    "noise": [],
    "metrics": {},
    "checks": [],
    "process": {},
    "started": None,
    "seconds": None,
    "error": None,
}


def read_results(path: Path) -> dict[str, Any]:
    """Return a run's results, by its folder or the file, with every key of NO_RUN present.

    Raises ValueError if there is no file, no JSON, or JSON of another form.
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
    """Return what keeps a value from being a run's results, or an empty text."""
    if not isinstance(found, dict):
        return f"it holds {type(found).__name__}, expected an object"
    kinds = {name: type(value) for name, value in NO_RUN.items() if value is not None}
    odd = [key for key, kind in kinds.items() if not isinstance(found.get(key, kind()), kind)]
    odd += ["error"] if not isinstance(found.get("error"), (dict, NoneType)) else []
    for key, kind in (("checks", dict), ("given", str), ("noise", str)):
        odd += [] if all(isinstance(item, kind) for item in found.get(key, [])) else [key]
    if odd:
        return f"{', '.join(sorted(set(odd)))} of another type"
    return "" if _depth(found) <= MOST_NESTED else "it is nested too deeply"


def _depth(value: Any) -> int:
    """Return how many levels of lists and objects a value has."""
    depth = 0
    level = [value]
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
    return depth


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
