"""Paired tests against numbers that were found in another way."""

import math
from itertools import permutations, product

import pandas as pd
import pytest
from scipy import stats as oracle

from neoxlib.errors import DataError
from neoxlib.exam import averages, compared, mcnemar, verdict
from neoxlib.exam.significance import better_than_shuffled


def results(key: str, said: str, subject: str = "s") -> pd.DataFrame:
    """One question per letter of `key`; "x" is no answer."""
    said = said.replace("x", "\0")
    rows = [
        {
            "id": str(i),
            "question": f"q{i}",
            "expected": k,
            "predicted": s.strip("\0"),
            "correct": k == s,
        }
        for i, (k, s) in enumerate(zip(key, said, strict=True))
    ]
    shares = dict.fromkeys(("p_A", "p_B", "p_C", "p_D"), 0.25)
    about = {"subject": subject, "name": "S", "class": "STEM", "hard": False, "too_long": False}
    return pd.DataFrame(rows).assign(**about, **shares)


@pytest.mark.parametrize(
    ("key", "said"), [("AABBC", "ABBAC"), ("AAAB", "AABA"), ("ABCD", "ABxx"), ("AABCD", "AACBD")]
)
def test_shuffling_counts_the_ways_to_deal_the_same_answers(key, said):
    """Every permutation of the answers, one by one."""
    right = sum(k == s for k, s in zip(key, said, strict=True))
    ways = [sum(k == s for k, s in zip(key, way, strict=True)) for way in permutations(said)]
    exact = sum(n >= right for n in ways) / len(ways)
    assert better_than_shuffled(results(key, said), draws=40_000) == pytest.approx(exact, abs=0.012)


def test_a_favourite_letter_earns_nothing_however_often_the_key_has_it():
    key = "C" * 60 + "ABD" * 15
    favourite = results(key, "C" * len(key))
    micro = averages(favourite).iloc[0]
    assert micro["p_guessing"] < 1e-6 and micro["p_shuffled"] == 1.0
    assert "does not show that it reads the questions" in verdict(micro)
    able = averages(results(key, key[:90] + "A" * 15)).iloc[0]
    assert able["p_shuffled"] == 1 / 10_000 and "does not show" not in verdict(able)


def test_without_a_key_or_questions_there_is_nothing_to_shuffle():
    assert math.isnan(better_than_shuffled(results("AB", "AB").assign(expected="")))
    assert math.isnan(better_than_shuffled(results("AB", "AB").iloc[:0]))


def test_shuffling_is_the_same_each_time():
    table = results("ABCDABCDAB", "ABCDDDDDDD")
    assert better_than_shuffled(table) == better_than_shuffled(table.copy())


@pytest.mark.parametrize(("only_a", "only_b"), list(product((0, 1, 4, 9), (0, 3, 30))))
def test_mcnemars_p_value_is_the_exact_binomial_one(only_a, only_b):
    key = "A" * (only_a + only_b + 5)
    a = "A" * only_a + "B" * only_b + "AAABB"
    b = "B" * only_a + "A" * only_b + "AAABB"
    row = mcnemar(results(key, a), results(key, b)).iloc[0]
    assert (row["only_a"], row["only_b"], row["both_right"], row["both_wrong"]) == (
        only_a,
        only_b,
        3,
        2,
    )
    expected = oracle.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert row["p_value"] == pytest.approx(expected, rel=1e-9)
    assert row["difference"] == pytest.approx(row["accuracy_b"] - row["accuracy_a"])
    assert -1 <= row["low"] <= row["difference"] + 0.2 and row["low"] < row["high"] <= 1


def test_mcnemars_interval_is_the_published_one():
    """Prime minister's ratings of 1600 people: -0.059 to -0.021.

    A. Agresti, Categorical Data Analysis.
    """
    key = "A" * 1600
    a = "A" * 794 + "A" * 150 + "B" * 86 + "B" * 570
    b = "A" * 794 + "B" * 150 + "A" * 86 + "B" * 570
    row = mcnemar(results(key, a), results(key, b)).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((-0.0585, -0.0214), abs=5e-4)


