"""Many runs over time: which figures changed, by how much, and which change could be seen."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neoxlib.errors import DataError, ParameterError, did_you_mean
from neoxlib.redact import scrub
from neoxlib.workbook import front
from neoxlib.workbook.past_run import Past, is_number, open_run

LEVEL = 0.05  # of false discoveries among the figures that are called changed
POWER = 0.8  # with which a change of the size "detectable" is found at LEVEL
WIDTH = 3  # control limits are the median ± 3 scaled MAD
LEAST = 5  # earlier runs: with fewer a figure is not judged
MOST = 50  # earlier runs that are looked at, unless told otherwise
DRAWS = 20_000  # simulated histories
NORMAL = 1.4826  # times the MAD is the standard deviation of a normal distribution
JUDGED = ("ok", "check-failed", "not-judged")  # of noisy runs the times are not to be trusted
# Parameters without an effect on a run's figures; `Past.identity` has the model's name.
NEUTRAL = {"model_dir", "baseline", "max_slowdown", "compare_with", "shard_dir", "prepare_dir"}


@dataclass(frozen=True)
class Trend:
    """One figure of the newest run against the same figure of comparable runs before it.

    `low` and `high` are the control limits, `p` is the chance of a value as far from the median
    without any change, `q` the same adjusted for the number of figures (Benjamini and Hochberg),
    `detectable` the change that would be found with probability POWER at LEVEL.
    """

    metric: str
    values: tuple[float, ...]  # oldest first; the last is the newest run's
    median: float
    low: float
    high: float
    p: float
    detectable: float
    q: float = math.nan
    part: str = ""  # the subject or case that it is of; the whole run's by default

    @property
    def newest(self) -> float:
        """The newest run's value."""
        return self.values[-1]

    @property
    def verdict(self) -> str:
        """What is known about a change, in a word or two."""
        if len(self.values) <= LEAST:
            return f"not judged: {len(self.values) - 1} earlier runs, {LEAST} are needed"
        if self.q > LEVEL:
            return "no change"
        return "changed"


class History(NamedTuple):
    """The runs of a notebook that are comparable with its newest, oldest first, and their trends.

    `left_out` counts the other runs by the reason.
    """

    runs: list[Past]
    trends: list[Trend]
    left_out: dict[str, int]


