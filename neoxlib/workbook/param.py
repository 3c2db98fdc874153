"""One parameter of a notebook, and the checks of its value.

A check returns what is wrong with a value, as the end of a sentence, or None.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxlib.errors import did_you_mean

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")  # of an exam

DTYPES = ("float32", "float16", "bfloat16")
TWICE = ("same", "repeat")  # a reference: the target a second time
RANKS = r"(?:world_size\s*=\s*)?([1-9]\d*)"  # a reference: the same model over so many ranks
INSIDE = ("results.json", "capture.json", "dump.json")  # a run's, a capture's, a dump's
REFERENCES = ("transformers", *DTYPES, *TWICE, "world_size=1")


def anything(_: Any) -> str | None:
    return None


def folder(value: str) -> str | None:
    if Path(value).is_dir():
        return None
    return f"no folder {value!r}; give the path of an existing folder"


def exam(value: str) -> str | None:
    if Path(value).is_dir() or (Path(value).is_file() and value.lower().endswith(ARCHIVES)):
        return None
    return f"no folder or .zip or .tar {value!r}; give the folder of an exam, or its archive"


def file(value: str) -> str | None:
    if Path(value).is_file():
        return None
    return f"no file {value!r}; give the path of an existing file"


def run(value: str) -> str | None:
    found = Path(value, "results.json").is_file() or Path(value).is_file()
    return None if found else f"no run at {value!r}; give the folder of a run, or its results.json"


def target(value: str) -> str | None:
    path = Path(value)
    found = path.is_dir() or (path.name in INSIDE and path.is_file())
    return None if found else f"no folder {value!r}; give a capture, a run or a model folder"


def reference(value: str) -> str | None:
    if value in REFERENCES or re.fullmatch(RANKS, value) or target(value) is None:
        return None
    near = did_you_mean(value, REFERENCES, cutoff=0.5) or ";"
    words = ", ".join(REFERENCES)
    return f"no folder {value!r}{near} give a model folder, a capture, a run, or one of {words}"


def above_zero(value: float) -> str | None:
    return None if value > 0 else f"found {value!r}, expected a figure above 0"


def share(value: float) -> str | None:
    return None if 0 < value <= 1 else f"found {value!r}, expected a share above 0 and at most 1"


def model_dir(value: str) -> str | None:
    if complaint := folder(value):
        return complaint
    if any((Path(value) / name).is_file() for name in ("config.json", "manifest.json")):
        return None
    return f"no config.json or manifest.json in {value!r}; give a checkpoint or shard folder"


PATHS = (folder, exam, file, run, target, reference, model_dir)


def texts(value: list) -> str | None:
    bad = [item for item in value if not isinstance(item, str) or not item]
    return f"found {bad[0]!r} in the list, expected non-empty texts" if bad else None


def counts(value: list) -> str | None:
    bad = [item for item in value if type(item) is not int or item < 1]
    expected = "expected whole numbers above 0, such as [1, 4]"
    return f"found {bad} in the list, {expected}" if bad else None


def depths(value: list) -> str | None:
    bad = [item for item in value if type(item) is not int or item < 0]
    expected = "expected whole numbers of 0 or more, such as [0, 64]"
    return f"found {bad} in the list, {expected}" if bad else None


def pairs(value: list) -> str | None:
    bad = [item for item in value if not _is_pair(item)]
    expected = "expected pairs such as [[32, 16]] of whole numbers above 0"
    return f"found {bad} in the list, {expected}" if bad else None


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, (list, tuple))
        and len(item) == 2
        and all(type(n) is int and n > 0 for n in item)
    )


@dataclass(frozen=True)
class Param:
    """One parameter: annotation and default as in the notebooks' parameters cells, and its limits.

    With `blank`, the empty value ("", 0, []) is valid and resolves to `stands_for`. Where the
    default is None, only None is empty, and 0 is an ordinary number. `item` is the type of a
    list's items if known.
    """

    type: str
    default: Any
    help: str
    choices: tuple = ()
    low: float | None = None
    high: float | None = None
    check: Callable[[Any], str | None] = anything
    blank: bool = False
    stands_for: Any = None
    item: str = ""


def usual_mode() -> str:
    """Return the default perf_mode: "detail" if the guide's RETURN_PERF_DETAIL or TIMEIT is 1."""
    return "detail" if _is_on("RETURN_PERF_DETAIL") or timings_shown() else "normal"


def timings_shown() -> bool:
    """Return whether to print each case's times as they come: the guide's TIMEIT=1."""
    return _is_on("TIMEIT")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip() == "1"
