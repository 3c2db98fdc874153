"""A run's table of questions comes back as it was saved, and what changed is found."""

import os

import pandas as pd
import pytest

from neoxlib.errors import DataError
from neoxlib.exam import load_task
from neoxlib.exam.earlier_run import changed_answers, difference, read_earlier_run, read_questions
from neoxlib.workbook.past_run import Past
from tests.support.exam_files import write_exam
from tests.support.exam_results import answers, yes_or_no


def saved(folder, table: pd.DataFrame):
    table.to_csv(folder / "questions.csv", index=False)
    return folder / "results.json"


@pytest.mark.parametrize("results", [answers(), answers(labelled=False), yes_or_no()])
def test_a_saved_table_is_read_as_it_was(tmp_path, results):
    odd = results.assign(id=["00" + n for n in results["id"]], question="NA", predicted="None")
    read = read_questions(saved(tmp_path, odd).with_name("questions.csv"))
    for name in ("subject", "id", "question", "expected", "predicted", "correct", "too_long"):
        assert read[name].tolist() == odd[name].tolist()
    shares = [name for name in odd if name.startswith("p_")]
    pd.testing.assert_frame_equal(read[shares], odd[shares], check_dtype=False)


@pytest.fixture
def exam(tmp_path):
    return load_task("ceval", write_exam(tmp_path / "exam"), shots=0)


def run_of(exam, folder, **changes):
    """A finished run of the exam that answered B throughout."""
    table = exam.questions.assign(predicted="B", **changes)
    return saved(folder, table.assign(correct=table["predicted"] == table["expected"]))


def test_a_run_is_named_by_its_folder_or_its_results(exam, tmp_path):
    path = run_of(exam, tmp_path)
    pd.testing.assert_frame_equal(read_earlier_run(path, exam), read_earlier_run(tmp_path, exam))


def test_no_path_is_no_earlier_run(exam):
    assert read_earlier_run("", exam) is read_earlier_run(None, exam) is None
    assert (
        "nothing to compare"
        in repr(changed_answers(answers(), None))
        == repr(difference(answers(), None))
    )


def test_a_run_of_other_questions_is_refused_before_any_is_asked(exam, tmp_path):
    with pytest.raises(DataError, match="1 with another question: colours/1"):
        read_earlier_run(
            run_of(exam, tmp_path, question=[*exam.questions["question"][:-1], "?"]), exam
        )
    with pytest.raises(
        DataError, match=r"no question in common.*\n  5 only in run a: .*tiny_sums_2/2"
    ):
        read_earlier_run(run_of(exam, tmp_path, subject=exam.questions["subject"] + "_2"), exam)


@pytest.mark.parametrize(
    ("asked", "common"), [({"limit": 1}, 2), ({"subjects": ["colours"]}, 2), ({}, 5)]
)
def test_exams_of_different_size_are_compared_on_the_questions_of_both(
    exam, tmp_path, asked, common
):
    """The number is said; only those questions count, in both accuracies."""
    before = read_earlier_run(
        run_of(exam, tmp_path),
        load_task("ceval", exam.root, shots=0, subjects=asked.get("subjects")),
        asked.get("limit"),
    )
    now = exam.questions.assign(predicted="C")
    now = now.assign(correct=now["predicted"] == now["expected"])
    now = (
        now[now["subject"].isin(asked.get("subjects", now["subject"]))]
        .groupby("subject")
        .head(asked.get("limit", 9))
    )
    both = before.merge(now, on=["subject", "id"])
    table = difference(now, before)
    right = [both["correct_x"].mean(), both["correct_y"].mean()]
    assert len(both) == common and table.note.startswith(
        f"{right[0]:.1%} before, {right[1]:.1%} now"
    )
    sizes = f" of both runs, of 5 asked before and {common} now" if common < 5 else ""
    assert f"of {common} questions{sizes}; p" in table.note
    assert (
        sum(int(n) for side in ("right before", "wrong before") for n in table.rows[side]) == common
    )


