"""The benchmark of exams: both sides read the same questions and answer alike; and its table."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import documents, exam, examinees, synthetic
from neoxlib.inference import score
from tests.support.exam_files import csv_text, put

HEADER = ["id", "question", "A", "B", "C", "D", "answer"]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> list[examinees.Paper]:
    """Two subjects of C-Eval and one of MMLU, under names that lm-eval has."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("ceval/dev", "ceval/val", "mmlu/dev", "mmlu/test"):
        (root / folder).mkdir(parents=True)

    def rows(text: str, count: int) -> list[list[str]]:
        return [
            [str(n), f"{text} {n} " * (n + 1), "甲", "None", "丙", " d", "ABCD"[n % 4]]
            for n in range(count)
        ]

    for subject in ("logic", "law"):
        put(
            root / "ceval" / "dev" / f"{subject}_dev.csv",
            csv_text([[*HEADER, "explanation"], *([*row, "因为"] for row in rows(subject, 5))]),
        )
        put(root / "ceval" / "val" / f"{subject}_val.csv", csv_text([HEADER, *rows("问", 3)]))
    for split, count in (("dev", 5), ("test", 4)):
        put(
            root / "mmlu" / split / f"anatomy_{split}.csv",
            csv_text([row[1:] for row in rows(split, count)]),
        )
    return [
        examinees.Paper("ceval", str(root / "ceval"), "val", ("logic", "law"), 2),
        examinees.Paper("mmlu", str(root / "mmlu"), "test", ("anatomy",), 3),
    ]


@pytest.fixture(scope="module")
def model_dir(papers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exam.prepare(
        tmp_path_factory.mktemp("model") / "m", synthetic.Shape(2, 64, 4, 600), papers, 400
    )


@pytest.fixture(scope="module")
def results(papers, model_dir) -> dict[str, list]:
    """One round without processes."""
    given = {
        "model_dir": str(model_dir),
        "papers": list(map(asdict, papers)),
        "threads": 1,
        "dtype": "float32",
    }
    found = {exam.THEIRS: [examinees.harness(**given, batch_size=2)]}
    for without in examinees.WITHOUT:
        name = f"{exam.OURS}, without {without}" if without else exam.OURS
        found[name] = [examinees.neoxlib(**given, without=without)]
    return json.loads(json.dumps(found))


def test_both_sides_answer_the_same_questions_alike_with_any_saving_switched_off(results):
    for task, questions in (("ceval", 4), ("mmlu", 3)):
        same = exam.same_answers(results, task)
        assert (
            same["compared"] == questions
            and same["differ"] == 0
            and same["largest_difference"] < 1e-4
        )
        for (found,) in results.values():
            assert found[task]["questions"] == questions and found[task]["seconds"] > 0
            assert found[task]["predicted"] == results[exam.THEIRS][0][task]["predicted"]


def test_what_is_switched_off_is_there_and_on_again(results):
    assert all(hasattr(score, name) for settings in examinees.WITHOUT.values() for name in settings)
    assert score.MIN_SHARED_TOKENS < 10**6 and score.BATCH_TOKENS > 1


def test_an_answer_that_no_rounding_explains_ends_the_benchmark(results):
    spoilt = json.loads(json.dumps(results))
    ours = spoilt[exam.OURS][0]["ceval"]
    ours["predicted"][1] = "D" if ours["predicted"][1] != "D" else "A"
    with pytest.raises(SystemExit, match="ceval: 1 of 4 answers differ, the first at question 1"):
        exam.same_answers(spoilt, "ceval")
    theirs = spoilt[exam.THEIRS][0]["ceval"]["logprobs"][1]
    theirs[:] = [-1.0, -1.0005, -1.0004, -1.0002]  # a near tie
    assert exam.same_answers(spoilt, "ceval")["differ"] == 1


def test_prompts_that_lost_examples_are_not_compared(results):
    spoilt = json.loads(json.dumps(results))
    ours = spoilt[exam.OURS][0]["mmlu"]
    ours["shots"][0] = 3
    ours["predicted"][0] = "?"
    ours["logprobs"][0] = [0, 0, 0, 0]
    assert exam.same_answers(spoilt, "mmlu")["compared"] == 2


SETTING = {
    "machine": {"date": "2026-01-02T03", "cpu": "some processor", "cores": 2, "transformers": "5"},
    "threads": 2,
    "shape": {"layers": 2, "hidden": 64, "heads": 4, "parameters": 10**6},
    "dtype": "float32",
    "ids": 400,
    "lm_eval": "0.4",
    "their_batch": 4,
    "rounds": 3,
    "others": {"load_before": 1.5, "load_after": 2.5},
}


@pytest.fixture
def text(results) -> str:
    """A report of three rounds in which lm-eval answered 1, 2 and 4 questions a second."""
    rates = {name: [5.0, 20.0, 24.0] for name in results} | {exam.THEIRS: [1.0, 2.0, 4.0]}
    same = exam.same_answers(results, "mmlu")
    about = {"subjects": ["anatomy"], "questions": 3, "tokens": [80, 90], "same": same}
    return exam.markdown(SETTING | {"exams": {"mmlu": about | {"rates": rates}}})


def test_the_report_has_a_line_per_contender_paired_by_round(text: str):
    assert "| MMLU | neoxlib | 20.00 (5.00–24.00) | 6.00 (5.00–10.00) |" in text
    assert text.count("| MMLU |") == 1 + len(examinees.WITHOUT)
    assert "Of 3 prompts that fit whole, 0 were" in text


def test_the_report_has_its_place_in_the_document(text: str):
    here = "a\n" + documents.START.format("bench-exam") + "\n" + documents.END.format("bench-exam")
    assert "20.00 (5.00" in documents.into_document(here, "bench-exam", text)
    page = (documents.ROOT / documents.PERFORMANCE).read_text(encoding="utf-8")
    assert documents.into_document(page, "bench-exam", text)


def test_absent_data_are_said(tmp_path):
    with pytest.raises(SystemExit, match=r"no .*ceval: put C-Eval's and MMLU's folders there"):
        exam.papers(tmp_path, 2, 2)
