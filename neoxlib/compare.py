"""Two runs side by side: parameters, speed, accuracy and environment."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib import exam, history
from neoxlib.errors import DataError
from neoxlib.history import section
from neoxlib.machine.environment import BETWEEN_RUNS
from neoxlib.speed import figures as speed_figures
from neoxlib.speed.baseline import compare_times, lacking
from neoxlib.speed.tables import ratios
from neoxlib.workbook import metrics
from neoxlib.workbook.past_run import Past, machine_of, open_run
from neoxlib.workbook.run import shown
from neoxlib.workbook.table import NotAsked, Note, Table

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

EMPTY = {"": "empty", "[]": "empty"}
NOTHING = "There are no two finished runs of one notebook yet: nothing to compare."


@dataclass(frozen=True)
class Pair:
    """Two runs side by side."""

    a: Past
    b: Past

    @property
    def names(self) -> Table:
        """The identity of each run."""
        runs = [run.results | run.identity | {"run": run.name} for run in (self.a, self.b)]
        names = ("run", "status", "started", "seconds", "model", "chip", "dtype", "quant", "ranks")
        return Table(("", "a", "b"), [(name, *(run.get(name) for run in runs)) for name in names])

    @property
    def parameters(self) -> Table | Note:
        """Parameters that differ."""
        return self._differing("parameters", Note("The two runs have the same parameters."))

    @property
    def environment(self) -> Table | Note:
        """Differences in host, versions, variables, and in what was loaded."""
        a, b = (
            {**flat(run.results.get("environment")), **flat(run.results.get("model"))}
            for run in (self.a, self.b)
        )
        return _differing(a, b) if a != b else Note("The two runs ran in the same environment.")

    @property
    def metrics(self) -> pd.DataFrame:
        """Figures that both runs have: a, b, b ÷ a."""
        a, b = (run.results.get("metrics") or {} for run in (self.a, self.b))
        rows = [(name, a[name], b[name], _quotient(a[name], b[name])) for name in a if name in b]
        return pd.DataFrame(rows, columns=["figure", "a", "b", "b ÷ a"])

    @property
    def machine(self) -> str:
        """The kind of machine that both ran on, which says how much two runs differ."""
        return machine_of(self.a.results, self.b.results)

    @cached_property
    def speed(self) -> pd.DataFrame | Note:
        """Cases that both runs timed, b against a."""
        try:
            tables = [run.table("latency") for run in (self.a, self.b)]
        except DataError as error:
            return Note(f"No speed to compare: {error}")
        if any(table is None for table in tables):
            return NotAsked("At least one of the two has no timed cases: no speed to compare.")
        named = zip((self.a.name, self.b.name), tables, strict=True)
        problems = [f"{name}: {problem}" for name, table in named for problem in lacking(table, ())]
        if problems:
            return Note(f"No speed to compare: {'; '.join(problems)}")
        found = compare_times(*tables, self.machine)
        return found if len(found) else Note("The two runs have no case in common.")

    @property
    def answers(self) -> pd.Series | Note:
        """McNemar's test over the questions of both runs, or the reason why there is none."""
        paths = [run.folder / "questions.csv" for run in (self.a, self.b)]
        if not all(path.is_file() for path in paths):
            return NotAsked("At least one of the two has no questions: no accuracy to compare.")
        try:
            return exam.mcnemar(*map(exam.read_questions, paths)).iloc[0]
        except DataError as error:
            return Note(f"The answers cannot be paired: {error}")

    @property
    def accuracy(self) -> Table | Note:
        """The test as a table for reading; a note stays a note."""
        row = self.answers
        if isinstance(row, Note):
            return row
        difference = (
            f"{row['difference']:+.1%}, 95 % interval {row['low']:+.1%} to {row['high']:+.1%}"
        )
        names = ("only_a", "only_b", "both_right", "questions", "asked_a", "asked_b")
        counts = {name: f"{row[name]:.0f}" for name in names}
        return Table(
            ("on the same questions", "a", "b"),
            [
                ("accuracy", f"{row['accuracy_a']:.1%}", f"{row['accuracy_b']:.1%}"),
                ("right alone", counts["only_a"], counts["only_b"]),
                ("right both", *[counts["both_right"]] * 2),
                ("questions that both were asked", *[counts["questions"]] * 2),
                ("questions of the run", counts["asked_a"], counts["asked_b"]),
                ("b less a", "", difference),
                ("p (McNemar, exact)", "", f"{row['p_value']:.3g}"),
            ],
        )

    @cached_property
    def past(self) -> history.History | Note:
        """Run b and the comparable runs before it, or the reason why there are none."""
        found = history.until(self.b.folder)
        if found is None:
            return Note("Run b was noisy or did not end: it is not held against earlier runs.")
        return found if len(found.runs) > 1 else NotAsked("No comparable run came before run b.")

    @property
    def key_figures(self) -> dict[str, float | int]:
        """The figures of the comparison, for this notebook's own results."""
        found: dict[str, float | int] = {}
        if isinstance(self.speed, pd.DataFrame):
            later = self.speed[self.speed["token"] == "next token"]["ratio"]
            found |= {} if later.empty else {"speed_ratio": later.median()}
            verdicts = self.speed["verdict"]
            found |= {f"cases_{way}": int((verdicts == way).sum()) for way in ("faster", "slower")}
        answers = self.answers
        if not isinstance(answers, Note):
            names = {"": "difference", "_low": "low", "_high": "high"}
            found |= {f"accuracy_gain{end}": answers[name] for end, name in names.items()}
        return found

    @property
    def answer(self) -> str:
        """Which of the two is better, in a few sentences."""
        past = section.answer(self.past)
        unsure = f"Which is faster cannot be said: {self.noisy}."
        speed = unsure if self.noisy else _faster(self.speed, self.machine)
        said = " ".join(filter(None, [speed, _righter(self.answers), past]))
        what = [
            name
            for name, view in (("parameters", self.parameters), ("environment", self.environment))
            if isinstance(view, Table)
        ]
        differ = f"They differ in {' and '.join(what)}." if what else "Nothing else differs."
        names = f"Run a is {self.a.name}, run b is {self.b.name}."
        said = said or "The two runs have no times and no answers in common."
        return f"{said} {differ} {names}"

    @property
    def noisy(self) -> str:
        """Which of the runs were noisy, if times are compared; "" if none was."""
        noisy = [name for name, run in (("a", self.a), ("b", self.b)) if any(run.results["noise"])]
        if not noisy or isinstance(self.speed, Note):
            return ""
        return "both runs were noisy" if len(noisy) == 2 else f"run {noisy[0]} was noisy"

    def _differing(self, part: str, otherwise: Note) -> Table | Note:
        a, b = (flat(run.results.get(part)) for run in (self.a, self.b))
        return _differing(a, b) if a != b else otherwise


