"""The hub's exports, CMMLU, EvalScope's lines, and answers that are numbers."""

import json
import sys
from pathlib import Path

import pytest

from neoxlib.errors import SettingsError
from neoxlib.exam import load_task
from neoxlib.exam.data.subjects import CLASSES, CMMLU
from tests.support.exam_files import (
    DEV,
    MAPPING,
    MMLU_COLUMNS,
    MMLU_ROWS,
    ROWS,
    csv_text,
    mmlu,
    parquet,
    problems,
    put,
    write_exam,
    write_mmlu,
    zipped,
)


def hub_rows(subject: str | None = None, rows: list | None = None) -> list[dict]:
    about = {"subject": subject} if subject else {}
    return [
        {"question": r[0], **about, "choices": r[1:5], "answer": "ABCD".index(r[5])}
        for r in rows or MMLU_ROWS
    ]


def test_the_hubs_folder_of_all_subjects_alone_is_told_apart_by_its_column(tmp_path):
    both = hub_rows("anatomy") + hub_rows("world_religions")
    mixed = [both[2], both[0], both[3], both[1]]
    for split, rows in (("test", mixed), ("dev", both), ("auxiliary_train", hub_rows(""))):
        folder = "auxiliary_train" if split == "auxiliary_train" else "all"
        parquet(tmp_path / f"mmlu/{folder}/{split}-00000-of-00001.parquet", rows)
    write_mmlu(tmp_path / "csv")
    for data_dir in (tmp_path / "mmlu", tmp_path / "mmlu/all"):
        task, beside = (
            load_task("mmlu", path, "test", shots=2) for path in (data_dir, tmp_path / "csv")
        )
        assert task.questions.equals(beside.questions) and len(task.absent) == 55
        assert task.examples == beside.examples
    assert len(mmlu(tmp_path / "mmlu", subjects=["anatomy"])) == 2


def test_the_folder_of_all_subjects_fills_in_for_those_that_have_none_of_their_own(tmp_path):
    parquet(
        tmp_path / "all/test-00000-of-00001.parquet", hub_rows("anatomy") + hub_rows("virology")
    )
    parquet(tmp_path / "anatomy/test-00000-of-00001.parquet", hub_rows("anatomy", MMLU_ROWS[:1]))
    assert mmlu(tmp_path)["subject"].tolist() == ["anatomy", "virology", "virology"]
    put(tmp_path / "all/test-00000-of-00001.parquet", "PAR1")
    assert problems("mmlu", tmp_path, split="test")[0].startswith(
        "all/test-00000-of-00001.parquet:1: is not valid"
    )


def test_problems_of_all_subjects_are_told_by_the_rows_of_their_file(tmp_path):
    rows = (
        hub_rows("anatomy")
        + hub_rows("virologie")
        + hub_rows("virology")
        + hub_rows()
        + hub_rows(" ")
    )
    rows[1] |= {"answer": 4}
    rows[4] |= {"choices": ["w", "x", "y", "z", "more"]}
    rows[5] |= {"choices": ["w", "x", "y"]}
    parquet(tmp_path / "all/test-00000-of-00001.parquet", rows)
    start = "all/test-00000-of-00001.parquet:"
    assert problems("mmlu", tmp_path, split="test") == [
        *[f"{start}{row}: subject is None; expected the name of one" for row in (7, 8)],
        *[f"{start}{row}: subject is ' '; expected the name of one" for row in (9, 10)],
        f"{start}3: subject 'virologie' is not in the subject mapping; did you mean 'virology'?",
        f"{start}2: answer is '4'; expected one of A, B, C, D",
        f"{start}5: has a choice E; expected only A, B, C, D",
        f"{start}6: D is empty",
    ]


def test_a_file_of_all_subjects_that_names_none_is_refused(tmp_path):
    parquet(tmp_path / "all/test-00000-of-00001.parquet", hub_rows())
    found = problems("mmlu", tmp_path, split="test")
    assert found[0].endswith(
        ".parquet:1: column subject missing, which says whose a question is; "
        "found: question, choices, answer"
    )


def test_the_folder_of_one_subject_of_the_hub_is_that_subject(tmp_path):
    parquet(tmp_path / "anatomy/test-00000-of-00001.parquet", hub_rows())
    assert mmlu(tmp_path / "anatomy")["subject"].tolist() == ["anatomy"] * 2


def test_parts_of_a_table_are_one_table(tmp_path):
    rows = [[f"Which {n}?", "a", "b", "c", "d", "ABCD"[n % 4]] for n in range(7)]
    for number, part in enumerate((rows[:3], rows[3:4], rows[4:])):
        parquet(tmp_path / f"anatomy/test-{number:05}-of-00003.parquet", hub_rows(rows=part))
    parquet(tmp_path / "anatomy/dev-00000-of-00001-0123456789abcdef.parquet", hub_rows())
    found = load_task("mmlu", tmp_path, "test", shots=2).questions
    assert found[[*MMLU_COLUMNS, "expected"]].to_numpy().tolist() == rows
    assert found["id"].tolist() == list("0123456")


