"""The table of results has the columns that are declared, in their order."""

import pytest

from neoxlib.exam import evaluate, get_profile, load_task
from neoxlib.exam.data.benchmarks import BENCHMARKS
from neoxlib.exam.results import FLAGS, RESULT_COLUMNS, TEXTS, choices, column_names
from tests.support.exam_files import write_exam
from tests.support.exam_results import Fake


@pytest.mark.parametrize("profile", ["official", "vendor"])
def test_evaluate_gives_the_declared_columns_in_their_order(tmp_path, profile):
    task = load_task("ceval", write_exam(tmp_path / "exam"), shots=2)
    found = evaluate(Fake(says="B"), task, get_profile(profile, "ceval"))
    texts = [name for name in task.questions if name in TEXTS]
    assert texts == ["question", "A", "B", "C", "D"] and choices(found) == task.choices
    assert list(found) == column_names(texts, task.choices)
    assert [name for name in found if found[name].dtype == bool] == list(FLAGS)


def test_an_exam_of_two_choices_has_two_columns_of_each():
    names = column_names(["passage", "question"], ["no", "yes"])
    expected = ["logprob_no", "logprob_yes", "p_no", "p_yes"]
    assert [name for name in names if name.endswith(("_no", "_yes"))] == expected
    assert names[5:8] == ["passage", "question", "expected"]


def test_every_column_says_what_it_means_and_every_benchmarks_texts_are_known():
    assert all(column.meaning for column in RESULT_COLUMNS)
    for benchmark in BENCHMARKS.values():
        assert set(benchmark.columns) - {"id"} <= set(TEXTS)
