"""This commit and another, timed in turns: each round starts a process of either, anew.

Within a round each case is timed as A B B A or B A A B, which cancels a steady drift; which it is,
is drawn for each round. `gate.in_turns` judges the ratios.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neoxlib.checkpoint.folder import may_be_one
from neoxlib.errors import DataError, SettingsError
from neoxlib.inference.timing import Case
from neoxlib.process import PACKAGE
from neoxlib.speed import gate
from neoxlib.speed.baseline import TOKENS, case_name
from neoxlib.speed.cells import number_table
from neoxlib.speed.measure import KEY
from neoxlib.speed.statistics import MIN_REPEATS, interval
from neoxlib.speed.watch import LoadWatch
from neoxlib.workbook.progress import Progress
from neoxlib.workbook.table import Note, Table

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

SIDES = ("baseline", "this commit")
REPEATS = 3  # of a case in one turn, at least; a case has two turns a side in a round
SURE = 0.05  # a slowdown that a comparison must be able to find to say that there is none
GRACE = 20  # seconds for a process to end by itself
SAME = ("fingerprint", "dtype", "quant", "device", "world_size", "threads", "max_seq_len")
LOADED = (
    *("model_dir", "world_size", "dtype", "device", "quant", "max_seq_len"),
    *("cluster_profile", "deterministic", "graph"),
)
FIND = "import neoxlib; print(neoxlib.__file__)"
# What either side runs. It knows of neoxlib what both commits have, and nothing of this file.
SERVE = """\
import inspect, json, sys
from statistics import median
answers, sys.stdout = sys.stdout, sys.stderr
def answer(**found):
    print(json.dumps(found, default=str), file=answers, flush=True)
try:
    import neoxlib
    from neoxlib.inference.timing import Case
    from neoxlib.machine.environment import describe
    asked = json.loads(sys.stdin.readline())
    known = inspect.signature(neoxlib.Session.__init__).parameters
    lost = [name for name, value in asked.items() if name not in known and value != "auto"]
    asked = {name: value for name, value in asked.items() if name in known}
    if lost:
        raise TypeError(f"neoxlib.Session of that commit takes no {', '.join(lost)}")
    with neoxlib.Session(**asked) as session:
        answer(about=session.describe(), git=describe("cpu")["git"])
        for line in sys.stdin:
            runs = session.profile(Case(**json.loads(line)))
            steps = [run["step"] for run in runs]
            later = [median(run[1:]) for run in steps if run[1:]]
            answer(first_token_ms=median(run[0] for run in steps),
                   next_token_ms=median(later) if later else None)
except Exception as error:
    answer(failed=f"{type(error).__name__}: {error}")
"""


class Side:
    """A process that loads the model by one commit, and times cases."""

    def __init__(self, python: str, own: bool, log: Path) -> None:
        self.python = python
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [python, "-P", "-c", SERVE],
                env=_environment(own),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.log = log
        self.about: dict[str, Any] = {}  # the answer to the first request, which names the model

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the answer. Raises DataError for its error or its end."""
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{json.dumps(request)}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"failed": f"it ended; see {self.log}"}
        if "failed" in answer:
            raise DataError(f"the neoxlib of {self.python} times no cases: {answer['failed']}")
        return answer

    def close(self) -> None:
        """End the process and its ranks."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def _environment(own: bool) -> dict[str, str]:
    """The variables of a side; this commit's package is found first by it, and not by the other."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    places = [str(PACKAGE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment | ({"PYTHONPATH": os.pathsep.join(places)} if own else {})


def refuse(python: str | None) -> None:
    """Raise SettingsError unless `python`, if given, is a Python with another neoxlib."""
    if not python:
        return
    try:
        found = subprocess.run(
            [python, "-P", "-c", FIND],
            env=_environment(own=False),
            capture_output=True,
            text=True,
            timeout=300,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"baseline_python {python} cannot be run: {error}") from error
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no word why"])[-1]
        raise SettingsError(
            f"baseline_python {python} has no neoxlib ({last}); give the Python of an environment "
            "in which the commit to compare with is installed"
        )


HEADS = {
    "case": "case",
    "token": "token",
    "ratio": "this commit ÷ other",
    "interval": "its 95 % interval",
    "p_slower": "p of no such slowdown",
    "slower": "slower",
}


def against_commit(run: "Run", cases: Sequence[Case]) -> Table | Note:
    """Time `cases` by this Python and by `baseline_python` in turns, and check the slowdown.

    The parameters of `run` are those of the model and baseline_python, rounds, max_slowdown and
    seed. Every take is kept in `rounds.csv` as it comes, the ratios in `turns.csv`. Returns the
    ratios, or a note if there is no baseline_python.
    Raises DataError if the two do not run the same model in the same way.
    """
    p = run.params
    if not p.baseline_python:
        return Note("No other commit to compare with in turns: the parameter is baseline_python.")
    takes = time_rounds(run, cases)
    found, turns = ratios(takes, p.max_slowdown, p.seed)
    run.save("turns", found)
    passed, detail = verdict(found, turns, p.rounds, p.max_slowdown)
    name = f"no case slower than the other commit's by more than {p.max_slowdown:.0%}, in turns"
    run.check(name, passed, detail)
    ends = zip(found["ratio_low"], found["ratio_high"], strict=True)
    told = ["–" if pd.isna(low) else f"{low:.3f} to {high:.3f}" for low, high in ends]
    names = [case_name(row) for row in found.to_dict("records")]
    return number_table(found.assign(case=names, interval=told), HEADS)