def test_the_difference_is_mcnemars_table_and_verdict():
    now = answers()
    before = answers()
    before.loc[[2, 3], "predicted"] = "B"
    before.loc[[2, 3], "correct"] = False
    table = difference(now, before)
    assert table.rows["right before"].tolist() == ["1", "0"] and table.rows[
        "wrong before"
    ].tolist() == ["2", "2"]
    assert table.note.startswith("20.0% before, 60.0% now: no difference is shown")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop(columns=["correct", "id"]), r"lacks the column\(s\) id, correct"),
        (
            lambda table: table.assign(correct=["True", "False", "", "x", "True"]),
            r"row 4: correct is ''; expected True or",
        ),
        (
            lambda table: pd.concat([table, table.tail(1)]),
            r"1 question\(s\) twice, the first in row 7",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, spoil, message):
    with pytest.raises(DataError, match=message):
        read_questions(saved(tmp_path, spoil(answers())).with_name("questions.csv"))


def test_rows_of_more_cells_than_names_are_refused(tmp_path):
    """pandas takes the cells before the names for labels of the rows."""
    (tmp_path / "questions.csv").write_text("subject,id,correct\nmore,a,0,True\n")
    with pytest.raises(DataError, match="rows of more cells than its first row"):
        read_questions(tmp_path / "questions.csv")


def test_a_run_without_questions_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path / "questions.csv")
    (tmp_path / "questions.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path / "questions.csv")


@pytest.mark.parametrize(
    "read", [read_questions, lambda path: Past(path.parent, {}).table("questions")]
)
def test_a_table_without_end_is_not_read(tmp_path, read):
    path = tmp_path / "questions.csv"
    path.touch()
    os.truncate(path, 8 << 30)
    with pytest.raises(
        DataError, match="has 8,589,934,592 bytes, and at most 536,870,912 are read"
    ):
        read(path)
    path.write_text(",".join(map(str, range(1001))) + "\n")
    with pytest.raises(DataError, match="it has 1,001 columns, more than 1,000"):
        read(path)


def test_a_fifo_for_a_table_is_refused(tmp_path):
    os.mkfifo(tmp_path / "questions.csv")
    with pytest.raises(DataError, match="is a FIFO, not a file"):
        read_questions(tmp_path / "questions.csv")


def test_answers_that_changed_sides_stand_before_those_that_stayed_wrong():
    now = answers()
    before = answers()
    before.loc[1, "predicted"] = "A"  # wrong then, wrong now
    before.loc[[2, 3], "predicted"] = "B"
    before.loc[[2, 3], "correct"] = False
    before.loc[4, "predicted"] = "D"
    before.loc[4, "correct"] = True
    table = changed_answers(now, before)
    assert table.rows["change"].tolist() == ["now right", "now right", "now wrong", "neither right"]
    assert table.rows["earlier"].tolist() == ["B", "B", "D", "A"]
    assert (
        "4 of the 5 questions in both runs are answered otherwise: 2 now right, 1 now wrong."
        in table.note
    )
    assert "the first 2 are shown" in changed_answers(now, before, most=2).note
    assert "<script>" not in table._repr_html_()


def test_answers_changed_are_those_of_the_same_questions_however_they_are_numbered():
    before = answers().assign(question=["v", "w", "x", "y", "z"])
    now = before.iloc[[4, 2]].assign(id=["0", "1"], predicted=["D", "D"], correct=True)
    table = changed_answers(now, before)
    assert table.rows[["question", "earlier", "now", "change"]].to_numpy().tolist() == [
        ["z", "", "D", "now right"]
    ]
    assert table.note.startswith(
        "1 of the 2 questions in both runs are answered otherwise: 1 now right"
    )


def test_the_same_answers_are_no_change():
    assert changed_answers(answers(), answers()).rows.empty
