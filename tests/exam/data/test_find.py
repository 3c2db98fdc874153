"""MMLU, BoolQ, archives and the hub's exports: the same questions, however a user came by them."""

import json
import posixpath
import re
import zipfile
from pathlib import Path
from posixpath import dirname

import pandas as pd
import pytest
import yaml

from neoxlib.errors import DataError, SettingsError
from neoxlib.exam import load_task
from neoxlib.exam.data.find import LARGEST
from neoxlib.exam.data.subjects import CLASSES, MMLU
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.parameters import complaints
from tests.support.exam_files import (
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

BOOLQ = [
    {"question": "is water wet", "answer": True, "passage": "Water wets."},
    {"question": "is fire cold", "answer": False, "passage": "Fire burns."},
]


@pytest.mark.parametrize("header", [False, True])
def test_mmlu_is_read_with_and_without_a_line_of_names(tmp_path, header):
    task = load_task("mmlu", write_mmlu(tmp_path / "data", header), "test", shots=2)
    found = task.questions[task.questions["subject"] == "anatomy"]
    assert found[[*MMLU_COLUMNS, "expected"]].to_numpy().tolist() == MMLU_ROWS
    assert found["id"].tolist() == ["0", "1"]  # the file has none: rows are counted
    assert [e["answer"] for e in task.examples["world_religions"]] == ["B", "D"]
    assert task.questions.groupby("subject")["class"].first().to_dict() == {
        "anatomy": "STEM",
        "world_religions": "Humanities",
    }


def test_mmlu_has_the_published_subjects_in_the_published_classes():
    sizes = [sum(s.category == name for s in MMLU.values()) for name in CLASSES]
    assert len(MMLU) == 57 and sizes == [19, 12, 13, 13]
    assert MMLU["high_school_us_history"].english == "High School US History"


def test_the_subjects_and_classes_of_mmlu_are_the_harnesss():
    lm_eval = pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed: pip install 'neoxlib[eval]'"
    )
    files = (Path(lm_eval.__file__).parent / "tasks/mmlu/default").glob("mmlu_*.yaml")
    rows = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    tags = {
        "STEM": "stem",
        "Social Science": "social_sciences",
        "Humanities": "humanities",
        "Other": "other",
    }
    ours = {name: f"mmlu_{tags[subject.category]}_tasks" for name, subject in MMLU.items()}
    assert ours == {row["dataset_name"]: row["tag"] for row in rows}


def test_the_real_mmlu_reads_as_pandas_reads_it(data):
    for split, count in (("val", 1531), ("dev", 285)):
        task = load_task("mmlu", data / "mmlu", split, shots=0)
        assert len(task.questions) == count and len(task.subjects) == 57 and not task.absent
    assert len(load_task("mmlu", data / "mmlu", "test", shots=5).subjects) == 19
    oracle = pd.read_csv(
        data / "mmlu/val/miscellaneous_val.csv", header=None, dtype=str, keep_default_na=False
    )
    found = load_task("mmlu", data / "mmlu", subjects=["miscellaneous"]).questions
    assert found[[*MMLU_COLUMNS, "expected"]].to_numpy().tolist() == oracle.to_numpy().tolist()


def test_the_literal_none_of_mmlu_is_a_choice(tmp_path):
    assert (
        mmlu(write_mmlu(tmp_path))["A"].tolist()[0] == "None"
        and mmlu(tmp_path)["D"].tolist()[0] == "NA"
    )


def test_problems_of_mmlu_count_rows_without_a_header_from_one(tmp_path):
    write_mmlu(tmp_path)
    put(
        tmp_path / "test/anatomy_test.csv",
        csv_text([[*MMLU_ROWS[0][:5], "1"], MMLU_ROWS[1][:5], ["q", "", *"bcdA"]]),
    )
    put(tmp_path / "test/virologie_test.csv", csv_text(MMLU_ROWS))
    assert problems("mmlu", tmp_path, split="test") == [
        "test/virologie_test.csv:1: subject 'virologie' is not in the subject mapping; "
        "did you mean 'virology'?",
        "test/anatomy_test.csv:1: answer is '1'; expected one of A, B, C, D",
        "test/anatomy_test.csv:2: has 5 cells, expected are 6 (an unquoted comma or line break?)",
        "test/anatomy_test.csv:3: A is empty",
    ]