def histories(root: Path, notebook: str = "", last: int = MOST) -> list[History]:
    """Return the history of each notebook below `root`, or of the one whose name begins so.

    Raises ParameterError if there is no run of that name.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/*/results.json"), key=lambda path: path.parent.name):
        found.setdefault(path.parent.parent.name, []).append(path)
    names = [name for name in sorted(found) if name.startswith(notebook)]
    if not found:
        raise ParameterError(f"{root} has no runs; name their folder, or run a notebook first")
    if not names:
        hint = did_you_mean(notebook, found) or ";"
        have = ", ".join(sorted(found))
        raise ParameterError(f"no run of {notebook!r}{hint} in {root} there are runs of: {have}")
    told = [_history(found[name], last) for name in names]
    return _together([history for history in told if history.runs])


def until(folder: Path, last: int = MOST) -> History | None:
    """Return the history of a notebook up to the run in `folder`; None if that is not judged."""
    paths = sorted(folder.parent.glob("*/results.json"), key=lambda path: path.parent.name)
    found = _history([path for path in paths if path.parent.name <= folder.name], last)
    if not found.runs or found.runs[-1].folder.name != folder.name:
        return None
    return found._replace(trends=adjusted(found.trends))


def _history(paths: Iterable[Path], last: int) -> History:
    """Read the runs of a notebook; keep those that can be compared with the newest."""
    left_out: Counter[str] = Counter()
    runs = []
    for past in map(_read, paths):
        if past and past.results["status"] in JUDGED:
            runs.append(past)
        else:
            left_out[front.state(past.results)[1] if past else "unreadable"] += 1
    same = [run for run in runs if _key(run) == _key(runs[-1])]
    left_out["other model, machine or parameters"] = len(runs) - len(same)
    left_out["older"] = max(0, len(same) - 1 - last)
    same = same[-1 - last :]
    reasons = {why: count for why, count in left_out.items() if count}
    return History(same, [*_trends(same)] if same else [], reasons)


def _read(path: Path) -> Past | None:
    """Return a run, or None if it cannot be read or is of another form; a pipe would never end."""
    try:
        past = open_run(path) if path.is_file() else None
        return past if past and past.identity else None
    except (DataError, TypeError, AttributeError):
        return None


def _key(run: Past) -> str:
    """Return what must be equal for figures to be comparable, as one text."""
    asked = {n: value for n, value in run.results["parameters"].items() if n not in NEUTRAL}
    return scrub(json.dumps([run.identity, asked], sort_keys=True, default=str))


def _trends(runs: Sequence[Past]) -> Iterable[Trend]:
    """Yield the trend of every number that the newest run recorded."""
    for name in runs[-1].results["metrics"]:
        values = [run.results["metrics"].get(name) for run in runs]
        numbers = [float(value) for value in values if is_number(value)]
        if is_number(values[-1]):
            yield trend(name, numbers)


def trend(metric: str, values: Sequence[float], part: str = "") -> Trend:
    """Judge the last of `values` by those before it.

    p is read from simulated histories of the same length with one more value, so that it is right
    for few runs, too. If more than half of the values before are equal the MAD is 0: p is then the
    share of values at least as far from the median (of equal ones, 0 for another value).
    """
    past = np.array(values[:-1], dtype=float)
    known = Trend(metric, tuple(values), *[math.nan] * 5, part=part)
    if len(past) < LEAST:
        return replace(known, median=float(np.median(past)) if len(past) else math.nan)
    median = float(np.median(past))
    scale = float(scaled_mad(past))
    away = abs(values[-1] - median)
    limits = {"low": median - WIDTH * scale, "high": median + WIDTH * scale}
    known = replace(known, median=median, **limits)
    if scale == 0:
        return replace(known, p=_rank_p(past - median, away), detectable=0.0)
    expected = reference(len(past))
    p = _tail(expected.distances, away / scale)
    return replace(known, p=p, detectable=expected.shift * scale)


def scaled_mad(values: np.ndarray) -> np.ndarray:
    """Median absolute deviation over the last axis, scaled to a standard deviation."""
    centre = np.median(values, axis=-1, keepdims=True)
    return NORMAL * np.median(np.abs(values - centre), axis=-1)


def _rank_p(deviations: np.ndarray, away: float) -> float:
    if not deviations.any():
        return float(away == 0)
    return float((1 + (np.abs(deviations) >= away).sum()) / (1 + len(deviations)))


class Reference(NamedTuple):
    """What chance does to a history of some length.

    `distances` are those of one more value from the median, in scaled MADs, ascending; `shift` is
    the change that is found with probability POWER at LEVEL, in scaled MADs.
    """

    distances: np.ndarray
    shift: float


@cache
def reference(count: int) -> Reference:
    """Simulate DRAWS histories of `count` normal values and one more value each."""
    draws = np.random.default_rng(count).standard_normal((DRAWS, count + 1))
    past = draws[:, :-1]
    scale = scaled_mad(past)
    gap = draws[:, -1] - np.median(past, axis=1)
    distances = np.sort(np.abs(gap) / scale)
    critical = np.quantile(distances, 1 - LEVEL)
    # A shift s is found where gap + s exceeds the critical distance; in scaled MADs of a history.
    shift = np.quantile(critical * scale - gap, POWER) / scale.mean()
    return Reference(distances, float(shift))


def _tail(distances: np.ndarray, value: float) -> float:
    """Return the share of simulated distances of at least `value`; never 0."""
    beyond = len(distances) - int(np.searchsorted(distances, value, side="left"))
    return (1 + beyond) / (1 + len(distances))


def adjust(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, after Benjamini and Hochberg (1995)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[::-1]
    share = len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(np.minimum(1, p[order] * share))
    return adjusted.tolist()


def adjusted(trends: Sequence[Trend]) -> list[Trend]:
    """Return trends with q: p adjusted for the number of those that are judged."""
    q_values = iter(adjust([trend.p for trend in trends if not math.isnan(trend.p)]))
    return [t if math.isnan(t.p) else replace(t, q=next(q_values)) for t in trends]


def _together(found: list[History]) -> list[History]:
    """Adjust the p-values of all figures of all notebooks together."""
    every = iter(adjusted([trend for history in found for trend in history.trends]))
    return [one._replace(trends=list(islice(every, len(one.trends)))) for one in found]
