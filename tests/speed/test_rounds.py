"""Two commits in turns: made-up packages whose times are known, run by real processes."""

import stat
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from neoxlib.errors import DataError, SettingsError
from neoxlib.inference.timing import Case
from neoxlib.speed import gate, rounds

CASES = [Case(1, 8, 4), Case(1, 8, 1)]
SESSION = """
    import itertools
    class Session:
        def __init__(self, model_dir, world_size=2, dtype="auto", device="auto", {more}):
            print("loading", model_dir)
            self.times = itertools.count()
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def describe(self): return {{"fingerprint": "f", "dtype": "float32", {about}}}
        def profile(self, case):
            {fails}
            now = {factor} * (1 + 0.001 * next(self.times))
            return [{{"step": [10.0 * now] + [now] * (case.output_len - 1)}}] * case.repeats
"""
TIMING = """
    from dataclasses import dataclass
    @dataclass
    class Case:
        batch_size: int; input_len: int; output_len: int; depth: int; repeats: int
        min_seconds: float; warmup: int; end_to_end_every: int
"""


def package(
    folder: Path,
    factor: float = 1,
    about: str = "",
    more: str = "graph='auto'",
    fails: str = "pass",
) -> Path:
    """A neoxlib whose steps take `factor` ms, a little more each time."""
    files = {
        "__init__": SESSION.format(factor=factor, about=about, more=more, fails=fails),
        "inference/__init__": "",
        "inference/timing": TIMING,
        "machine/__init__": "",
        "machine/environment": "def describe(device): return {'git': 'abc'}",
    }
    for name, text in files.items():
        path = folder / "neoxlib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder / "neoxlib" / "__init__.py"