def test_a_mapping_of_bare_classes_is_mmlus_form(tmp_path):
    put(
        write_mmlu(tmp_path) / "subject_mapping.json",
        json.dumps({"anatomy": "STEM", "world_religions": "humanities"}),
    )
    assert mmlu(tmp_path).groupby("subject")["class"].first().tolist() == ["STEM", "Humanities"]


def test_boolq_is_read_from_its_authors_file(tmp_path):
    put(tmp_path / "dev.jsonl", "\n".join(map(json.dumps, BOOLQ)) + "\n")
    task = load_task("boolq", tmp_path, shots=0)
    assert task.choices == ("no", "yes") and task.questions["expected"].tolist() == ["yes", "no"]
    assert task.questions["passage"].tolist() == ["Water wets.", "Fire burns."]
    assert task.questions["id"].tolist() == ["0", "1"] and task.counts().to_numpy().tolist() == [
        [1, 2, 0]
    ]


def test_boolq_in_supergluess_form_is_the_same_and_a_title_leads_its_passage(tmp_path):
    rows = [
        {
            "question": r["question"],
            "label": r["answer"],
            "passage": r["passage"],
            "idx": 7 + i,
            "title": "T",
        }
        for i, r in enumerate(BOOLQ)
    ]
    put(tmp_path / "val.jsonl", "\n".join(map(json.dumps, rows)))
    questions = load_task("boolq", tmp_path, shots=0).questions
    assert questions["expected"].tolist() == ["yes", "no"] and questions["id"].tolist() == [
        "7",
        "8",
    ]
    assert questions["passage"].tolist() == ["T -- Water wets.", "T -- Fire burns."]


def test_every_problem_of_boolq_is_told_with_its_line(tmp_path):
    lines = [
        '{"question": "q", "answer": "maybe", "passage": "p"}',
        "not json",
        "[1]",
        '{"question": "q", "answer": true}',
        '{"question": null, "answer": 2, "passage": "p"}',
    ]
    put(tmp_path / "dev.jsonl", "\n".join(lines))
    found = problems("boolq", tmp_path)
    start = f"{tmp_path.name}/dev.jsonl:"
    assert found == [
        f"{start}1: answer is 'maybe'; expected one of no, yes",
        f"{start}2: is not JSON: Expecting value: line 1 column 1 (char 0)",
        f"{start}3: expected an object in braces, found '[1]'",
        f"{start}4: passage is empty",
        f"{start}5: question is empty",
        f"{start}5: answer is '2'; expected one of no, yes",
    ]


def test_examples_of_boolq_come_from_train(tmp_path):
    put(tmp_path / "dev.jsonl", json.dumps(BOOLQ[0]))
    assert problems("boolq", tmp_path, shots=1) == [
        "train.jsonl:1: is missing, and shots is 1; add the file or ask for 0 shots"
    ]
    put(tmp_path / "train.jsonl", json.dumps(BOOLQ[1]))
    assert load_task("boolq", tmp_path, shots=1).examples["boolq"][0]["answer"] == "no"


def test_the_real_boolq_reads(data):
    task = load_task("boolq", data / "boolq", shots=0)
    assert len(task.questions) == 3270 and (task.questions["expected"] == "yes").sum() == 2033


def test_the_hubs_exports_are_the_same_questions(tmp_path):
    """Answers are numbers, choices a list, ids integers, and the split is called validation."""
    rows = [{"question": r[0], "choices": r[1:5], "answer": "ABCD".index(r[5])} for r in MMLU_ROWS]
    for name in ("anatomy", "all"):
        parquet(tmp_path / f"mmlu/{name}/validation-00000-of-00001.parquet", rows)
    found = mmlu(tmp_path / "mmlu", split="val")
    assert found[[*MMLU_COLUMNS, "expected"]].to_numpy().tolist() == MMLU_ROWS
    keys = ["id", "question", "A", "B", "C", "D", "answer", "explanation"]
    ceval = [dict(zip(keys, [int(r[0]), *r[1:], ""], strict=True)) for r in ROWS["colours"]]
    parquet(tmp_path / "ceval/logic/val-00000-of-00001.parquet", ceval)
    found = load_task("ceval", tmp_path / "ceval", shots=0).questions
    assert found[["id", *MMLU_COLUMNS, "expected"]].to_numpy().tolist() == ROWS["colours"]
    parquet(tmp_path / "boolq/data/validation-00000-of-00001.parquet", BOOLQ)
    assert load_task("boolq", tmp_path / "boolq", shots=0).questions["expected"].tolist() == [
        "yes",
        "no",
    ]