def test_the_order_of_the_rows_does_not_matter_nor_that_one_table_comes_from_a_file(tmp_path):
    a = results("ABCD", "ABBB")
    b = results("ABCD", "BBCD")
    b.to_csv(tmp_path / "b.csv", index=False)
    read = pd.read_csv(tmp_path / "b.csv").iloc[::-1]
    assert mcnemar(a, read).equals(mcnemar(a, b))
    assert mcnemar(a, b)["questions"].tolist() == [4]


def test_questions_that_differ_are_refused_and_named():
    a = results("ABCD", "ABCD")
    b = results("ABCDA", "ABCDA")
    b.loc[1, "question"] = "another"
    b.loc[2, "expected"] = "D"
    with pytest.raises(DataError) as caught:
        mcnemar(a, b)
    assert str(caught.value).splitlines()[1:] == [
        "  1 only in run b: s/4",
        "  1 with another question: s/1",
        "  1 with another expected: s/2",
    ]


def test_runs_of_different_size_are_paired_on_the_questions_of_both():
    """The same numbers as of tables that were cut down to those questions beforehand."""
    a = results("ABCDAB", "ABCDBB")
    b = results("ABCDABCD", "BBBDAADD").iloc[2:]
    found = mcnemar(a, b).iloc[0]
    cut = mcnemar(a.iloc[2:], b.iloc[:4]).iloc[0]
    sizes = ["asked_a", "asked_b"]
    assert found[sizes].tolist() == [6, 6] and cut[sizes].tolist() == [4, 4]
    assert found.drop(sizes).equals(cut.drop(sizes)) and found["questions"] == 4
    assert "of 4 questions of both runs, of 6 asked before and 6 now; p" in compared(found)
    assert "of 4 questions; p" in compared(cut)


def test_some_of_an_exam_that_counts_its_questions_anew_is_paired_by_their_texts():
    """Questions 1, 1 once more and 4 of the larger exam are 0, 1 and 2 of the smaller."""
    a = results("ABCDAB", "ABCDBB")
    a.loc[3, ["question", "expected"]] = a.loc[1, ["question", "expected"]]
    b = (
        a.iloc[[1, 3, 4]]
        .assign(id=["0", "1", "2"], predicted=["B", "B", "A"], correct=True)
        .reset_index(drop=True)
    )
    row = mcnemar(a.assign(correct=[True, False, True, True, False, True]), b).iloc[0]
    assert row[["asked_a", "asked_b", "questions", "only_a", "only_b", "both_right"]].tolist() == [
        6,
        3,
        3,
        0,
        2,
        1,
    ]
    with pytest.raises(DataError, match="were not asked the same questions"):
        mcnemar(a, b.assign(question=["q1", "q1", "another"]))


def test_runs_without_a_common_question_are_refused():
    with pytest.raises(
        DataError, match=r"no question in common.*\n  2 only in run a: s/0, s/1\n  2 only in"
    ):
        mcnemar(results("AB", "AB"), results("AB", "AB", "t"))


def test_questions_twice_and_without_an_answer_are_refused():
    a = results("AB", "AB")
    with pytest.raises(DataError, match=r"run b has 2 question\(s\) more than once: s/0, s/1"):
        mcnemar(a, pd.concat([a, a]))
    with pytest.raises(DataError, match="run a has questions without an answer"):
        mcnemar(a.assign(expected=""), a)


def test_the_sentence_says_a_difference_only_where_one_is_shown():
    worse = mcnemar(results("A" * 20, "A" * 20), results("A" * 20, "A" * 8 + "B" * 12)).iloc[0]
    assert compared(worse).startswith(
        "100.0% before, 40.0% now: worse (right 12 only before, 0 only now, of 20"
    )
    assert "no difference is shown" in compared(
        mcnemar(results("AAB", "AAB"), results("AAB", "AAA")).iloc[0]
    )
