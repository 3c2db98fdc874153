"""The tables of an exam: complete, bounded, Chinese as Chinese, markup as text."""

import math

import pandas as pd
import pytest

from neoxlib.demo import EXAM_DIR
from neoxlib.exam import PROFILES, get_profile, load_task
from neoxlib.exam.browser import CLIP, PER_PAGE, STRIP, Browser, panel
from neoxlib.exam.results import choices, guessing, marks
from neoxlib.exam.scores import by_subject
from neoxlib.exam.tables import (
    best_and_worst,
    exam_table,
    rescore_table,
    rules_table,
    shortened_prompts,
)
from neoxlib.workbook import markup
from tests.support.exam_files import write_exam
from tests.support.exam_results import answers, yes_or_no


def many(n: int) -> pd.DataFrame:
    """`n` questions, each with an id and a text of its own; every third wrong."""
    rows = answers().iloc[[0] * n].reset_index(drop=True)
    numbers = rows.index.astype(str)
    wrong = rows.index % 3 == 0
    return rows.assign(
        id=numbers, question="question " + numbers, correct=~wrong, subject=["a", "b"] * (n // 2)
    )


def test_choices_and_guessing_are_the_exams_own():
    assert choices(answers()) == ("A", "B", "C", "D") and guessing(answers()) == 0.25
    assert choices(yes_or_no()) == ("no", "yes") and guessing(yes_or_no()) == 0.5


def test_each_question_has_one_mark():
    assert marks(answers()).tolist() == ["right", "wrong", "right", "right", "too long"]
    assert marks(answers(labelled=False)).tolist() == ["answered"] * 4 + ["too long"]


@pytest.mark.parametrize("results", [answers(), yes_or_no()], ids=["four choices", "two choices"])
def test_every_view_shows_markup_and_formulas_of_the_data_as_text(results):
    odd = "<script>x</script><img src=x onerror=y> $x$ &amp; 甲"
    texts = dict.fromkeys(("name", "id", "question", "prompt", "predicted", "expected"), odd)
    page = Browser(results.assign(**texts, answer_text=odd))._repr_html_()
    assert "<script" not in page and "<img" not in page
    assert page.count(
        "&lt;script&gt;x&lt;/script&gt;&lt;img src=x onerror=y&gt; $x$ &amp;amp; 甲"
    ) == 7 * len(results)
    assert page.startswith('<div class="tex2jax_ignore mathjax_ignore">')


def test_the_text_of_a_question_commands_no_terminal():
    shown = repr(Browser(answers().assign(question="\x1b[2Jgone")))
    assert "\x1b" not in shown and "⟨U+001B⟩[2Jgone" in shown


def test_a_row_has_its_choices_with_their_shares_its_answer_and_its_prompt():
    page = Browser(answers())._repr_html_()
    assert "#0072b238 10%, transparent 10%)" in markup.clean(page), "the bars reach a report"
    assert "<b>A. 一</b>  <small>10%</small>" in page and "D. 四  <small>40%</small>" in page
    assert "问7\n答案：" in page and "prompt: 11 tokens, 2 examples" in page
    assert "too long" in page and "nan" not in page
    assert (
        "5 questions (3 of the 3 right, 1 of the 1 wrong, 1 of the 1 too long), which is all"
        in page
    )
    assert "yes  <small>25%</small>" in Browser(yes_or_no())._repr_html_()
    assert (
        "passage</small></summary>a &lt;b&gt;"
        in Browser(yes_or_no().assign(passage="a <b>"))._repr_html_()
    )


def test_what_was_written_is_shown_where_answers_were_written():
    assert "wrote:" not in Browser(answers())._repr_html_()
    assert (
        "The answer is B" in Browser(answers().assign(answer_text="The answer is B"))._repr_html_()
    )


def test_the_plain_table_is_bounded_and_says_what_it_leaves_out():
    page = Browser(many(200), most=12)._repr_html_()
    assert page.count("<tr>") == 2 + 12  # a head for each of the two tables
    assert "The 10 surest of the 67 wrong answers, the surest first:" in page
    assert "188 more are not shown here" in page and "questions.csv" in page
    long = answers().assign(question="长" * (CLIP + 7), prompt="x" * 10**6)
    page = Browser(long)._repr_html_()
    assert "长" * CLIP + " … (7 more characters in questions.csv)" in page and len(page) < 50_000


def test_every_subject_is_shown_before_any_is_shown_twice_and_wrong_answers_first():
    questions = many(20).assign(correct=False).iloc[:16]
    shown = Browser(questions, most=STRIP + 2).others()
    assert shown["subject"].tolist() == ["a", "b"] and not shown["correct"].any()
    every = Browser(many(20), most=20)
    assert every.others()["id"].tolist() == [str(n) for n in range(20) if n % 3]


def sure(shares: list[float], wrong: str) -> pd.DataFrame:
    """Questions with ids 0, 1, …, the share of the choice taken, and which of them are wrong."""
    rows = answers().iloc[[0] * len(shares)].reset_index(drop=True)
    taken = pd.Series(shares)
    rest = {f"p_{choice}": (1 - taken) / 3 for choice in "BCD"}
    right = [number not in wrong for number in rows.index.astype(str)]
    return rows.assign(id=rows.index.astype(str), correct=right, p_A=taken, **rest)


def test_the_surest_wrong_answers_come_first_and_all_else_as_asked():
    browser = Browser(sure([0.3, 0.9, 0.5, math.nan, 0.99, 0.9], wrong="01235"))
    assert browser.select()["id"].tolist() == ["1", "5", "2", "0", "3", "4"]
    assert browser.select(order="as asked")["id"].tolist() == list("012345")
    assert browser.wrong()["id"].tolist() == ["1", "5", "2", "0", "3"]
    assert browser.others()["id"].tolist() == ["4"]
    page = browser._repr_html_()
    assert page.index("90%") < page.index("50%") < page.index("30%") < page.index("99%")
    assert "The 5 wrong answers, the surest first:" in page and "nan" not in page


def test_where_nothing_is_wrong_or_right_there_is_one_table():
    for rows, title in ((sure([0.5, 0.6], ""), ""), (sure([0.5], "0"), "The wrong answer:")):
        page = Browser(rows)._repr_html_()
        assert page.count("<table") == 1 and "Others" not in page and title in page
    assert "surest" not in Browser(answers(labelled=False))._repr_html_()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ["7", "0", "0", "1", "2"]),
        ({"order": "as asked"}, ["0", "7", "0", "1", "2"]),
        ({"subject": "logic"}, ["0", "1", "2"]),
        ({"mark": "wrong"}, ["7"]),
        ({"mark": "right", "subject": "logic"}, ["0", "1"]),
        ({"text": "ALERT(1)"}, ["7", "0", "0", "1", "2"]),
        ({"text": "[("}, []),
        ({"text": "7"}, ["7"]),
        ({"text": "四", "mark": "too long"}, ["2"]),
    ],
)
def test_filters_find_by_subject_mark_and_text(asked, expected):
    assert Browser(answers()).select(**asked)["id"].tolist() == expected


