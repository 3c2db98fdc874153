"""Many runs over time: which figures changed, by how much, and which change could be seen."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neoxlib.errors import DataError, ParameterError, did_you_mean
from neoxlib.workbook.past_run import Past, is_number, open_run
from neoxlib.workbook.table import Table, figure

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
BARS = "▁▂▃▄▅▆▇█"


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
    if not names:
        hint = did_you_mean(notebook, found) or ";"
        have = ", ".join(sorted(found)) or "none"
        raise ParameterError(f"no run of {notebook!r}{hint} in {root} there are runs of: {have}")
    told = [_history(found[name], last) for name in names]
    return _adjusted([history for history in told if history.runs])


def _history(paths: Iterable[Path], last: int) -> History:
    """Read the runs of a notebook; keep those that can be compared with the newest."""
    left_out: Counter[str] = Counter()
    runs = []
    for past in map(_read, paths):
        status = past.results["status"] if past else "unreadable"
        if status in JUDGED:
            runs.append(past)
        else:
            left_out[status] += 1
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
    return json.dumps([run.identity, asked], sort_keys=True, default=str)


def _trends(runs: Sequence[Past]) -> Iterable[Trend]:
    """Yield the trend of every number that the newest run recorded."""
    for name in runs[-1].results["metrics"]:
        values = [run.results["metrics"].get(name) for run in runs]
        numbers = [float(value) for value in values if _is_number(value)]
        if _is_number(values[-1]):
            yield trend(name, numbers)


def _is_number(value: Any) -> bool:
    return is_number(value)


def trend(metric: str, values: Sequence[float]) -> Trend:
    """Judge the last of `values` by those before it.

    p is read from simulated histories of the same length with one more value, so that it is right
    for few runs, too. If more than half of the values before are equal the MAD is 0: p is then the
    share of values at least as far from the median (of equal ones, 0 for another value).
    """
    past = np.array(values[:-1], dtype=float)
    if len(past) < LEAST:
        median = float(np.median(past)) if len(past) else math.nan
        return Trend(metric, tuple(values), median, *[math.nan] * 4)
    median = float(np.median(past))
    scale = float(scaled_mad(past))
    away = abs(values[-1] - median)
    limits = median - WIDTH * scale, median + WIDTH * scale
    if scale == 0:
        return Trend(metric, tuple(values), median, *limits, _rank_p(past - median, away), 0.0)
    expected = reference(len(past))
    p = _tail(expected.distances, away / scale)
    return Trend(metric, tuple(values), median, *limits, p, expected.shift * scale)


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


def _adjusted(found: list[History]) -> list[History]:
    """Adjust the p-values of all figures of all notebooks together."""
    judged = [trend for history in found for trend in history.trends if not math.isnan(trend.p)]
    q_values = iter(adjust([trend.p for trend in judged]))
    return [
        history._replace(
            trends=[
                trend if math.isnan(trend.p) else Trend(**asdict(trend) | {"q": next(q_values)})
                for trend in history.trends
            ]
        )
        for history in found
    ]


def spark(values: Sequence[float]) -> str:
    """Draw values as bars from the least to the greatest; equal ones as a low line."""
    low = min(values)
    span = max(values) - low or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def text(history: History, metric: str = "") -> str:
    """Return a history as lines: what was compared, a row per figure, and of one a row per run.

    Raises ParameterError if the newest run has no figure of that name.
    """
    newest = history.runs[-1]
    about = ", ".join(f"{name} {value}" for name, value in newest.identity.items() if value)
    left = ", ".join(f"{count} {why}" for why, count in history.left_out.items())
    head = f"{newest.name} and {len(history.runs) - 1} comparable runs before it ({about})"
    lines = [head, f"left out: {left}"] if left else [head]
    if not metric:
        return "\n".join([*lines, repr(_table(history.trends))])
    found = [trend for trend in history.trends if trend.metric == metric]
    if not found:
        names = [trend.metric for trend in history.trends]
        hint = did_you_mean(metric, names) or ";"
        known = ", ".join(names) or "none"
        raise ParameterError(f"{newest.name} has no figure {metric!r}{hint} it has: {known}")
    return "\n".join([*lines, repr(_table(found)), "", repr(_runs(history, found[0]))])


def _table(trends: Sequence[Trend]) -> Table:
    names = ("figure", "median", "low", "high", "newest", "change", "detectable", "q", "verdict")
    return Table((*names, "runs"), [_row(trend) for trend in trends])


def _row(trend: Trend) -> tuple[str, ...]:
    numbers = (trend.median, trend.low, trend.high, trend.newest)
    change = trend.newest - trend.median
    shares = [_share(change, trend.median), _share(trend.detectable, trend.median).lstrip("+")]
    q = "" if math.isnan(trend.q) else f"{trend.q:.2g}"
    shown = ("" if math.isnan(number) else figure(number) for number in numbers)
    return (trend.metric, *shown, *shares, q, trend.verdict, spark(trend.values))


def _share(part: float, whole: float) -> str:
    return "" if math.isnan(part) or not whole else f"{part / abs(whole):+.1%}"


def _runs(history: History, trend: Trend) -> Table:
    """The figure in each run, with what lies outside the control limits."""
    rows = []
    for run in history.runs:
        value = run.results["metrics"].get(trend.metric)
        if _is_number(value):
            outside = value < trend.low or value > trend.high
            rows.append((run.name, run.results["started"], figure(value), "outside" * outside))
    return Table(("run", "started", trend.metric, f"limits ± {WIDTH} scaled MAD"), rows)


def record(history: History) -> dict[str, Any]:
    """Return a history as an object of a JSON document; nan becomes null."""
    trends = [asdict(trend) | {"verdict": trend.verdict} for trend in history.trends]
    clean = [
        {name: None if value != value else value for name, value in row.items()} for row in trends
    ]
    newest = history.runs[-1]
    return {
        "notebook": newest.results["notebook"],
        "identity": newest.identity,
        "runs": [run.folder.name for run in history.runs],
        "left_out": history.left_out,
        "figures": clean,
    }
