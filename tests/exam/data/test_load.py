"""Exam folders: each text as in the file, and every problem of every file reported at once."""

import json
from pathlib import Path

import pandas as pd
import pytest

from neoxlib.errors import DataError, SettingsError
from neoxlib.exam import load_task
from neoxlib.exam.data.subjects import CEVAL, CEVAL_HARD, CLASSES
from tests.support.exam_files import HEADER, MAPPING, ROWS, csv_text, put, write_exam
from tests.support.special_files import KINDS, special_file


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    return write_exam(tmp_path / "exam")


def problems(folder: Path, **asked: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_task("ceval", folder, **asked)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_cells_are_the_text_of_the_file(exam):
    """`None` and `NA` are choices here; pandas reads them as missing unless told otherwise."""
    task = load_task("ceval", exam, shots=2)
    found = task.questions[["id", "question", "A", "B", "C", "D", "expected"]].to_numpy().tolist()
    assert found == ROWS["tiny_sums"] + ROWS["colours"]
    assert [list(e.values()) for e in task.examples["colours"]][1][:3] == ["1", "炭是____", "白"]
    assert task.labelled


def test_examples_are_the_first_rows_of_dev(exam):
    assert [row["id"] for row in load_task("ceval", exam, shots=1).examples["colours"]] == ["0"]


def test_the_real_exam_reads_as_pandas_reads_it(data):
    task = load_task("ceval", data / "ceval")
    assert (
        task.counts()["subjects"].sum() == 40
        and len(task.questions) == 1030
        and len(task.absent) == 12
    )
    for subject, part in task.questions.groupby("subject"):
        oracle = pd.read_csv(
            data / f"ceval/val/{subject}_val.csv", dtype=str, keep_default_na=False
        )
        columns = ["id", "question", "A", "B", "C", "D"]
        assert part[columns].to_numpy().tolist() == oracle[columns].to_numpy().tolist()
        assert part["expected"].tolist() == oracle["answer"].tolist()
    assert all(len(examples) == 5 for examples in task.examples.values())


def test_the_real_exams_test_split_has_no_answers(data):
    task = load_task("ceval", data / "ceval", split="test")
    assert len(task.subjects) == 5 and not task.labelled and len(task.questions) > 1000


def test_the_builtin_subjects_are_those_of_the_official_mapping(data):
    official = json.loads((data / "ceval/subject_mapping.json").read_text(encoding="utf-8"))
    assert [(name, list(entry)) for name, entry in CEVAL.items()] == list(official.items())


def test_the_builtin_subjects_have_the_published_class_sizes():
    sizes = [sum(s.category == name for s in CEVAL.values()) for name in CLASSES]
    assert sizes == [20, 10, 11, 11] and len(CEVAL_HARD) == 8
    assert all(CEVAL[subject].category == "STEM" for subject in CEVAL_HARD)


def test_the_folders_own_mapping_wins_and_fixes_the_order(tmp_path):
    exam = write_exam(tmp_path / "exam", dict(reversed(MAPPING.items())))
    task = load_task("ceval", exam, shots=0)
    assert (
        list(task.subjects) == ["colours", "tiny_sums"] == list(task.questions["subject"].unique())
    )
    assert task.subjects["colours"].chinese == "颜色"


def test_without_a_mapping_the_builtin_subjects_hold(tmp_path):
    exam = write_exam(tmp_path / "exam", mapping=None)
    for split in ("dev", "val"):
        (exam / split / f"tiny_sums_{split}.csv").rename(
            exam / split / f"college_physics_{split}.csv"
        )
        (exam / split / f"colours_{split}.csv").rename(exam / split / f"logic_{split}.csv")
    questions = load_task("ceval", exam, shots=1).questions
    assert questions.groupby("subject")["class"].first().to_dict() == {
        "college_physics": "STEM",
        "logic": "Humanities",
    }
    assert questions.groupby("subject")["hard"].first().to_dict() == {
        "college_physics": True,
        "logic": False,
    }


def test_a_folder_that_holds_the_exam_one_level_down_is_found(exam):
    nested = exam.parent / "archive"
    nested.mkdir()
    exam.rename(nested / "formal_ceval")
    assert len(load_task("ceval", nested, shots=2).questions) == 5


def test_line_breaks_and_a_byte_order_mark_are_no_problem(exam):
    rows = [["0", '第一行\r\n第二行，"引号"', "甲", "乙", "丙", "丁", "D"]]
    put(exam / "val/colours_val.csv", csv_text([HEADER, *rows]), "utf-8-sig")
    questions = load_task("ceval", exam, subjects=["colours"], shots=2).questions
    assert questions[["id", "question", "A", "B", "C", "D", "expected"]].to_numpy().tolist() == rows


def test_every_problem_of_every_file_is_in_one_error(exam):
    """Fixing one file only to be told of the next wastes a load of the model each time."""
    good = ["9", "问", "1", "2", "3", "4", "A"]
    put(
        exam / "val/colours_val.csv",
        csv_text([HEADER, ["0", "问", "1", "", "3", "4", "AB"], good, good, good[:-1]]),
    )
    put(exam / "val/tiny_sums_val.csv", csv_text([HEADER[:-1], good[:-1]]))
    put(exam / "dev/tiny_sums_dev.csv", "")
    put(exam / "dev/colours_dev.csv", csv_text([HEADER, good]), "gb18030")
    assert problems(exam, shots=1) == [
        "val/tiny_sums_val.csv:1: column(s) answer missing; found: id, question, A, B, C, D",
        "dev/tiny_sums_dev.csv:1: is empty; expected questions",
        "val/colours_val.csv:2: B is empty",
        "val/colours_val.csv:2: answer is 'AB'; expected one of A, B, C, D",
        "val/colours_val.csv:4: id '9' is already in row 3",
        "val/colours_val.csv:5: has 6 cells, the header has 7 (an unquoted comma or line break?)",
        "dev/colours_dev.csv:2: is not UTF-8 (byte 0xce), it may be GB18030; save it as UTF-8",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,question,A,B,C,D,answer\r\n", "2: the header is there, the questions are not"),
        ("\ufeff", "1: is empty; expected questions"),
        ("id,question,A,A,B,C,D,answer\n0,q,1,2,3,4,5,A\n", "1: column 'A' appears twice"),
        (
            'id,question,A,B,C,D,answer\n0,"q,1,2,3,4,A',
            "2: is not valid CSV: unexpected end of data (an unclosed quote?)",
        ),
        (
            "id,question,A,B,C,D,answer\n0,q,1,2,3,4,a\n",
            "2: answer is 'a'; expected one of A, B, C, D",
        ),
        ("id,question,A,B,C,D,answer\n0,q,1,2,3,4,\n", "2: answer is empty"),
        ("id,question,A,B,C,D,answer\n\n0,q,1,2, ,4,A\n", "3: C is empty"),
        (
            'id,question,A,B,C,D,answer\n0,q,1,2,3,4,"A,B"\n',
            "2: answer is 'A,B'; expected one of A, B, C, D",
        ),
        (
            "id,question,A,B,C,D,answer\n0,q\ufffd,1,2,3,4,A\n",
            "2: question has the sign U+FFFD: text was lost when the file was written",
        ),
        (
            "id,question,A,B,C,D,answer\n0,q,1,2\r\n3,4,A\n",
            "2: has 4 cells, the header has 7 (an unquoted comma or line break?)",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_row(exam, text, expected):
    put(exam / "val/colours_val.csv", text)
    assert problems(exam, subjects=["colours"], shots=1)[0] == f"val/colours_val.csv:{expected}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_among_the_questions_is_told_and_not_waited_for(exam, kind):
    path = next(exam.glob("val/*.csv"))
    path.unlink()
    special_file(path, kind)
    assert any(f"val/{path.name}:1: cannot be read: " in line for line in problems(exam))


def test_utf16_is_recognised(exam):
    put(exam / "val/colours_val.csv", csv_text([HEADER, *ROWS["colours"]]), "utf-16")
    assert "it looks like UTF-16" in problems(exam, shots=0)[0]


def test_subjects_that_do_not_exist_are_all_told_with_the_nearest_name(exam):
    (exam / "val/tiny_sums_val.csv").unlink()
    found = problems(exam, subjects=["colour", "tiny_sums", "zzz"])
    assert found[:3] == [
        "subjects: 'colour' is not in the subject mapping; did you mean 'colours'?",
        "subjects: 'tiny_sums' has no file val/tiny_sums_val.csv",
        "subjects: 'zzz' is not in the subject mapping",
    ]


def test_a_file_whose_subject_is_not_in_the_mapping_is_told(exam):
    (exam / "val/colours_val.csv").rename(exam / "val/colors_val.csv")
    assert problems(exam, shots=0) == [
        "val/colors_val.csv:1: subject 'colors' is not in the subject mapping; "
        "did you mean 'colours'?"
    ]


def test_missing_and_short_example_files_are_told_when_examples_are_wanted(exam):
    (exam / "dev/colours_dev.csv").unlink()
    assert problems(exam, shots=5) == [
        "dev/tiny_sums_dev.csv:3: ends after 2 example(s), and shots is 5",
        "dev/colours_dev.csv:1: is missing, and shots is 5; add the file or ask for 0 shots",
    ]
    assert load_task("ceval", exam, shots=0).examples == {"tiny_sums": [], "colours": []}


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (
            '{"colours": ["Colours", "颜色"]}',
            "subject_mapping.json: colours: expected [English, Chinese, class]",
        ),
        (
            '{"colours": ["Colours", "颜色", "hard"]}',
            "subject_mapping.json: colours: expected [English, Chinese, class], "
            "the class none of Hard, Avg, Avg(Hard), found ['Colours', '颜色', 'hard']",
        ),
        (
            '{"colours": ["Colours", "颜色", " "]}',
            "subject_mapping.json: colours: expected [English, Chinese, class]",
        ),
        ('{"colours": 1}', "subject_mapping.json: colours: expected [English, Chinese, class]"),
        (
            '{"colours": "Art", "colours": "STEM"}',
            "subject_mapping.json:1: is not JSON in UTF-8: 'colours' is there twice",
        ),
        (
            '["colours"]',
            "subject_mapping.json:1: expected {subject: [English, Chinese, class]}, found a list",
        ),
        ('{\n"colours": \n', "subject_mapping.json:3: is not JSON in UTF-8"),
    ],
)
def test_a_bad_mapping_is_told(exam, mapping, expected):
    put(exam / "subject_mapping.json", mapping)
    assert problems(exam, subjects=["colours"], shots=0)[0].startswith(expected)


def test_classes_of_ones_own_stand_after_the_usual_ones_which_may_be_spelled_otherwise(exam):
    put(
        exam / "subject_mapping.json",
        json.dumps(
            {
                "colours": ["Colours", "颜色", "Art "],
                "tiny_sums": ["Tiny Sums", "小算术", "stem"],
                "absent": "social sciences",
            }
        ),
    )
    task = load_task("ceval", exam, shots=0)
    assert task.counts()["subjects"].to_dict() == {"STEM": 1, "Art": 1} and task.absent == (
        "absent",
    )
    assert list(task.counts().index) == ["STEM", "Art"]


def test_an_exam_of_ones_own_without_a_table_of_subjects_is_told_what_it_needs(tmp_path):
    exam = write_exam(tmp_path / "exam", mapping=None)
    assert problems(exam, shots=0) == [
        "val/colours_val.csv:1: subject 'colours' is not in the subject mapping",
        "val/tiny_sums_val.csv:1: subject 'tiny_sums' is not in the subject mapping",
        "subject_mapping.json: is missing, and no subject is C-Eval's; "
        "an exam of your own needs it, beside the files "
        "of questions: {subject: [English, Chinese, class]}",
    ]


def test_answers_in_some_files_of_a_split_only_are_told(exam):
    put(exam / "test/colours_test.csv", csv_text([HEADER, *ROWS["colours"]]))
    assert problems(exam, split="test", shots=0) == [
        "test/tiny_sums_test.csv:1: has questions without an answer, other questions have them"
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"task": "cevall"}, "did you mean 'ceval'"),
        ({"split": "train"}, "dev, val, test"),
        ({"shots": -1}, "0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(exam, asked, message):
    with pytest.raises(SettingsError, match=message):
        load_task(**{"task": "ceval", "data_dir": exam} | asked)


def test_folders_that_are_no_exam_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "split/val").mkdir(parents=True)
    put(tmp_path / "exam.zip", "PK")
    messages = {
        "nowhere": "does not exist",
        "exam.zip": "no zip archive",
        "empty": "found: nothing",
        "split": "expected val/<subject>_val.csv",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=message):
            load_task("ceval", tmp_path / name)


def test_two_folders_with_an_exam_are_not_chosen_between(exam):
    write_exam(exam.parent / "other")
    with pytest.raises(
        DataError, match=r"2 folders with questions of val \(name one of them\): exam, other"
    ):
        load_task("ceval", exam.parent)