def widgets_of(browser):
    box = panel(browser)
    filters, pages, table = box.children
    return *filters.children, *pages.children, table


def test_the_panel_pages_through_what_the_filters_leave():
    subject, mark, text, order, page, back, on, found, table = widgets_of(Browser(many(20)))
    assert "question 0<" in table.value and "question 3<" in table.value  # the wrong ones
    order.value = "as asked"
    assert (
        page.max == 20 / PER_PAGE
        and table.value.count("<tr>") == 1 + PER_PAGE
        and "20 of 20" in found.value
    )
    back.click()
    assert page.value == 1
    on.click()
    assert (
        page.value == 2
        and f"question {PER_PAGE}<" in table.value
        and "question 0<" not in table.value
    )
    mark.value = "wrong"
    assert page.value == 1 and page.max == 2 and "7 of 20" in found.value
    page.value = 2
    on.click()
    assert page.value == 2 and table.value.count("<tr>") == 1 + 2
    subject.value = "b"
    mark.value = ""
    text.value = "question 13"
    assert "1 of 20" in found.value and "question 13<" in table.value
    text.value = "nowhere"
    assert "No such question" in table.value and page.max == 1


def test_widgets_are_shown_where_a_jupyter_server_runs_the_kernel_and_nowhere_else(monkeypatch):
    view = "application/vnd.jupyter.widget-view+json"
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert sorted(Browser(answers())._repr_mimebundle_()) == ["text/html", "text/plain"]
    monkeypatch.setenv("JPY_SESSION_NAME", "/work/03_ceval.ipynb")
    bundle = Browser(answers())._repr_mimebundle_(include=None, exclude=None)
    assert sorted(bundle) == [view, "text/html", "text/plain"] and "model_id" in bundle[view]
    assert "问7" in bundle["text/html"]  # what a report shows


def test_rules_show_their_blanks_and_line_breaks():
    assert (
        "选出其中的正确答案。\\n\\n&#x27;"
        in rules_table(get_profile("official", "ceval"))._repr_html_()
    )


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.task}-{p.name}-{p.mode}")
def test_rules_name_their_source_and_mark_every_fault_that_is_kept(profile):
    rows = rules_table(profile).rows
    assert profile.source in rows["value"].tolist()
    assert rows.loc[rows["rule"] == "BUG, kept", "value"].tolist() == list(profile.bugs)
    assert rows.loc[rows["rule"] == "departs from the original", "value"].tolist() == list(
        profile.departs
    )
    assert not rows["value"].isin(["''", "()", "0"]).any()


