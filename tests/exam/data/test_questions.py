"""Cells as questions: numbers for answers, columns of one name, files that have none of it."""

import pytest

from neoxlib.exam import load_task
from tests.support.exam_files import MMLU_COLUMNS, MMLU_ROWS, csv_text, parquet, problems, put


def numbered(rows: list[list[str]], first: int = 0) -> str:
    names = [*MMLU_COLUMNS, "answer"]
    return csv_text([names, *([*row[:5], "ABCD".index(row[5]) + first] for row in rows)])


def test_answers_of_a_csv_may_be_numbers_from_zero(tmp_path):
    """Some of dev has no 0; some of the exam has, and that says where counting begins."""
    rows = [*MMLU_ROWS, [*MMLU_ROWS[0][:5], "A"]]
    for split, part in (("dev", MMLU_ROWS), ("test", rows)):
        (tmp_path / split).mkdir()
        put(tmp_path / split / f"anatomy_{split}.csv", numbered(part))
    task = load_task("mmlu", tmp_path, "test", shots=2)
    assert task.questions["expected"].tolist() == ["B", "D", "A"]
    assert [row["answer"] for row in task.examples["anatomy"]] == ["B", "D"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (numbered(MMLU_ROWS, 1), ["2: answer is '2'", "3: answer is '4'"]),  # counted from 1
        (
            numbered(MMLU_ROWS),
            ["2: answer is '1'", "3: answer is '3'"],
        ),  # from 0 or from 1: it does not say
        (
            csv_text([[*MMLU_COLUMNS, "answer"], [*MMLU_ROWS[0][:5], "0"], MMLU_ROWS[1]]),
            ["2: answer is '0'"],
        ),
        (
            csv_text(
                [[*MMLU_COLUMNS, "answer"], [*MMLU_ROWS[0][:5], "0"], [*MMLU_ROWS[0][:5], "1.0"]]
            ),
            ["2: answer is '0'", "3: answer is '1.0'"],
        ),
    ],
)
def test_numbers_that_do_not_say_where_they_begin_are_refused(tmp_path, text, told):
    put(tmp_path / "anatomy_test.csv", text)
    found = problems("mmlu", tmp_path, split="test")
    assert found == [
        f"{tmp_path.name}/anatomy_test.csv:{line}; expected one of A, B, C, D" for line in told
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("test/logical.csv", "", "1: is empty; expected questions"),
        ("test/logical.csv", "\ufeff\r\n", "1: is empty; expected questions"),
        (
            "test/logical.csv",
            ",Question,A,B,C,D,Answer\r\n",
            "2: the header is there, the questions are not",
        ),
        (
            "test/logical.csv",
            ",Question,question,A,B,C,D,Answer\n0,q,r,1,2,3,4,A\n1,q,r,1,2,3,4,A",
            "2: has Question and question, and one is expected",
        ),
        (
            "logical_test.jsonl",
            '{"question": "q", "A": "1", "B": 2, "C": 3, "D": 4, "Answer": "A", "answer": "B"}',
            "1: has Answer and answer, and one is expected",
        ),
        (
            "test/logical.csv",
            ",Question,A,B,C,D\n0,q,1,2,3,4",
            "1: column(s) answer missing; found: , question, A, B",
        ),
        ("test/logical.jsonl", "", "1: is empty; expected questions"),
        (
            "test/logical.jsonl",
            '{"question": "q"}',
            "1: column(s) A, B, C, D, answer missing; found: question, id",
        ),
        ("logical_test.jsonl", "[]", "1: expected an object in braces, found '[]'"),
        ("logical/test-00000-of-00001.parquet", "", "1: is not valid parquet"),
    ],
)
def test_files_without_questions_or_columns_are_refused_in_every_form(tmp_path, name, text, told):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    put(tmp_path / name, text)
    place = f"{(tmp_path / name).parent.name}/{(tmp_path / name).name}:"
    found = problems("cmmlu", tmp_path, split="test")
    assert [line[: len(place + told)] for line in found] == [place + told]


def test_a_table_of_the_hub_without_rows_is_refused(tmp_path):
    parquet(tmp_path / "logical/test-00000-of-00001.parquet", [])
    assert problems("cmmlu", tmp_path, split="test") == [
        "logical/test-00000-of-00001.parquet:1: is empty; expected questions"
    ]
