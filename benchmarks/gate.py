"""How often the gate is wrong: `make gate-table`, over simulated noise and noise recorded here.

A comparison is simulated many times without a difference, and with a slowdown of 5 % planted in
the times of every case, or of one case. Recorded noise is that of tests/fixtures/noise: takes one
after the other (benchmarks/noise.py), whose neighbouring processes are then the two sides, and
whole rounds of a commit against itself (neoxlib/speed/rounds.py), drawn anew.
The table goes to outputs/bench/gate.md; `make bench-docs` puts it into docs/performance.md.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from neoxlib.speed import gate, noise
from neoxlib.speed.rounds import logs_of
from neoxlib.speed.statistics import MIN_REPEATS, interval

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "fixtures" / "noise"
RESULT = ROOT / "outputs" / "bench" / "gate.md"
CASES = 6
ROUNDS = (9, 12, 16, 24)
SLOWDOWNS = (0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
ALLOWED = (0.0, 0.05, 0.1)  # max_slowdown of two runs
TRIES = 2000  # of a comparison without a difference; POWER_TRIES with one
POWER_TRIES = 300
OWN = 0.01  # standard deviation of the log of a time between processes of the same commit
RUNS = 0.02  # between runs; gate.BETWEEN_RUNS allows for more
Draw = Callable[[np.random.Generator, int], np.ndarray]  # logs of so many takes, one by one


def steady(rng: np.random.Generator, takes: int) -> np.ndarray:
    """Normal noise of 3 %."""
    return rng.normal(0, 0.03, takes)


def heavy(rng: np.random.Generator, takes: int) -> np.ndarray:
    """Delays whose variance is infinite: Student's t with 2 degrees of freedom, upwards only."""
    return 0.02 * np.abs(rng.standard_t(2, takes))


def bursts(rng: np.random.Generator, takes: int) -> np.ndarray:
    """Normal noise of 2 %, and another program, half as slow again, for 8 takes on average."""
    busy = np.zeros(takes, bool)
    for take in range(1, takes):
        busy[take] = rng.random() < (7 / 8 if busy[take - 1] else 1 / 40)
    return rng.normal(0, 0.02, takes) + math.log(1.5) * busy


def drift(rng: np.random.Generator, takes: int) -> np.ndarray:
    """Normal noise of 2 % on a machine that gets up to 30 % slower, or faster, meanwhile."""
    whole = rng.uniform(-0.3, 0.3) * np.linspace(0, 1, takes)
    return rng.normal(0, 0.02, takes) + whole


SIMULATED: dict[str, Draw] = {
    "normal, 3 %": steady,
    "heavy tail (t, 2)": heavy,
    "bursts of + 50 %": bursts,
    "drift up to 30 %": drift,
}


class Shares(NamedTuple):
    """Of many comparisons: the share that fails, and that cannot be judged."""

    failed: float
    unsure: float


