"""Tests that pair answers question by question: a run against luck, and a run against another run."""

import math
from statistics import NormalDist

import numpy as np
import pandas as pd

from neoxlib.errors import DataError

DRAWS = 9999  # shuffles; the smallest p-value is one over one more
SAME = ("question", "passage", "A", "B", "C", "D", "expected")  # what makes two questions one


def better_than_shuffled(results: pd.DataFrame, draws: int = DRAWS, seed: int = 0) -> float:
    """Paired permutation test against chance: how often the same answers, dealt to the questions at random, do as well.

    Unlike the binomial test it gives no credit for a favourite letter that the key has often: a model that always says
    C has p 1. Monte-Carlo, (1 + hits) / (1 + draws); nan where there is no key.
    """
    if not len(results) or (results["expected"] == "").any():
        return math.nan
    right = int(results["correct"].sum())
    rng = np.random.default_rng(seed)
    key = results["expected"].value_counts()
    answers = results["predicted"].where(results["predicted"].isin(key.index), "")
    left = np.tile(
        [(answers == letter).sum() for letter in [*key.index, ""]], (draws, 1)
    )  # undealt answers, by letter
    hits = np.zeros(draws, dtype=int)
    for number, size in enumerate(key):
        hand = _deal(
            rng, left, size
        )  # [draws, letters] among the questions whose key is this letter
        hits = hits + hand[:, number]
        left = left - hand
    return (1 + int((hits >= right).sum())) / (1 + draws)


def _deal(rng: np.random.Generator, left: np.ndarray, size: int) -> np.ndarray:
    """`size` of the answers that are left, in each row; one letter after the other, since the rows differ."""
    hand = np.zeros_like(left)
    need = np.full(len(left), size)
    rest = left.sum(axis=1)
    for letter in range(left.shape[1]):
        rest = rest - left[:, letter]
        hand[:, letter] = rng.hypergeometric(left[:, letter], rest, need)
        need = need - hand[:, letter]
    return hand


def mcnemar(results_a: pd.DataFrame, results_b: pd.DataFrame) -> pd.DataFrame:
    """McNemar's exact test of two runs on the questions that both were asked, in one row.

    Columns: asked_a and asked_b, how many questions each run was asked; then, of those that both were: questions,
    both_right, only_a, only_b, both_wrong, accuracy_a, accuracy_b, difference (b less a) with its 95 % interval low,
    high (Agresti and Min, Statistics in Medicine 24 (2005), 729-740) and p_value: two-sided binomial over those that
    one run alone got right. Raises DataError as `common` does.
    """
    right_a, right_b = (
        table["correct"].to_numpy(dtype=bool) for table in common(results_a, results_b)
    )
    n = len(right_a)
    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    low, high = _difference_interval(only_a, only_b, n)
    return pd.DataFrame(
        [
            {
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
        ]
    )


def common(results_a: pd.DataFrame, results_b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both runs on the questions that both were asked, in the same order, which is that of b.

    A question is known by subject and id, and must have the same texts and answer in both. Where ids fall apart, but
    every question of one run is among the other's by its texts, it is known by those. Raises DataError, listing which,
    for anything else, for no question in common, and where there is no key.
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
    sides = f"{row['only_a']:.0f} only before, {row['only_b']:.0f} only now, of {row['questions']:.0f} questions"
    if not row["questions"] == row["asked_a"] == row["asked_b"]:
        sides += f" of both runs, of {row['asked_a']:.0f} asked before and {row['asked_b']:.0f} now"
    if row["p_value"] >= p_limit:
        return f"{change}: no difference is shown (right {sides}; p {row['p_value']:.2g})"
    return f"{change}: {'better' if row['difference'] > 0 else 'worse'} (right {sides}; p {row['p_value']:.2g})"


def _sign_test(only_a: int, only_b: int) -> float:
    """Two-sided exact binomial p-value of halves: as uneven as this or more, either way. 1 where nothing differs."""
    n = only_a + only_b
    term = total = 1
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (n - k + 1) // k  # C(n, k)
        total += term
    return min(1.0, 2 * total / 2**n)


def _difference_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Half a question is added to each of the four cells; then the normal interval of a paired difference."""
    a = only_a + 0.5
    b = only_b + 0.5
    size = n + 2
    centre = (b - a) / size
    spread = NormalDist().inv_cdf(0.975) * math.sqrt(a + b - (b - a) ** 2 / size) / size
    return max(-1.0, centre - spread), min(1.0, centre + spread)


def _by_question(results: pd.DataFrame, name: str) -> pd.DataFrame:
    """Indexed by subject and id, as texts: a table read back from CSV has numbers for ids."""
    keys = [results[column].astype(str) for column in ("subject", "id")]
    table = results.set_index(pd.MultiIndex.from_arrays(keys, names=["subject", "id"]))
    if twice := sorted({"/".join(key) for key in table.index[table.index.duplicated()]}):
        raise DataError(f"run {name} has {len(twice)} question(s) more than once: {_some(twice)}")
    if not len(table) or (results["expected"].fillna("") == "").any():
        raise DataError(
            f"run {name} has questions without an answer: right and wrong cannot be told"
        )
    return table


def _renumbered(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Both by their texts, where all questions of the one are the other's: some of an exam without ids counts anew."""
    columns = ["subject", *(column for column in SAME if column in a and column in b)]
    a, b = (_by_texts(table, columns) for table in (a, b))
    return (a, b) if a.index.isin(b.index).all() or b.index.isin(a.index).all() else None


def _by_texts(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Indexed by texts; a question that is there twice is so as its first and its second."""
    texts = pd.DataFrame({column: _text(table[column]) for column in columns}).reset_index(
        drop=True
    )
    times = texts.groupby(columns).cumcount().rename("time")
    return table.set_index(pd.MultiIndex.from_frame(pd.concat([texts, times], axis=1)))


def _text(cells: pd.Series) -> pd.Series:
    return cells.astype(object).where(cells.notna(), "").astype(str)


def _other_texts(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """Ids that are of another question in the other run, by the column that says so."""
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