def _faster(speed: pd.DataFrame | Note, machine: str) -> str:
    """Which run is faster, by the cases whose intervals say so; "" without common cases."""
    if isinstance(speed, Note):
        return ""
    counts = speed["verdict"].value_counts()
    faster, slower = (int(counts.get(way, 0)) for way in ("faster", "slower"))
    of = f"of {len(speed)} times"
    if faster and not slower:
        return f"Run b is faster: {faster} {of} by more than noise, none slower."
    if slower and not faster:
        return f"Run a is faster: b is slower in {slower} {of} by more than noise, faster in none."
    if faster:
        both = f"{faster} are faster in b and {slower} slower, by more than noise"
        return f"Neither is faster throughout: {of} {both}."
    if counts.get("no interval", 0) == len(speed):
        return "Which is faster cannot be said: too few repeats for an interval."
    if machine == "virtual":
        factor = f"{math.exp(2 * BETWEEN_RUNS[machine]):.1f}"
        return (
            f"Neither is shown to be faster: none {of} differs by more than two runs of a virtual "
            f"machine may without a change ({factor} times)."
        )
    return f"Neither is shown to be faster: none {of} differs by more than noise."


def _righter(row: pd.Series | Note, limit: float = 0.05) -> str:
    """Which run is right more often, if McNemar's test says so; "" without common questions."""
    if isinstance(row, Note):
        return ""
    share = metrics.shown("accuracy_gain", row["difference"])
    if not row["p_value"] < limit:
        return f"Neither is shown to be right more often (b less a: {share})."
    return f"Run {'b' if row['difference'] > 0 else 'a'} is right more often (b less a: {share})."