def turns_simulated(draw: Draw, rounds: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Logs of the ratios of a comparison in turns, [rounds, CASES], under simulated noise."""

    def logs(rng: np.random.Generator) -> np.ndarray:
        takes = draw(rng, rounds * CASES * 4).reshape(rounds, CASES, 4)
        first = rng.permutation(np.arange(rounds) % 2)[:, None]
        outer, inner = takes[..., [0, 3]].mean(-1), takes[..., [1, 2]].mean(-1)
        own = rng.normal(0, OWN * math.sqrt(2), (rounds, 1))  # of that round's two processes
        return np.where(first == 0, inner - outer, outer - inner) + own

    return logs


def turns_recorded(table: pd.DataFrame, rounds: int) -> Callable[[np.random.Generator], np.ndarray]:
    """The same of recorded takes: a round is two neighbouring processes, in drawn order.

    Columns are CASES pieces of the time that both processes lived, each of two takes a side.
    """
    names = ["first_token_ms", "next_token_ms"]
    blocks = [np.log(block[names].to_numpy()) for _, block in table.groupby("process")]
    length = min(len(block) for block in blocks)
    pieces = length // 2
    series = np.stack([block[: 2 * pieces].reshape(pieces, 2, 2).mean(1) for block in blocks])

    def logs(rng: np.random.Generator) -> np.ndarray:
        process = rng.integers(0, len(series) - 1, rounds)
        chosen = rng.permuted(np.tile(np.arange(pieces), (rounds, 1)), axis=1)[:, : CASES // 2]
        here, there = (series[process + side][np.arange(rounds)[:, None], chosen]
                       for side in (0, 1))  # fmt: skip
        swap = rng.permutation(np.arange(rounds) % 2)[:, None, None]
        return (np.where(swap == 0, 1, -1) * (there - here)).reshape(rounds, -1)

    return logs


def turns_again(table: pd.DataFrame, rounds: int) -> Callable[[np.random.Generator], np.ndarray]:
    """The same of recorded rounds of one commit against itself, drawn anew, in drawn order."""
    recorded = logs_of(table).to_numpy()  # [rounds, columns]

    def logs(rng: np.random.Generator) -> np.ndarray:
        swap = rng.permutation(np.arange(rounds) % 2)[:, None]
        return np.where(swap == 0, 1, -1) * recorded[rng.integers(0, len(recorded), rounds)]

    return logs


def judge_turns(logs: np.ndarray) -> bool | None:
    """The verdict of a comparison in turns: failed, None for unsure."""
    found = gate.in_turns(logs, 0.0)
    if found.all_slower or any(found.slower):
        return True
    return False if found.detectable <= 0.05 else None


def two_runs(draw: Draw) -> Callable[[np.random.Generator], np.ndarray]:
    """Logs of the repeats of two runs, [2, CASES + 1, repeats], under simulated noise.

    The last is the first case once more. Cases that another program disturbed for more than a
    tenth of their time are NaN: that load is seen.
    """

    def logs(rng: np.random.Generator) -> np.ndarray:
        takes = [draw(rng, (CASES + 1) * 2 * MIN_REPEATS).reshape(CASES + 1, -1) for _ in range(2)]
        found = np.stack(takes)
        if draw is bursts:
            found[(found > math.log(1.25)).mean(-1) > noise.LIMITS["others"].value] = np.nan
        return found + rng.normal(0, RUNS, (2, 1, 1))

    return logs


def two_recorded(table: pd.DataFrame) -> Callable[[np.random.Generator], np.ndarray]:
    """The same of recorded takes: a run is the takes of one process."""
    names = ["first_token_ms", "next_token_ms"]
    blocks = [np.log(block[names].to_numpy()).T for _, block in table.groupby("process")]
    repeats = min(block.shape[1] for block in blocks) // (CASES // 2)

    def logs(rng: np.random.Generator) -> np.ndarray:
        chosen = rng.choice(len(blocks), 2, replace=False)
        cut = [blocks[place][:, : repeats * (CASES // 2)].reshape(CASES, repeats)
               for place in chosen]  # fmt: skip
        return np.stack([np.vstack([run, run[:1]]) for run in cut])

    return logs


def judge_runs(logs: np.ndarray, allowed: float, machine: str = "own") -> bool | None:
    """The verdict of a comparison of two runs, which leaves out cases with wide intervals."""
    found = []
    drifts = np.nan_to_num(np.expm1(np.median(logs[:, -1], 1) - np.median(logs[:, 0], 1)))
    for now, before in zip(*np.exp(logs[:, :-1]), strict=True):
        if np.isnan(now).any() or np.isnan(before).any():
            continue
        ends = [interval(list(values)) for values in (now, before)]
        middles = [float(np.median(values)) for values in (now, before)]
        widths = [(high - low) / middle for (low, high), middle in zip(ends, middles, strict=True)]
        if max(widths) <= noise.LIMITS["width"].value:
            counts = len(now), len(before)
            found.append(gate.Compared.of(middles, ends, counts, drifts, machine))
    slower = [p <= gate.ALPHA for p in gate.holm([one.p_slower(allowed) for one in found])]
    if any(slower):
        return True
    return False if 2 * len(found) >= CASES else None


def shares(verdicts: Iterable[bool | None]) -> Shares:
    """Count verdicts."""
    found = list(verdicts)
    return Shares(sum(one is True for one in found) / len(found),
                  sum(one is None for one in found) / len(found))  # fmt: skip


def planted(logs: np.ndarray, slowdown: float, one: bool = False) -> np.ndarray:
    """The same logs with a slowdown of this side, in all cases or in the first one."""
    more = logs.copy()
    places = [0, -1] if one and more.ndim == 3 else [0] if one else slice(None)
    side = more if more.ndim == 2 else more[0].T  # [takes, columns]
    side[:, places] += math.log1p(slowdown)
    return more


def worlds() -> dict[str, tuple[Draw | None, pd.DataFrame | None]]:
    """Every noise by name: how it is drawn, or what was recorded."""
    found: dict[str, tuple[Draw | None, pd.DataFrame | None]] = {
        f"simulated: {name}": (draw, None) for name, draw in SIMULATED.items()
    }
    for path in sorted(RECORDED.glob("*.csv")):
        found[f"recorded: takes, {path.stem}"] = None, pd.read_csv(path)
    return found


def recorded_rounds() -> dict[str, pd.DataFrame]:
    """The rounds of a commit against itself that were recorded, by name."""
    paths = sorted(RECORDED.glob("turns/*.csv"))
    return {f"recorded: rounds, {path.stem}": pd.read_csv(path) for path in paths}


Make = Callable[[np.random.Generator], np.ndarray]
Judge = Callable[[np.ndarray], bool | None]


def found(make: Make, judge: Judge, slowdown: float, one: bool = False) -> float:
    """The share of comparisons that find a slowdown."""
    rng = np.random.default_rng(1)
    logs = (planted(make(rng), slowdown, one) for _ in range(POWER_TRIES))
    return shares(map(judge, logs)).failed


def is_found(make: Make, judge: Judge, slowdown: float) -> bool:
    """Whether a slowdown is found with gate.POWER; stops when it is clear that it is not."""
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(POWER_TRIES):
        misses += judge(planted(make(rng), slowdown)) is not True
        if misses > (1 - gate.POWER) * POWER_TRIES:
            return False
    return True


def row(make: Make, judge: Judge) -> list[str]:
    """False alarms, not judged, a slowdown of 5 % found in all and in one case, smallest found."""
    rng = np.random.default_rng(0)
    nothing = shares(judge(make(rng)) for _ in range(TRIES))
    every, one = (found(make, judge, 0.05, one=alone) for alone in (False, True))
    least = next((f"{s:.0%}" for s in SLOWDOWNS if is_found(make, judge, s)), "none")
    return [f"{nothing.failed:.2%}", f"{nothing.unsure:.0%}", f"{every:.0%}", f"{one:.0%}",
            least]  # fmt: skip


def turns_rows() -> list[list[str]]:
    """A row for each noise and number of rounds, in turns."""
    kinds = {
        name: partial(turns_simulated, draw) if draw else partial(turns_recorded, table)
        for name, (draw, table) in worlds().items()
    }
    kinds |= {name: partial(turns_again, table) for name, table in recorded_rounds().items()}
    rows = []
    for name, kind in kinds.items():
        for rounds in ROUNDS:
            rows.append([name, str(rounds), *row(kind(rounds), judge_turns)])
            print(rows[-1], flush=True)
    return rows


def runs_rows() -> list[list[str]]:
    """A row for each noise and allowed slowdown, two runs one after the other."""
    rows = []
    for name, (draw, table) in worlds().items():
        for allowed in ALLOWED:
            make = two_runs(draw) if draw else two_recorded(table)
            machine = "own" if draw else "virtual"
            judge = partial(judge_runs, allowed=allowed, machine=machine)
            rows.append([name, f"{allowed:.0%}", *row(make, judge)])
            print(rows[-1], flush=True)
    return rows


WHAT = ("false alarms", "cannot be judged", "5 % in all found", "5 % in one found",
        "found in 95 of 100 from")  # fmt: skip


def markdown(heads: Sequence[str], rows: list[list[str]]) -> str:
    """A table of pipes."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Write the two tables."""
    turns = markdown(("noise, in turns", "rounds", *WHAT), turns_rows())
    runs = markdown(("noise, two runs", "max_slowdown", *WHAT), runs_rows())
    said = (
        f"{CASES} times are compared. Without a difference {TRIES:,} comparisons each, with one "
        f"{POWER_TRIES}. In turns max_slowdown is 0. A comparison that cannot be judged is one "
        "that is no false alarm and could not have found 5 % (in turns), or of which less than "
        "half of the times have narrow intervals (two runs). Recorded noise is that of a virtual "
        "machine, and two of its runs are compared as such."
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(f"{said}\n\n{turns}\n{runs}", encoding="utf-8")


if __name__ == "__main__":
    main()
