"""Paired tests, question by question: a run against chance, and a run against another run."""

import math
from statistics import NormalDist

import numpy as np
import pandas as pd

from neoxlib.errors import DataError
from neoxlib.exam.results import KEY, TEXTS

DRAWS = 9999  # shuffles; the smallest p-value is 1 / (1 + DRAWS)
SAME = (*TEXTS, "expected")  # columns in which a question is the same in both runs


def better_than_shuffled(results: pd.DataFrame, draws: int = DRAWS, seed: int = 0) -> float:
    """Paired permutation test against chance: the p-value of shuffled answers doing as well.

    Unlike the binomial test it gives no credit for favouring a letter that the key has often: a
    model that always says C has p 1. Monte Carlo, (1 + hits) / (1 + draws); nan without a key.
    """
    if not len(results) or (results["expected"] == "").any():
        return math.nan
    right = int(results["correct"].sum())
    rng = np.random.default_rng(seed)
    key = results["expected"].value_counts()
    answers = results["predicted"].where(results["predicted"].isin(key.index), "")
    counts = [(answers == letter).sum() for letter in [*key.index, ""]]
    left = np.tile(counts, (draws, 1))  # [draws, letters] answers not yet drawn
    hits = np.zeros(draws, dtype=int)
    for number, size in enumerate(key):
        drawn = _draw(rng, left, size)  # [draws, letters] for questions with this letter as key
        hits = hits + drawn[:, number]
        left = left - drawn
    return (1 + int((hits >= right).sum())) / (1 + draws)


def _draw(rng: np.random.Generator, left: np.ndarray, size: int) -> np.ndarray:
    """Draw `size` of the answers `left` [draws, letters], without replacement, in each row.

    Letter after letter, since numpy's multivariate draw takes one row of counts only.
    """
    drawn = np.zeros_like(left)
    need = np.full(len(left), size)
    rest = left.sum(axis=1)
    for letter in range(left.shape[1]):
        rest = rest - left[:, letter]
        drawn[:, letter] = rng.hypergeometric(left[:, letter], rest, need)
        need = need - drawn[:, letter]
    return drawn


def mcnemar(results_a: pd.DataFrame, results_b: pd.DataFrame) -> pd.DataFrame:
    """McNemar's exact test of two runs on the questions of both, in one row.

    Columns: asked_a, asked_b (questions of each run); of the questions of both: questions,
    both_right, only_a, only_b, both_wrong, accuracy_a, accuracy_b, difference (b minus a) with its
    95 % interval low, high (Agresti and Min, Statistics in Medicine 24 (2005), 729-740) and
    p_value, two-sided binomial over only_a and only_b. Raises DataError as `common` does.
    """
    both = common(results_a, results_b)
    right_a, right_b = (table["correct"].to_numpy(dtype=bool) for table in both)
    n = len(right_a)
    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    low, high = _difference_interval(only_a, only_b, n)
    row = {
        "asked_a": len(results_a),
        "asked_b": len(results_b),
        "questions": n,
        "both_right": int((right_a & right_b).sum()),
        "only_a": only_a,
        "only_b": only_b,
        "both_wrong": int((~right_a & ~right_b).sum()),
        "accuracy_a": right_a.mean(),
        "accuracy_b": right_b.mean(),
        "difference": (only_b - only_a) / n,
        "low": low,
        "high": high,
        "p_value": _sign_test(only_a, only_b),
    }
    return pd.DataFrame([row])