def python_of(package: Path) -> str:
    """A Python in whose environment `package` is installed."""
    path = package.parents[1] / "python"
    place = package.parents[1]
    path.write_text(f'#!/bin/sh\nPYTHONPATH={place} exec {sys.executable} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class Run:
    """A run of these parameters, which keeps what it is given."""

    def __init__(self, folder: Path, other: str, **params: Any) -> None:
        self.logs = folder
        values = dict.fromkeys(rounds.LOADED) | {"model_dir": "m", "world_size": 2, "seed": 0}
        values |= {"baseline_python": other, "rounds": 9, "max_slowdown": 0.0}
        self.params = SimpleNamespace(**values | params)
        self.kept: dict[str, pd.DataFrame] = {}
        self.checks: list[tuple[str, bool | None, str]] = []

    def save(self, name: str, table: pd.DataFrame) -> None:
        self.kept[name] = table

    def check(self, *check: Any) -> None:
        self.checks.append(check)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run whose own commit and the other one are packages of these values."""

    def made(own: dict[str, Any], other: dict[str, Any], **params: Any) -> Run:
        monkeypatch.setattr(rounds, "PACKAGE", package(tmp_path / "own", **own))
        return Run(tmp_path, python_of(package(tmp_path / "other", **other)), **params)

    return made


def test_a_commit_that_is_5_percent_slower_is_found_in_9_rounds_and_named(both):
    run = both({"factor": 1.05}, {})
    shown = repr(rounds.against_commit(run, CASES)).replace("\u00a0", " ")
    assert "1.050 to 1.05" in shown and "batch 1, 8 in, 1 out" in shown
    assert run.kept["turns"]["ratio"].tolist() == pytest.approx([1.05] * 3, rel=2e-3)
    ((name, passed, detail),) = run.checks
    assert passed is False and "in turns" in name
    assert detail.startswith("all cases together 1.05")
    assert "batch 1, 8 in, 4 out: next token 1.05" in detail
    takes = run.kept["rounds"]
    assert len(takes) == 9 * 2 * 4 and takes["git"].unique().tolist() == ["abc"]
    assert {"others_cores", "stolen_cores"} <= set(takes)


def test_the_same_commit_passes_and_says_what_would_be_found(both):
    run = both({}, {})
    rounds.against_commit(run, CASES)
    ((_, passed, detail),) = run.checks
    assert passed is True and "9 rounds; 0." in detail and detail.endswith("would be found")


def test_too_few_rounds_tell_nothing(both):
    run = both({"factor": 2}, {}, rounds=2)
    rounds.against_commit(run, CASES[:1])
    assert run.checks[0][1:] == (None, "2 rounds tell nothing: raise rounds to 9 or more")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"about": "'quant': 'int8'"}, "quant: int8 there, None here"),
        ({"about": "'fingerprint': 'g'"}, "fingerprint: g there, f here"),
        ({"fails": "raise MemoryError('full')"}, "times no cases: MemoryError: full"),
        ({"more": ""}, "takes no graph"),
        ({"fails": "import os; os._exit(3)"}, "it ended; see"),
    ],
)
def test_a_commit_that_does_not_run_the_same_is_refused(other, said, both):
    run = both({}, other, graph="on", rounds=1)
    with pytest.raises(DataError, match=said):
        rounds.against_commit(run, CASES[:1])


def test_a_commit_whose_fingerprints_have_another_form_is_compared(both):
    run = both({"about": "'fingerprint': '2:g'"}, {}, rounds=1)
    rounds.against_commit(run, CASES[:1])
    assert run.checks[0][1] is None


def test_no_process_stays(both, monkeypatch):
    made: list[rounds.Side] = []
    monkeypatch.setattr(rounds.Side, "__init__", _kept(made, rounds.Side.__init__))
    with pytest.raises(DataError):
        rounds.against_commit(both({}, {"fails": "1 / 0"}, rounds=1), CASES[:1])
    assert len(made) == 2 and all(side.process.returncode is not None for side in made)


def _kept(made: list, start: Any) -> Any:
    def kept(side: rounds.Side, *args: Any) -> None:
        made.append(side)
        start(side, *args)

    return kept


def test_a_python_that_cannot_be_the_baseline_is_refused_at_once(tmp_path: Path):
    rounds.refuse("")
    rounds.refuse(python_of(package(tmp_path / "other")))
    nothing = tmp_path / "nothing"
    nothing.write_text("")
    with pytest.raises(SettingsError, match="cannot be run"):
        rounds.refuse(str(nothing))
    broken = package(tmp_path / "broken")
    broken.write_text("raise ImportError('torch is not there')")
    with pytest.raises(SettingsError, match=r"has no neoxlib \(ImportError: torch is not there\)"):
        rounds.refuse(python_of(broken))


def test_without_another_python_nothing_is_timed_and_nothing_checked(tmp_path: Path):
    run = Run(tmp_path, "")
    assert "baseline_python" in repr(rounds.against_commit(run, CASES)) and not run.checks


def takes(drift: float, slower: float = 1.0, count: int = 10) -> pd.DataFrame:
    """Takes of one case whose times grow by `drift` from each to the next."""
    rows = []
    for round_ in range(count):
        first = round_ % 2
        for side in (first, 1 - first, 1 - first, first):
            ms = (1 + drift) ** len(rows) * (slower if side else 1.0)
            times = {"first_token_ms": 9 * ms, "next_token_ms": None}
            case = {"batch_size": 1, "depth": 0, "input_len": 8, "output_len": 1}
            rows.append({"round": round_, "side": rounds.SIDES[side]} | times | case)
    return pd.DataFrame(rows)


def test_a_steady_drift_cancels_within_a_round():
    table, turns = rounds.ratios(takes(drift=0.2, slower=1.05), 0.0)
    assert table["ratio"].tolist() == pytest.approx([1.05]) and table["token"][0] == "first token"
    assert turns.all_slower and not rounds.ratios(takes(drift=0.2), 0.0)[1].all_slower


def test_a_comparison_that_could_not_find_5_percent_is_not_called_passed():
    noise = np.random.default_rng(0).normal(0, 0.2, 40)
    noisy = takes(0.0)
    noisy["first_token_ms"] *= np.exp(noise)
    table, turns = rounds.ratios(noisy, 0.0)
    passed, detail = rounds.verdict(table, turns, 10, 0.0)
    assert passed is None and turns.detectable > rounds.SURE and "too uncertain" in detail
    quiet = gate.Turns([1.0], 1.0, 0.01)
    assert rounds.verdict(table, quiet, 10, 0.0)[0] is True