def time_rounds(run: "Run", cases: Sequence[Case]) -> pd.DataFrame:
    """Time all rounds: a row per take, with its round, side, times and other load."""
    p = run.params
    draws = random.Random(p.seed)
    firsts = draws.sample([round_ % 2 for round_ in range(p.rounds)], p.rounds)
    takes: list[dict[str, Any]] = []
    with Progress(p.rounds * len(cases), p.rounds * len(cases), "turns") as progress:
        for number, first in enumerate(firsts):
            with ExitStack() as stack:
                sides = _start(run, first, stack)
                for case in cases:
                    progress.begin(f"round {number + 1}, {case}", 1)
                    takes += _turns(sides, case, (first, 1 - first, 1 - first, first), number)
                    run.save("rounds", pd.DataFrame(takes))
                    progress.done()
    return pd.DataFrame(takes)


def _start(run: "Run", first: int, stack: ExitStack) -> list[Side]:
    """Start both sides, `first` before the other, and return them in the order of SIDES.

    Raises DataError if they differ in what they run.
    """
    values = {name: getattr(run.params, name) for name in LOADED}
    asked = {name: value for name, value in values.items() if value not in (None, False)}
    sides = {}
    for place in (first, 1 - first):
        python = sys.executable if place else run.params.baseline_python
        log = run.logs / f"{SIDES[place].replace(' ', '-')}.log"
        sides[place] = Side(python, bool(place), log)
        stack.callback(sides[place].close)
        sides[place].about = sides[place].ask(asked)
    there, here = (sides[place].about["about"] for place in (0, 1))
    different = [name for name in SAME if there.get(name) != here.get(name)]
    if may_be_one(there.get("fingerprint"), here.get("fingerprint")):  # two commits' own forms
        different = [name for name in different if name != "fingerprint"]
    if different:
        said = (f"{name}: {there.get(name)} there, {here.get(name)} here" for name in different)
        raise DataError("the two commits do not run the same:\n  " + "\n  ".join(said))
    return [sides[0], sides[1]]


def _turns(
    sides: Sequence[Side], case: Case, order: Sequence[int], number: int
) -> list[dict[str, Any]]:
    """Time a case by the sides in this order."""
    short = replace(case, repeats=REPEATS, min_seconds=case.min_seconds / 2, end_to_end_every=0)
    takes = []
    for side in order:
        with LoadWatch(one.process.pid for one in sides) as watch:
            times = sides[side].ask(asdict(short))
        about = {"round": number, "side": SIDES[side], "git": sides[side].about["git"]}
        takes.append(about | {key: getattr(case, key) for key in KEY} | times | watch.row())
    return takes


def ratios(takes: pd.DataFrame, allowed: float, seed: int = 0) -> tuple[pd.DataFrame, gate.Turns]:
    """The ratios this commit ÷ baseline: a row per case and token, and the gate's judgement.

    Each with the median over the rounds, its 95 % interval and the adjusted p-value of being
    slower by more than `allowed`.
    """
    logs = logs_of(takes)
    turns = gate.in_turns(logs.to_numpy(), allowed, seed)
    names = {name: token for token, name in TOKENS.items()}
    rows = [
        dict(zip(KEY, column, strict=False)) | {"token": names[column[-1]]} | _ratio(logs[column])
        for column in logs.columns
    ]
    table = pd.DataFrame(rows).assign(p_slower=turns.p_values, slower=turns.slower)
    return table, turns


def logs_of(takes: pd.DataFrame) -> pd.DataFrame:
    """Logs of the ratios of each round, [rounds, cases and tokens]."""
    long = takes.melt([*KEY, "round", "side"], list(TOKENS.values()), "token", "ms").dropna()
    long["log"] = np.log(long["ms"].astype(float))
    means = long.pivot_table("log", "round", [*KEY, "token", "side"])  # over a side's two turns
    baseline, own = (means.xs(side, axis=1, level="side") for side in SIDES)
    return (own - baseline).dropna(axis=1)


def _ratio(logs: pd.Series) -> dict[str, float]:
    low, high = interval(logs.tolist()) if len(logs) >= MIN_REPEATS else (math.nan, math.nan)
    names = ("ratio", "ratio_low", "ratio_high")
    return dict(zip(names, np.exp([logs.median(), low, high]).tolist(), strict=True))


def verdict(
    found: pd.DataFrame, turns: gate.Turns, rounds: int, allowed: float
) -> tuple[bool | None, str]:
    """Whether there is no slowdown, None if that cannot be said, and the figures."""
    every = float(found["ratio"].median())
    slow = [
        f"{case_name(row)}: {row['token']} {row['ratio']:.3f} times"
        for row in found[found["slower"]].to_dict("records")
    ]
    if turns.all_slower:
        slow = [f"all cases together {every:.3f} times", *slow]
    if slow:
        return False, "; ".join(slow)
    if rounds < gate.LEAST_ROUNDS:
        return None, f"{rounds} rounds tell nothing: raise rounds to {gate.LEAST_ROUNDS} or more"
    said = f"{every:.3f} times over all, {rounds} rounds; {turns.detectable:.1%} would be found"
    sure = turns.detectable <= max(allowed, 0) + SURE
    return (True, said) if sure else (None, f"{said}: too uncertain, raise rounds or lower load")