def test_a_file_that_is_no_parquet_is_told(tmp_path):
    parquet(tmp_path / "x.parquet", BOOLQ)
    put(tmp_path / "validation.parquet", "PAR1")
    assert "1: is not valid parquet" in problems("boolq", tmp_path)[0]


@pytest.mark.parametrize("prefix", ["", "formal_ceval/"])
def test_the_official_zip_reads_as_the_folder_that_it_unpacks_to(tmp_path, prefix):
    exam = write_exam(tmp_path / "exam")
    archive = zipped(exam, tmp_path / "ceval-exam.zip", prefix)
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("__MACOSX/val/._colours_val.csv", b"\x00\x05")
        more.writestr(f"{prefix}val/.DS_Store", b"\x00")
    inside, beside = (load_task("ceval", path, shots=2) for path in (archive, exam))
    assert inside.questions.equals(beside.questions) and inside.examples == beside.examples


def test_reading_a_zip_writes_nothing_wherever_its_names_lead(tmp_path):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    with zipfile.ZipFile(archive, "a") as more:
        for name in ("../evil_val.csv", "/evil_val.csv", "val/../../evil_val.csv"):
            more.writestr(name, "x")
    before = sorted(tmp_path.rglob("*"))
    assert len(load_task("ceval", archive, shots=0).questions) == 5
    assert sorted(tmp_path.rglob("*")) == before


def test_problems_inside_a_zip_are_told_as_in_a_folder(tmp_path):
    exam = write_exam(tmp_path / "exam")
    put(exam / "val/colours_val.csv", "")
    found = problems("ceval", zipped(exam, tmp_path / "exam.zip"))
    assert found == ["val/colours_val.csv:1: is empty; expected questions"]


def test_a_damaged_zip_is_told_by_the_file_that_it_damages(tmp_path):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    raw = archive.read_bytes()
    at = raw.rindex("天是____".encode())  # val comes last
    archive.write_bytes(raw[:at] + "地".encode() + raw[at + 3 :])
    found = problems("ceval", archive)
    assert len(found) == 1 and found[0].startswith(
        "val/colours_val.csv:1: cannot be read: Bad CRC-32"
    )


def test_a_zip_whose_table_of_contents_is_damaged_is_told(tmp_path):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(b"PK\x01\x02", b"PK\x01\x03", 1))
    with pytest.raises(DataError, match=r"exam\.zip is damaged or incomplete: Bad magic number"):
        load_task("ceval", archive)


def test_a_damaged_mapping_in_a_zip_is_told(tmp_path):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    archive.write_bytes(archive.read_bytes().replace(b'"Tiny Sums"', b'"Tiny Bums"'))
    (found,) = problems("ceval", archive)
    assert found.startswith("subject_mapping.json:1: cannot be read: Bad CRC-32")


def test_a_zip_with_a_password_is_told_once_and_not_by_every_subject(tmp_path):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    raw = bytearray(archive.read_bytes())
    for head, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(re.escape(head), bytes(raw)):
            raw[found.start() + flags] |= 1
    archive.write_bytes(raw)
    (told,) = problems("ceval", archive)
    assert told.startswith("subject_mapping.json:1: cannot be read: File ")
    assert "is encrypted, password required" in told


def test_a_zip_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    monkeypatch.setattr("neoxlib.exam.data.find.LARGEST", 100)
    assert LARGEST > 10_000_000
    with pytest.raises(DataError, match=r"files of more than .* MB: "):
        load_task("ceval", archive)