def common(results_a: pd.DataFrame, results_b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both runs on the questions that both were asked, in the order of b.

    A question is identified by subject and id, and must have the same texts and answer in both. If
    ids disagree but every question of one run is among the other's by its texts, those identify it.
    Raises DataError with a list for anything else, for no common question, and without a key.
    """
    a, b = (_by_question(results, name) for results, name in ((results_a, "a"), (results_b, "b")))
    others = _other_texts(a, b)
    if others or not a.index.isin(b.index).any():
        if not (by_text := _renumbered(a, b)):
            what = "were not asked the same questions" if others else "have no question in common"
            problems = [*_only("a", a, b), *_only("b", b, a), *others]
            raise DataError(
                f"the two runs {what}, so they cannot be paired:\n  " + "\n  ".join(problems)
            )
        a, b = by_text
    both = b.index[b.index.isin(a.index)]
    return a.loc[both], b.loc[both]


def compared(row: pd.Series, p_limit: float = 0.05) -> str:
    """One sentence on the row that `mcnemar` gives."""
    change = f"{row['accuracy_a']:.1%} before, {row['accuracy_b']:.1%} now"
    sides = f"{row['only_a']:.0f} only before, {row['only_b']:.0f} only now"
    sides += f", of {row['questions']:.0f} questions"
    if not row["questions"] == row["asked_a"] == row["asked_b"]:
        sides += f" of both runs, of {row['asked_a']:.0f} asked before and {row['asked_b']:.0f} now"
    verdict = "better" if row["difference"] > 0 else "worse"
    if row["p_value"] >= p_limit:
        verdict = "no difference is shown"
    return f"{change}: {verdict} (right {sides}; p {row['p_value']:.2g})"


def _sign_test(only_a: int, only_b: int) -> float:
    """Two-sided exact binomial p-value at ½: as uneven or more, either way; 1 for no difference."""
    n = only_a + only_b
    term = total = 1
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (n - k + 1) // k  # C(n, k)
        total += term
    return min(1.0, 2 * total / 2**n)


def _difference_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95 % interval: half a question is added to each of the four cells, then normal, paired."""
    a = only_a + 0.5
    b = only_b + 0.5
    size = n + 2
    centre = (b - a) / size
    margin = NormalDist().inv_cdf(0.975) * math.sqrt(a + b - (b - a) ** 2 / size) / size
    return max(-1.0, centre - margin), min(1.0, centre + margin)


def _by_question(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """Index a run by subject and id, as texts: a table read back from CSV has numbers for ids."""
    keys = [results[column].astype(str) for column in KEY]
    table = results.set_index(pd.MultiIndex.from_arrays(keys, names=KEY))
    if twice := sorted({"/".join(key) for key in table.index[table.index.duplicated()]}):
        raise DataError(f"run {name} has {len(twice)} question(s) more than once: {_some(twice)}")
    if not len(table) or (results["expected"].fillna("") == "").any():
        raise DataError(
            f"run {name} has questions without an answer: right and wrong cannot be told"
        )
    return table


def _renumbered(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Both runs by their texts, if one has all questions of the other.

    So it is with part of an exam without ids, whose questions are numbered anew.
    """
    columns = ["subject", *(column for column in SAME if column in a and column in b)]
    a, b = (_by_texts(table, columns) for table in (a, b))
    return (a, b) if a.index.isin(b.index).all() or b.index.isin(a.index).all() else None


def _by_texts(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Index a run by texts, and by a number among questions of equal texts."""
    texts = pd.DataFrame({column: _text(table[column]) for column in columns})
    texts = texts.reset_index(drop=True)
    times = texts.groupby(columns).cumcount().rename("time")
    return table.set_index(pd.MultiIndex.from_frame(pd.concat([texts, times], axis=1)))


def _text(cells: pd.Series) -> pd.Series:
    return cells.astype(object).where(cells.notna(), "").astype(str)


def _other_texts(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """For each column, the ids under which the runs have different texts."""
    both = a.index.intersection(b.index)
    others = []
    for column in [c for c in SAME if c in a and c in b]:
        texts = [_text(table.loc[both, column]) for table in (a, b)]
        if other := ["/".join(key) for key in both[(texts[0] != texts[1]).to_numpy()]]:
            others.append(f"{len(other)} with another {column}: {_some(other)}")
    return others


def _only(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    only = ["/".join(key) for key in ours.index.difference(theirs.index)]
    return [f"{len(only)} only in run {name}: {_some(only)}"] if only else []


def _some(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