def test_the_real_mmlu_reads_alike_in_the_hubs_form(data, tmp_path):
    """All subjects in one table of two parts, choices as lists, answers as numbers."""
    beside = load_task("mmlu", data / "mmlu", "val", shots=5)
    rows = [
        {
            "question": q["question"],
            "subject": q["subject"],
            "choices": [q[c] for c in "ABCD"],
            "answer": "ABCD".index(q["expected"]),
        }
        for q in beside.questions.to_dict("records")
    ]
    shown = [
        {
            "question": e["question"],
            "subject": subject,
            "choices": [e[c] for c in "ABCD"],
            "answer": "ABCD".index(e["answer"]),
        }
        for subject in beside.examples
        for e in beside.examples[subject]
    ]
    for number, part in enumerate((rows[:800], rows[800:])):
        parquet(tmp_path / f"all/validation-{number:05}-of-00002.parquet", part)
    parquet(tmp_path / "all/dev-00000-of-00001.parquet", shown)
    found = load_task("mmlu", tmp_path, "val", shots=5)
    assert found.questions.equals(beside.questions) and found.examples == beside.examples


def test_a_part_that_is_missing_or_of_another_table_is_told(tmp_path):
    for name in (
        "anatomy/test-00000-of-00003",
        "anatomy/test-00002-of-00003",
        "virology/test-00000-of-00002",
        "virology/test-00000-of-00001",
        "nutrition/test-00000-of-00001",
    ):
        parquet(tmp_path / f"{name}.parquet", hub_rows())
    assert problems("mmlu", tmp_path, split="test") == [
        "anatomy lacks the part(s) 00001-of-00003; found: anatomy/test-00000-of-00003.parquet, "
        "anatomy/test-00002-of-00003.parquet",
        "virology has 2 files, and one is expected (move the others away): "
        "virology/test-00000-of-00001.parquet, "
        "virology/test-00000-of-00002.parquet",
    ]


def test_an_id_in_two_parts_is_told_with_both(tmp_path):
    for number in (0, 1):
        parquet(
            tmp_path / f"logic/val-{number:05}-of-00002.parquet",
            [
                {
                    "id": 5 + n * (1 - number),
                    "question": "q",
                    "A": "a",
                    "B": "b",
                    "C": "c",
                    "D": "d",
                    "answer": "A",
                }
                for n in range(2 - number)
            ],
        )
    assert problems("ceval", tmp_path) == [
        "logic/val-00001-of-00002.parquet:1: id '5' is already in "
        "logic/val-00000-of-00002.parquet:1"
    ]