def test_an_explanation_is_needed_where_the_examples_reason(tmp_path):
    exam = write_exam(tmp_path / "exam")
    assert (
        load_task("ceval", exam, shots=1, explained=True).examples["colours"][0]["explanation"]
        == "看"
    )
    put(
        exam / "dev/colours_dev.csv",
        csv_text([["id", *MMLU_COLUMNS, "answer"], ROWS["colours"][0]]),
    )
    assert problems("ceval", exam, shots=1, explained=True) == [
        "dev/colours_dev.csv:1: column(s) explanation missing; "
        "found: id, question, A, B, C, D, answer"
    ]


def test_the_other_benchmarks_splits_and_names_are_refused_as_c_evals_are(tmp_path):
    for asked in ({"task": "mmul"}, {"task": "boolq", "split": "train"}):
        with pytest.raises(SettingsError, match=r"mmlu|dev, val, test"):
            load_task(**{"data_dir": tmp_path} | asked)


def test_a_hidden_answer_is_none_and_answers_of_some_questions_only_are_told(tmp_path):
    """SuperGLUE's test split has -1 for every label."""
    rows = [
        {"question": r["question"], "label": -1, "passage": r["passage"], "idx": i}
        for i, r in enumerate(BOOLQ)
    ]
    put(tmp_path / "test.jsonl", "\n".join(map(json.dumps, rows)))
    assert not load_task("boolq", tmp_path, "test", shots=0).labelled
    put(tmp_path / "test.jsonl", "\n".join(map(json.dumps, [rows[0], rows[1] | {"label": 1}])))
    assert (
        "has questions without an answer, other questions have them"
        in problems("boolq", tmp_path, split="test")[0]
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"task": "mmlu", "data_dir": ""}, "data_dir: the shipped exam is none of mmlu's"),
        ({"task": "ceval", "data_dir": ""}, ""),
        ({"task": "quiz"}, "task: found 'quiz'"),
        ({"data_dir": "nowhere.zip"}, "data_dir: no folder or .zip"),
        ({"task": "cmmlu", "data_dir": ""}, "data_dir: the shipped exam is none of cmmlu's"),
        ({"data_dir": "nowhere.tar"}, "data_dir: no folder or .zip or .tar 'nowhere.tar'"),
        ({"data_dir": "setup.py"}, "data_dir: no folder or .zip or .tar"),
        ({"shots": -1}, "shots: found -1"),
        ({"shots": 0}, ""),
    ],
)
def test_parameters_of_an_exam_are_refused_before_the_notebook_starts(values, told):
    found = complaints(values, PARAMETERS)
    assert [line[: len(told)] for line in found] == ([told] if told else [])


def test_the_names_of_an_archive_are_looked_through_once(tmp_path, monkeypatch):
    """Not once for each folder: 3,000 empty ones in a small zip took half a minute."""
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip", "exam/")
    with zipfile.ZipFile(archive, "a") as more:
        for number in range(40):
            more.writestr(f"exam/d{number}/x.txt", "")
    parents = []
    monkeypatch.setattr(posixpath, "dirname", lambda name: parents.append(name) or dirname(name))
    assert len(load_task("ceval", archive, shots=2).questions) == 5
    assert parents.count("exam/d7/x.txt") <= 3  # as often as the archive is opened


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([f"d{n}" for n in range(30)], r"exam\.zip has more than 30 files and folders"),
        (["a/" * 21 + "x.csv"], r"has folders in folders, more than 20: a/a/"),
    ],
)
def test_an_archive_of_more_or_deeper_files_than_an_exam_has_is_refused(
    tmp_path, monkeypatch, names, told
):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    with zipfile.ZipFile(archive, "a") as more:
        for name in names:
            more.writestr(name, "")
    monkeypatch.setattr("neoxlib.exam.data.tar.MOST_MEMBERS", 30)
    with pytest.raises(DataError, match=told):
        load_task("ceval", archive)


def test_what_is_left_out_of_an_archive_may_be_large(tmp_path, monkeypatch):
    archive = zipped(write_exam(tmp_path / "exam"), tmp_path / "exam.zip")
    monkeypatch.setattr("neoxlib.exam.data.find.LARGEST", 3000)
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("auxiliary_train/race.csv", "a" * 3000)
        more.writestr("weights.bin", "a" * 3000)
    assert len(load_task("ceval", archive, shots=0).questions) == 5
