"""Result files that other people's scripts parse, byte by byte."""

import csv
import json

import pytest

from neoxlib.errors import SettingsError
from neoxlib.exam import write_files
from neoxlib.exam.export import class_accuracy
from tests.support.exam_results import answers, yes_or_no


def written(folder, *args) -> dict[str, str]:
    names = write_files(folder, *args)
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes().decode()
        for p in folder.glob("**/*")
        if p.is_file()
    }
    assert sorted(names) == sorted(found)
    return found


def test_the_vendors_files_are_written_to_the_byte(tmp_path):
    found = written(tmp_path, answers())
    assert found["test_result/cache0.csv"] == (
        "college_physics,0,A,A\ncollege_physics,7,B,C\nlogic,0,D,D\nlogic,1,D,D\nlogic,2,D,-1\n"
    )
    assert (
        found["test_result/result_0_subject_acc.json"]
        == '{"college_physics": 0.5, "logic": 0.6666666666666666}'
    )
    assert found["test_result/result_0_classes_acc.json"] == (
        '{"STEM": 0.5, "Social Science": null, "Humanities": 0.6666666666666666, "Other": null, '
        '"Avg": 0.6, "Avg(Hard)": 0.5}'
    )
    log = found["test_result/device0.log"]
    assert log.startswith(
        "[+] prompt length: 11\n"
        "========== prompt start ==========\n问0\n答案：\n========== prompt end ==========\n"
        "[Correct] predict: A, label: A\n"
    )
    assert log.endswith("[Wrong] predict: -1, label: D\n") and len(found) == 4


def test_a_written_answer_stands_in_the_log_after_its_prompt(tmp_path):
    log = written(tmp_path, answers().assign(answer_text="The answer is A"))[
        "test_result/device0.log"
    ]
    assert (
        "========== prompt end ==========\n========== answer start ==========\nThe answer is A\n"
        "========== answer end ==========\n[Correct] predict: A, label: A\n"
    ) in log


def test_the_newer_sdks_files_have_its_names_and_count_ids_through_all_subjects_by_name(tmp_path):
    backwards = answers().sort_values("subject", ascending=False, kind="stable")
    found = written(tmp_path, backwards, "newer")
    names = ["cache.txt", "device.log", "result_classes_acc.json", "result_subject_acc.json"]
    assert sorted(found) == [f"test_result/{name}" for name in names]
    assert found["test_result/cache.txt"] == (
        "0,college_physics,A,A\n1,college_physics,B,C\n2,logic,D,D\n3,logic,D,D\n4,logic,D,-1\n"
    )
    assert list(json.loads(found["test_result/result_subject_acc.json"])) == [
        "college_physics",
        "logic",
    ]


@pytest.mark.parametrize(("sdk", "name"), [("guide", "cache0.csv"), ("newer", "cache.txt")])
@pytest.mark.parametrize("results", [answers(), yes_or_no()], ids=["four choices", "two choices"])
def test_column_c_is_expected_and_column_d_predicted(tmp_path, sdk, name, results):
    rows = list(csv.reader(written(tmp_path, results, sdk)[f"test_result/{name}"].splitlines()))
    assert [row[2] for row in rows] == results["expected"].tolist()
    assert [row[3].replace("-1", "") for row in rows] == results["predicted"].tolist()


def test_an_exam_with_classes_of_its_own_has_those_before_the_averages(tmp_path):
    found = written(tmp_path, yes_or_no())
    assert json.loads(found["test_result/result_0_classes_acc.json"]) == {
        "Reading": 2 / 3,
        "Avg": 2 / 3,
        "Avg(Hard)": None,
    }
    assert json.loads(found["test_result/result_0_subject_acc.json"]) == {"boolq": 2 / 3}


def test_usual_classes_beside_those_of_its_own_are_written_too():
    table = answers().assign(**{"class": ["STEM", "STEM", "Art", "Art", "Art"]})
    assert class_accuracy(table) == {"STEM": 0.5, "Art": 2 / 3, "Avg": 0.6, "Avg(Hard)": 0.5}
    assert list(class_accuracy(table)) == ["STEM", "Art", "Avg", "Avg(Hard)"]


def test_names_of_an_unknown_sdk_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SettingsError, match="expected one of guide, newer"):
        write_files(tmp_path, answers(), "old")
    assert not list(tmp_path.iterdir())


def test_without_answers_a_submission_in_the_official_form_is_written_and_no_score(tmp_path):
    assert list(written(tmp_path, answers(labelled=False))) == ["submission.json"]
    path = tmp_path / "submission.json"
    assert json.loads(path.read_text()) == {
        "college_physics": {"0": "A", "7": "C"},
        "logic": {"0": "D", "1": "D", "2": "A"},
    }
    assert path.read_text().splitlines()[:3] == [
        "{",
        '    "college_physics": {',
        '        "0": "A",',
    ]


def test_the_submission_is_shaped_as_the_official_example(data):
    official = json.loads((data / "ceval/submission_example.json").read_text(encoding="utf-8"))
    assert {type(k) for s in official.values() for k in (*s, *s.values())} == {str}
