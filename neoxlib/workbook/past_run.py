"""Earlier runs, read back from their folders, and what changed since the last one."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.files import read_whole
from neoxlib.machine.environment import BETWEEN_RUNS
from neoxlib.machine.environment import kind as kind_of_machine
from neoxlib.redact import scrub
from neoxlib.workbook import metrics
from neoxlib.workbook.results import NO_RUN, read_results, read_run

MOST = 8  # runs of a trend
MOST_BYTES = 1 << 29  # of a table; 14,000 questions with their prompts have 1 << 27
MOST_COLUMNS = 1000
Ends = tuple[float, float]  # of an interval
LOOKED_AT = 200  # folders, for the runs of a trend
FINISHED = ("ok", "noisy", "not-judged", "check-failed")
NO_MATTER = (  # parameters that change no figure, or that the identity holds
    "model_dir",
    "device",
    "quant",
    "dtype",
    "world_size",
    "prepare_dir",
    "shard_dir",
    "baseline",
    "max_slowdown",
    "trace",
    "scaling",
    "resume",
    "compare_with",
    "vendor_files",
    "lang",
)


@dataclass(frozen=True)
class Past:
    """An earlier run and its results."""

    folder: Path
    results: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.results['notebook']}/{self.folder.name}"

    @property
    def identity(self) -> dict[str, Any]:
        """The values that must be equal for times to be comparable."""
        model, environment, asked = (
            self.results.get(part) or {} for part in ("model", "environment", "parameters")
        )
        return {
            "model": Path(model.get("model_dir") or "not known").name,
            "parameters": model.get("parameters"),
            "chip": _chip(model, environment),
            "dtype": model.get("dtype"),
            "quant": model.get("quant") or "none",
            "ranks": model.get("world_size") or asked.get("world_size"),
        }

    def table(self, name: str) -> pd.DataFrame | None:
        """Return one of its tables, or None if it has no such table."""
        path = self.folder / f"{name}.csv"
        try:
            if not path.is_file():
                return None
            return pd.read_csv(table_bytes(path), keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a table: {error}") from error


def table_bytes(path: Path) -> io.BytesIO:
    """Return the content of a run's CSV.

    Raises OSError as read_whole, and ValueError for more than MOST_COLUMNS.
    """
    data = read_whole(path, MOST_BYTES)
    end = data.find(b"\n")
    columns = data.count(b",", 0, end if end >= 0 else len(data)) + 1
    if columns > MOST_COLUMNS:
        raise ValueError(f"it has {columns:,} columns, more than {MOST_COLUMNS:,}")
    return io.BytesIO(data)


def open_run(path: str | Path) -> Past:
    """Return a run by its folder or its results.json. Raises DataError if it is not a run."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = read_run(path.parent) if path.name == "results.json" else read_results(path)
    except ValueError as error:
        raise DataError(f"{path} is not the results.json of a run ({error})") from error
    if results["status"] == NO_RUN["status"]:
        raise DataError(f"{path} is not the results.json of a run: it names no status")
    return Past(path.parent, results)


def _chip(model: dict[str, Any], environment: dict[str, Any]) -> str:
    """Return the processor, or the NPU that the model's operators are for."""
    on_cpu = str(model.get("device", "cpu")) == "cpu"
    chip = environment.get("cpu") if on_cpu else model.get("compile", "")
    return str(chip).removeprefix("operators for ")


def kind(results: dict[str, Any]) -> str:
    """Return a text that is equal for runs whose figures can be compared.

    That is their notebook, identity, and every parameter that a figure depends on.
    """
    asked = {k: v for k, v in results["parameters"].items() if k not in NO_MATTER}
    said = [results["notebook"], Past(Path(), results).identity, asked]
    return scrub(json.dumps(said, sort_keys=True, default=str))


def before(folder: Path, results: dict[str, Any]) -> list[Past]:
    """Return the last comparable runs that were finished before a run, oldest first.

    They are looked for among the newest folders beside its own; what cannot be read is left out.
    """
    wanted = kind(results)
    older = sorted((path for path in folder.parent.iterdir() if path.name < folder.name), key=_name)
    found: list[Past] = []
    for path in older[: -LOOKED_AT - 1 : -1]:
        try:
            past = Past(path, read_results(path))
            if past.results["status"] in FINISHED and kind(past.results) == wanted:
                found.append(past)
        except (ValueError, TypeError, AttributeError):  # another program's, or a damaged one
            continue
        if len(found) == MOST - 1:
            break
    return found[::-1]


