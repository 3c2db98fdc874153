"""Result files that other people's scripts parse, byte by byte."""

import json

import pandas as pd
import pytest

from neoxlib.tasks import PROFILES, browse, rules, write_files

CHOICES = {"A": "一", "B": "二<b>", "C": "三", "D": "四"}


def results(labelled: bool = True) -> pd.DataFrame:
    """Two subjects, one of them hard; the last question was too long to ask."""
    rows = [("college_physics", "STEM", True, "0", "A", "A"), ("college_physics", "STEM", True, "7", "B", "C"),
            ("logic", "Humanities", False, "0", "D", "D"), ("logic", "Humanities", False, "1", "D", "D"),
            ("logic", "Humanities", False, "2", "D", "")]
    return pd.DataFrame([
        {"subject": subject, "name": subject.title(), "class": category, "hard": hard, "id": number,
         "question": "甲\n<script>$x$</script>", **CHOICES, "expected": expected if labelled else "",
         "predicted": predicted, "correct": labelled and predicted == expected, "p_A": 0.1, "p_B": 0.2, "p_C": 0.3,
         "p_D": 0.4 if predicted else None, "shots_used": 5, "prompt_tokens": 11, "too_long": not predicted,
         "prompt": f"问{number}\n答案："}
        for subject, category, hard, number, expected, predicted in rows
    ])


def test_the_vendors_files_are_written_to_the_byte(tmp_path):
    names = write_files(tmp_path, results())
    found = {name: (tmp_path / name).read_bytes().decode() for name in names}
    assert found["test_result/cache0.csv"] == (
        "college_physics,0,A,A\ncollege_physics,7,B,C\nlogic,0,D,D\nlogic,1,D,D\nlogic,2,D,-1\n"
    )
    assert found["test_result/result_0_subject_acc.json"] == '{"college_physics": 0.5, "logic": 0.6666666666666666}'
    assert found["test_result/result_0_classes_acc.json"] == (
        '{"STEM": 0.5, "Social Science": null, "Humanities": 0.6666666666666666, "Other": null, '
        '"Avg": 0.6, "Avg(Hard)": 0.5}'
    )
    assert found["test_result/device0.log"].startswith(
        "[+] prompt length: 11\n========== prompt start ==========\n问0\n答案：\n========== prompt end ==========\n"
        "[Correct] predict: A, label: A\n"
    )
    assert found["test_result/device0.log"].endswith("[Wrong] predict: -1, label: D\n")
    assert sorted(found) == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*"))


def test_without_answers_a_submission_in_the_official_form_is_written_and_no_score(tmp_path, data):
    assert write_files(tmp_path, results(labelled=False)) == ["submission.json"] == [p.name for p in tmp_path.iterdir()]
    path = tmp_path / "submission.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == {"college_physics": {"0": "A", "7": "C"}, "logic": {"0": "D", "1": "D", "2": "A"}}
    official = json.loads((data / "ceval/submission_example.json").read_text(encoding="utf-8"))
    assert {type(k) for s in official.values() for k in (*s, *s.values())} == {str}
    assert path.read_text().splitlines()[:3] == ["{", '    "college_physics": {', '        "0": "A",']


def test_the_question_table_shows_chinese_and_escapes_the_rest():
    table = browse(results())
    shown = table._repr_html_()
    assert "甲\n&lt;script&gt;$x$&lt;/script&gt;" in shown and "B. 二&lt;b&gt;  (20%)" in shown
    assert "<script>" not in shown
    assert "too long" in shown and "2 of 2 wrong answers among 5 questions" in shown
    assert "College_Physics" in repr(table)


@pytest.mark.parametrize(("per_subject", "most", "expected"), [(1, 9, ["7", "2"]), (1, 1, ["7"]), (0, 9, [])])
def test_the_question_table_stays_small(per_subject, most, expected):
    assert browse(results(), per_subject, most).rows["id"].tolist() == expected


def test_every_subject_is_shown_before_any_subject_is_shown_twice():
    rows = results().assign(correct=False)
    assert browse(rows, per_subject=3, most=2).rows["subject"].tolist() == ["College_Physics", "Logic"]


def test_without_answers_the_question_table_says_so():
    assert "this split has no key" in browse(results(labelled=False)).note


def test_rules_show_their_blanks_and_line_breaks():
    assert "选出其中的正确答案。\\n\\n&#x27;" in rules(PROFILES["official"])._repr_html_()