def test_parquet_without_pyarrow_is_told_with_the_extra_that_brings_it(tmp_path, monkeypatch):
    put(tmp_path / "validation.parquet", "PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = problems("boolq", tmp_path)
    assert found[0].endswith(
        ":1: reading parquet needs pyarrow, which the extra eval brings; "
        "run: pip install 'neoxlib[eval]'"
    )


CMMLU_HEADER = ["", "Question", "A", "B", "C", "D", "Answer"]
CMMLU_ROWS = [
    ["0", "下列____，正确的是", "NA", "乙，丙", "“丁”\n戊", "None", "C"],
    ["1", "农学", "1", "2", "3", "4", "A"],
]


@pytest.fixture
def cmmlu(tmp_path) -> Path:
    """dev and test of two subjects in its authors' names, an unnamed column of numbers first."""
    for split in ("dev", "test"):
        (tmp_path / "cmmlu" / split).mkdir(parents=True)
        for subject in ("agronomy", "logical"):
            put(
                tmp_path / "cmmlu" / split / f"{subject}.csv",
                csv_text([CMMLU_HEADER, *CMMLU_ROWS]),
                "utf-8-sig",
            )
    return tmp_path / "cmmlu"


@pytest.mark.parametrize("place", ["", "test", ".."])
def test_cmmlu_is_read_in_its_authors_layout(cmmlu, place):
    task = load_task("cmmlu", cmmlu / place, "test", shots=2)
    found = task.questions[task.questions["subject"] == "logical"]
    assert found[[*MMLU_COLUMNS, "expected"]].to_numpy().tolist() == [row[1:] for row in CMMLU_ROWS]
    assert (
        found["class"].tolist() == ["Humanities"] * 2
        and task.subjects["agronomy"].chinese == "农学"
    )
    assert [row["answer"] for row in task.examples["agronomy"]] == ["C", "A"]


def test_the_hubs_export_of_cmmlu_is_the_same_questions(cmmlu, tmp_path):
    names = [name or "Unnamed: 0" for name in CMMLU_HEADER]
    for split in ("dev", "test"):
        for subject in ("agronomy", "logical"):
            rows = [dict(zip(names, row, strict=True)) for row in CMMLU_ROWS]
            parquet(tmp_path / f"hub/{subject}/{split}-00000-of-00001.parquet", rows)
    hub, beside = (load_task("cmmlu", path, "test", shots=1) for path in (tmp_path / "hub", cmmlu))
    assert hub.questions.equals(beside.questions) and hub.examples == beside.examples


def test_the_zip_of_cmmlu_reads_as_its_folder(cmmlu):
    archive = zipped(cmmlu, cmmlu.parent / "cmmlu_v1_0_1.zip")
    inside, beside = (load_task("cmmlu", path, "test", shots=1) for path in (archive, cmmlu))
    assert inside.questions.equals(beside.questions) and inside.examples == beside.examples


def test_cmmlu_has_no_val_and_says_what_it_has(cmmlu):
    with pytest.raises(SettingsError, match="CMMLU has no split 'val'; choose one of dev, test"):
        load_task("cmmlu", cmmlu)


def test_problems_of_cmmlu_are_told_under_neoxlibs_names(cmmlu):
    put(cmmlu / "test/agronomy.csv", csv_text([CMMLU_HEADER[:-1], CMMLU_ROWS[0][:-1]]))
    put(cmmlu / "test/logical.csv", csv_text([CMMLU_HEADER, [*CMMLU_ROWS[0][:-1], "E"]]))
    put(cmmlu / "test/logics.csv", csv_text([CMMLU_HEADER, *CMMLU_ROWS]))
    assert problems("cmmlu", cmmlu, split="test") == [
        "test/logics.csv:1: subject 'logics' is not in the subject mapping; "
        "did you mean 'logical'?",
        "test/logical.csv:2: answer is 'E'; expected one of A, B, C, D",
        "test/agronomy.csv:1: column(s) answer missing; found: , question, A, B, C, D, id",
    ]


def test_cmmlu_has_the_published_subjects_in_the_published_classes():
    sizes = [sum(s.category == name for s in CMMLU.values()) for name in CLASSES]
    assert len(CMMLU) == 67 and sizes == [17, 22, 13, 15]


def lines(rows: list[list[str]], **more: object) -> str:
    keys = ["id", *MMLU_COLUMNS, "answer"]
    return "".join(
        json.dumps(dict(zip(keys, row, strict=True)) | more, ensure_ascii=False) + "\r\n"
        for row in rows
    )


@pytest.mark.parametrize("folder", ["", "val/"])
def test_evalscopes_lines_are_the_same_questions(tmp_path, folder):
    """<subset>_val.jsonl and <subset>_dev.jsonl, with columns that no prompt shows."""
    for split, rows in (
        ("val", ROWS),
        ("dev", {s: [row[:7] for row in part] for s, part in DEV.items()}),
    ):
        place = tmp_path / (split if folder else "")
        place.mkdir(exist_ok=True)
        for subject, part in rows.items():
            put(place / f"{subject}_{split}.jsonl", lines(part, category="数学"), "utf-8-sig")
    put(tmp_path / "subject_mapping.json", json.dumps(MAPPING))
    task, beside = (
        load_task("ceval", path, shots=2) for path in (tmp_path, write_exam(tmp_path / "more/exam"))
    )
    assert task.questions.equals(beside.questions)
    assert [e["answer"] for e in task.examples["colours"]] == ["A", "B"]


def test_problems_of_evalscopes_lines_are_told(tmp_path):
    good = dict(zip(["id", *MMLU_COLUMNS, "answer"], ROWS["colours"][0], strict=True))
    bad = [
        good | {"answer": ["A", "C"]},
        good | {"id": "1", "E": "五"},
        good | {"id": "2", "D": ""},
        good,
        good | {"id": "4", "answer": 1},
        good | {"id": "5", "answer": True},
        good | {"id": "6", "question": ["q"]},
        {name: text for name, text in good.items() if name != "C"} | {"id": "7"},
    ]
    text = (
        "".join(json.dumps(row) + "\n" for row in bad)
        + '{"id": "8", "answer": "A", "answer": "B"}\n'
    )
    put(tmp_path / "logic_val.jsonl", text)
    start = f"{tmp_path.name}/logic_val.jsonl:"
    assert problems("ceval", tmp_path) == [
        f"{start}1: answer is \"['A', 'C']\"; expected one of A, B, C, D",
        f"{start}2: has a choice E; expected only A, B, C, D",
        f"{start}3: D is empty",
        f"{start}4: id '0' is already in row 1",
        f"{start}6: answer is 'True'; expected one of A, B, C, D",
        f"{start}7: question is a list; expected a text",
        f"{start}8: C is empty",
        f"{start}9: is not JSON: 'answer' is there twice",
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("val/colours_val.jsonl", "val/colours_val.csv, val/colours_val.jsonl"),
        ("colours_val.csv", "exam/colours_val.csv, val/colours_val.csv"),
        ("val/colours.csv", "val/colours.csv, val/colours_val.csv"),
        (
            "validation/colours_validation.csv",
            "val/colours_val.csv, validation/colours_validation.csv",
        ),
    ],
)
def test_two_files_of_one_subject_are_not_chosen_between(tmp_path, more, told):
    exam = write_exam(tmp_path / "exam")
    (exam / more).parent.mkdir(exist_ok=True)
    put(exam / more, csv_text(ROWS["colours"]))
    assert problems("ceval", exam) == [
        f"colours has 2 files, and one is expected (move the others away): {told}"
    ]