def test_the_licence_is_the_datas_own(tmp_path, data):
    shipped = repr(exam_table(load_task("ceval", EXAM_DIR)))
    assert "Apache-2.0" in shipped and "CC BY" not in shipped
    given = exam_table(load_task("ceval", data / "ceval", subjects=["logic"]))._repr_html_()
    assert "CC BY-NC-SA 4.0" in given and "LICENSE-DATA" in given and "Apache" not in given


def test_a_folder_without_a_licence_file_has_no_such_line(tmp_path):
    table = exam_table(load_task("ceval", write_exam(tmp_path), shots=0)).rows.set_index("")["what"]
    assert list(table.index) == ["exam", "benchmark", "licence of the benchmark's data"]


def test_an_exam_of_ones_own_is_not_put_under_the_benchmarks_licence(tmp_path):
    table = exam_table(load_task("ceval", write_exam(tmp_path), shots=0)).rows.set_index("")["what"]
    assert table["benchmark"].startswith(
        "none: subjects of its own, in the layout and under the rules of C-Eval"
    )
    assert "CC BY" not in table["licence of the benchmark's data"]


def test_what_the_folder_lacks_is_named(data):
    lacks = exam_table(load_task("ceval", data / "ceval")).rows.set_index("")["what"][
        "not in this folder"
    ]
    assert lacks.startswith("12 subjects: ") and "physician" in lacks


def test_no_subject_is_among_the_hardest_and_the_easiest_at_once():
    rows = pd.concat(
        [answers(), answers().assign(subject=lambda t: t["subject"] + "_2", correct=True)]
    )
    found = best_and_worst(by_subject(rows)).rows
    assert found[""].tolist() == ["easiest", "easiest", "hardest", "hardest"]
    assert found["right"].tolist() == ["2 of 2", "3 of 3", "1 of 2", "2 of 3"]
    level = by_subject(rows.assign(correct=True, name=rows["subject"]))
    assert best_and_worst(level).rows["subject"].is_unique and len(best_and_worst(level).rows) == 4
    assert "none is the hardest" in repr(best_and_worst(by_subject(yes_or_no())))
    assert "none is the hardest" in repr(best_and_worst(by_subject(answers(labelled=False))))


def test_asked_alone_the_largest_difference_and_the_flipped_answers_are_said():
    rows = pd.DataFrame(
        {
            "subject": "a",
            "id": ["0", "1", "2"],
            "predicted": "A",
            "predicted_alone": ["A", "B", "A"],
            "flipped": [False, True, False],
            "difference": [1e-6, 0.25, 0.0],
        }
    )
    found = rescore_table(rows)
    assert found.rows["id"].tolist() == ["1"]
    assert found.note == (
        "3 questions asked again, each in a batch of its own: 1 answer flipped; "
        "the largest difference of a log-probability is 0.25."
    )
    written = rescore_table(rows.assign(flipped=False, difference=math.nan))
    assert written.rows.empty and written.note.endswith("0 answers flipped.")


def exam_of(tmp_path, split: str = "val", shots: int = 2):
    task = load_task("ceval", write_exam(tmp_path), split=split, shots=shots)
    asked = task.questions.assign(
        predicted="A",
        correct=False,
        too_long=False,
        prompt="",
        prompt_tokens=9,
        shots_used=shots,
        p_A=math.nan,
        p_B=math.nan,
        p_C=math.nan,
        p_D=math.nan,
    )
    return task, asked


def test_questions_asked_without_some_examples_are_listed_with_what_was_left_out(tmp_path):
    task, asked = exam_of(tmp_path)
    assert "All 5 questions were asked with all their examples" in repr(
        shortened_prompts(asked, task)
    )
    asked["shots_used"] = [2, 1, 0, 0, 2]
    asked.loc[3, "too_long"] = True
    found = shortened_prompts(asked, task)
    assert found.rows["what"].tolist() == [
        "too long even alone: wrong",
        "without 2 of the examples",
        "without 1 of the examples",
    ]
    assert found.note == "3 of 5 questions were not asked in full."
    assert "the 2 that lack most are shown" in shortened_prompts(asked, task, most=2).note


def test_a_dev_question_is_not_missing_its_own_answer(tmp_path):
    task, asked = exam_of(tmp_path, split="dev")
    assert "All 4 questions" in repr(shortened_prompts(asked.assign(shots_used=1), task))