def two_runs(run: "Run") -> Pair:
    """Return the runs that `run`'s parameters name, by default the last two of one notebook.

    If fewer than two runs exist, end this notebook without failing. Raises DataError if only one is
    named, or if one is not a run.
    """
    named = [run.params.run_a, run.params.run_b]
    if all(named):
        return Pair(*map(open_run, named))
    if any(named):
        found = f"run_a is {named[0]!r} and run_b is {named[1]!r}"
        raise DataError(f"{found}: name both, or none for the last two runs")
    return latest(run.folder.parent.parent) or run.stop(NOTHING)


def latest(root: Path) -> Pair | None:
    """Return the last two finished runs below `root` of the notebook that ran last, or None.

    Folders whose results cannot be read are printed and left out.
    """
    folders = filter(Path.is_dir, root.glob("[0-9]*/*"))
    folders = sorted(folders, key=lambda folder: folder.name)
    runs: dict[str, list[Past]] = {}
    for past in _readable(folders):
        notebook = past.results["notebook"]
        finished = past.results.get("status") in ("ok", "noisy", "not-judged", "check-failed")
        if finished and not notebook.startswith("05"):
            runs.setdefault(notebook, []).append(past)
    pairs = [Pair(*found[-2:]) for found in runs.values() if len(found) > 1]
    return max(pairs, key=lambda pair: pair.b.folder.name, default=None)


def _readable(folders: list[Path]) -> list[Past]:
    found = []
    for folder in folders:
        try:
            found.append(open_run(folder))
        except DataError as error:
            print(f"Left out: {error}")
    return found


def flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested values into one table of texts; an empty one reads "empty"."""
    rows: dict[str, str] = {}
    for name, value in (values or {}).items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{name} ")
        else:
            rows[f"{prefix}{name}"] = EMPTY.get(str(value)) or shown(value)
    return rows


def _differing(a: dict[str, str], b: dict[str, str]) -> Table:
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return Table(
        ("what", "a", "b"),
        [(name, a.get(name, "not there"), b.get(name, "not there")) for name in names],
    )


def _quotient(a: Any, b: Any) -> float | None:
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in (a, b)
    )
    return b / a if numbers and a else None


def two_speeds(run: "Run", pair: Pair) -> Table | Note:
    """Draw the speed of two runs and return its table, or a sentence if there is none.

    Times of a noisy run make `run` a noisy one.
    """
    if pair.noisy:
        run.noisy(f"of the runs that are compared, {pair.noisy}")
    if isinstance(pair.speed, pd.DataFrame):
        run.figure("speed", speed_figures.ratios(run.save("speed", pair.speed), ("a", "b")))
    return ratios(pair.speed, "a", "b")


def figures(pair: Pair) -> Table:
    """Return the key figures that both runs recorded."""
    rows = [
        (
            metrics.label(row["figure"]),
            *(metrics.shown(row["figure"], row[run]) for run in ("a", "b")),
            "–" if pd.isna(row["b ÷ a"]) else f"{row['b ÷ a']:.3g}",
        )
        for row in pair.metrics.to_dict("records")
        if not metrics.is_interval(row["figure"], pair.a.results["metrics"])
    ]
    return Table(("figure", "a", "b", "b ÷ a"), rows)