def histories(runs: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return for each of `runs`, newest first, the comparable finished ones before it.

    They are oldest first, and at most as many as a trend shows.
    """
    seen: dict[str, list[dict[str, Any]]] = {}
    found = []
    for run in reversed(runs):
        try:
            same = seen.setdefault(kind(run), [])
        except (ValueError, TypeError, AttributeError):
            same = []
        found.append(same[1 - MOST :])
        if run["status"] in FINISHED:
            same.append(run)
    return found[::-1]


def _name(path: Path) -> str:
    return path.name


@dataclass(frozen=True)
class Trend:
    """A metric over comparable runs, oldest first, and how it changed since the last one.

    `way` is "better", "worse" or "" where nothing can be said, for instance within noise.
    """

    values: tuple[float, ...]
    change: str = ""
    way: str = ""


def trend(name: str, runs: Sequence[dict[str, Any]]) -> Trend:
    """Return a metric's values over the results of `runs`, and its change from last but one to
    last.
    """
    having = [run for run in runs if is_number(run["metrics"].get(name))]
    values = tuple(run["metrics"][name] for run in having[-MOST:])
    if len(having) < 2 or having[-1] is not runs[-1]:
        return Trend(values)
    earlier, now = having[-2:]
    if metrics.timed(name) and (any(earlier["noise"]) or any(now["noise"])):
        return Trend(values, "not compared: busy machine")
    words = _change(name, *values[-2:])
    if not words:
        return Trend(values, "as last time")
    ends = [_ends(name, run["metrics"]) for run in (earlier, now)]
    if None not in ends:
        if _overlap(*ends, _between(earlier, now) if metrics.timed(name) else 0.0):
            return Trend(values, f"{words} (within noise)")
        more = values[-1] > values[-2]
        better = metrics.METRICS[name].better if name in metrics.METRICS else ""
        way = "" if not better else "better" if more == (better == "more") else "worse"
        return Trend(values, words, way)
    return Trend(values, words)


def machine_of(*runs: Mapping[str, Any]) -> str:
    """Return the kind of machine of runs: "virtual" if one of them was measured on such a one.

    Of results that do not say it, this machine's.
    """
    found = [(run.get("environment") or {}).get("machine") or kind_of_machine() for run in runs]
    return "virtual" if "virtual" in found else "own"


def _between(*runs: dict[str, Any]) -> float:
    """How far logs of times of two runs may be apart without a change: 2 standard deviations."""
    return 2 * BETWEEN_RUNS[machine_of(*runs)]


def _overlap(one: Ends, other: Ends, more: float) -> bool:
    """Whether two intervals have a value in common, each widened on the scale of logarithms.

    `more` is two standard deviations that are added to the half-widths, as variances are.
    """
    if not more or min(*one, *other) <= 0:
        return one[0] <= other[1] and other[0] <= one[1]
    logs = [[math.log(end) for end in ends] for ends in (one, other)]
    halves = [(high - low) / 2 for low, high in logs]
    middles = [(high + low) / 2 for low, high in logs]
    return abs(middles[0] - middles[1]) <= math.hypot(*halves, more)


def _change(name: str, then: float, now: float) -> str:
    """How much more or less a figure is than last time, in words; "" if it reads the same."""
    if metrics.shown(name, then) == metrics.shown(name, now):
        return ""
    more = "more" if now > then else "less"
    if name in metrics.METRICS and metrics.METRICS[name].kind in ("share", "points"):
        return f"{100 * abs(now - then):.1f} points {more} than last time"
    if not then or then * now < 0:
        return f"last time {metrics.shown(name, then)}"
    share = abs(now / then - 1)
    if share >= 1:
        return f"{now / then:.1f} times last time"
    return f"{100 * share:.0f} % {more} than last time" if share >= 0.005 else ""


def _ends(name: str, values: dict[str, Any]) -> Ends | None:
    ends = tuple(values.get(f"{name}_{end}") for end in ("low", "high"))
    return ends if all(map(is_number, ends)) else None


def is_number(value: Any) -> bool:
    """Whether a metric's value is a number that can be drawn."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) < 1e300  # also of whole numbers too large for a float
