"""No text of a user, a model or a file becomes markup: every view shows it as typed."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter

from neoxlib import compare
from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.errors import UNSEEN
from neoxlib.exam import changed_answers, load_task
from neoxlib.exam.browser import Browser
from neoxlib.exam.scores import by_subject, readable
from neoxlib.exam.tables import exam_table
from neoxlib.inference import tables as inference_tables
from neoxlib.inference.text import Completion, Timings
from neoxlib.machine.host import Host
from neoxlib.setup import doctor
from neoxlib.setup.machine_checks import CheckRow
from neoxlib.speed import plan as speed_plan
from neoxlib.speed import tables
from neoxlib.workbook import markup, pages, past_run
from neoxlib.workbook.run import Params, Run
from neoxlib.workbook.table import Note, Table, TextTable, frame_html, show_frames
from tests.support.exam_results import answers, yes_or_no
from tests.support.timed_cases import ENVIRONMENT, MODEL, Notes, earlier, table

HOSTILE = (
    "<script>alert(1)</script>",
    "</td></tr></table><h1>gone</h1>",
    "</pre><iframe src=x>",
    "<!-- ",
    "]]>",
    "&lt;b&gt;",
    '" onload="x()',
    "'><img src=x onerror=y>",
    "$x^2$ and \\(y\\)",
    "{{ 7 * 7 }} {% raw %}",
    "**bold** [a](b) | c `d`",
    "  two  blanks  ",
    "line\nbreak\n\n  indented",
    "</style><style>*{display:none}</style>",
    "甲 < 乙 & 丙",
    "a\u202eb\u2066c\u200bd\ufeffe\u2028f",
    "\x1b]0;title\x07\x00\x9b2J",
)
PLAIN = "plain"


def completion(text: str) -> Completion:
    timings = Timings([0.1], [0.5], [0.2], [0.2])
    return Completion(text, [5], "length", timings, [-0.1], [[(5, -0.1), (6, -2.0)]])


class Spells:
    """A tokenizer each of whose tokens is the same text."""

    def __init__(self, text: str) -> None:
        self.decode = lambda ids: text


def two_runs(text: str, tmp_path) -> compare.Pair:
    paths = [
        earlier(
            tmp_path / "04_profile" / name,
            table(),
            parameters={"model_dir": text + name},
            model=MODEL | {"model_dir": text},
            environment=ENVIRONMENT | {"cpu": text + name},
            metrics={text: text},
        )
        for name in "ab"
    ]
    return compare.Pair(*map(past_run.open_run, paths))


def described(text: str) -> Notes:
    run = Notes()
    run.results["model"] = MODEL | {"model_dir": text}
    run.environment = ENVIRONMENT | {"cpu": text, "variables": {text: text}}
    return run


def exam(text: str, **more: str) -> pd.DataFrame:
    table = answers()
    same = dict.fromkeys(("name", "question", "prompt", "predicted", "expected", "A"), text)
    return table.assign(id=[f"{text}{n}" for n in range(len(table))], **same)


def shown(frame: pd.DataFrame) -> SimpleNamespace:
    """A frame as a notebook shows it."""
    return SimpleNamespace(_repr_html_=lambda: frame_html(frame))


VIEWS = {
    "Table": lambda text, _: Table((text, "b"), [(text, 1)]),
    "Note": lambda text, _: Note(text),
    "Params": lambda text, _: Params(prompts=[text], model_dir=text),
    "TextTable": lambda text, _: TextTable(pd.DataFrame({text: [text]}), text),
    "answers": lambda text, _: inference_tables.readable(
        inference_tables.answers([text], [completion(text)])
    ),
    "tokens": lambda text, _: inference_tables.readable(
        inference_tables.tokens(completion(text), Spells(text))
    ),
    "strip": lambda text, _: SimpleNamespace(
        _repr_html_=lambda: inference_tables.strip(completion(text), Spells(text)).data
    ),
    "doctor": lambda text, _: doctor.Report((CheckRow(text, "FAIL", text, text, text),), Host()),
    "Verdicts": lambda text, _: tables.Verdicts(
        table().assign(bound="compute", first_bound="compute", verdict=text)
    ),
    "box": lambda text, _: tables.box(described(text)),
    "figures": lambda text, where: compare.figures(two_runs(text, where)),
    "names": lambda text, where: two_runs(text, where).names,
    "parameters": lambda text, where: two_runs(text, where).parameters,
    "environment": lambda text, where: two_runs(text, where).environment,
    "Browser": lambda text, _: Browser(exam(text).assign(answer_text=text)),
    "Browser, two choices": lambda text, _: Browser(
        yes_or_no().assign(passage=text).rename(columns={"p_yes": f"p_{text}"})
    ),
    "subjects": lambda text, _: shown(
        readable(by_subject(exam(text).assign(expected="A", predicted="A")))
    ),
    "changed answers": lambda text, _: changed_answers(
        exam(text), exam(text).assign(predicted="other")
    ),
    "frames": lambda text, _: shown(pd.DataFrame({text: [text]}, index=[text])),
}


# Shown by a notebook itself: their plain form is another object's.
PLAINLESS = ("strip", "subjects", "frames")


def tags(html: str) -> list[str]:
    return [tag.name for tag in BeautifulSoup(html, "html.parser").find_all(True)]


def words(text: str) -> str:
    """Without white space; `views` shows it by signs, and lists by Python's own."""
    text = re.sub(r"\\n|[ \n␣⏎\u00a0]", "", text).replace("\\\\", "\\").replace("\\'", "'")
    by_python = r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))"
    return re.sub(by_python, lambda at: numbered(int(at[1] or at[2], 16)), text)


def numbered(letter: int) -> str:
    return f"⟨U+{letter:04X}⟩"


def as_shown(text: str) -> str:
    """A text with those of its letters by number that no reader sees."""
    unseen = "\u202e\u2066\u200b\ufeff\u2028\x1b\x07\x00\x9b"
    return "".join(numbered(ord(letter)) if letter in unseen else letter for letter in text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("view", VIEWS)
def test_no_text_becomes_an_element_and_each_can_be_read(view, text, tmp_path):
    html = VIEWS[view](text, tmp_path / "hostile")._repr_html_()
    assert tags(html) == tags(VIEWS[view](PLAIN, tmp_path / "plain")._repr_html_())
    assert words(as_shown(text)) in words(BeautifulSoup(html, "html.parser").get_text())
    assert not UNSEEN.search(html)


@pytest.mark.parametrize("view", [view for view in VIEWS if view not in PLAINLESS])
def test_no_plain_form_hides_a_letter_or_commands_a_terminal(view, tmp_path):
    for number, text in enumerate(HOSTILE[-2:]):
        assert not UNSEEN.search(repr(VIEWS[view](text, tmp_path / str(number))))


@pytest.mark.parametrize("text", HOSTILE)
def test_prompts_and_answers_are_shown_as_they_were_typed(text):
    """To the letter, line breaks and blanks included, which the style keeps."""
    html = inference_tables.readable(
        inference_tables.answers([text], [completion(text)])
    )._repr_html_()
    cells = BeautifulSoup(html, "html.parser").select("td")
    assert [cell.text for cell in cells[:2]] == [as_shown(text)] * 2 and all(
        "pre-wrap" in cell["style"] for cell in cells
    )


def test_tables_of_answers_and_tokens_show_figures_as_people_read_them():
    shown = inference_tables.readable(inference_tables.answers(["a"], [completion("b")])).rows.iloc[
        0
    ]
    assert shown.tolist() == ["a", "b", "1", "length", "1.0", "–"]
    assert inference_tables.readable(inference_tables.tokens(completion("b"), Spells("b"))).rows[
        "probability"
    ].tolist() == ["90.5%"]


@pytest.mark.parametrize("view", [name for name in VIEWS if name not in ("subjects", "frames")])
def test_a_dollar_sign_is_no_formula(view, tmp_path):
    html = VIEWS[view]("$x$", tmp_path)._repr_html_()
    assert not [
        part
        for part in BeautifulSoup(html, "html.parser").find_all(string=re.compile(r"\$x\$"))
        if not part.find_parent(class_="mathjax_ignore")
    ]


def test_frames_of_a_run_hold_no_formulas_either(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path))
    Run.start("some", {"seed": 0})
    assert "mathjax_ignore" in pd.DataFrame({"a": ["$x$"]})._repr_html_()


def test_the_memory_plan_and_the_exams_own_facts_are_text(monkeypatch):
    plan = speed_plan.plan(MODEL_DIR, 1)
    whole = tags(plan._repr_html_())
    monkeypatch.setattr(type(plan), "title", HOSTILE[1])
    monkeypatch.setattr(speed_plan, "NOTES", (HOSTILE[0],) * len(speed_plan.NOTES))
    assert tags(plan._repr_html_()) == whole
    assert markup.NO_FORMULAS in exam_table(load_task("ceval", EXAM_DIR))._repr_html_()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_results_becomes_an_element_of_a_page(text, tmp_path):
    def page(word: str) -> str:
        run = {
            "status": "failed",
            "notebook": word,
            "run": word,
            "parameters": {word: word, "model_dir": word},
            "given": [word],
            "environment": {word: word},
            "model": {word: {word: word}},
            "metrics": {word: word},
            "checks": [{"name": word, "passed": False, "detail": word}],
            "started": word,
            "seconds": word,
            "error": {"type": word, "message": word, "cell": word, "source": word},
        }
        folder = tmp_path / str(word == PLAIN) / "some" / "run"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(run), encoding="utf-8")
        (folder / "notebook.ipynb").write_text(BOOK, encoding="utf-8")
        report = pages.write_report(folder).read_text(encoding="utf-8")
        return report + pages.write_index(folder.parents[1]).read_text(encoding="utf-8")

    hostile = page(text)
    plain = page(PLAIN)
    assert tags(hostile) == tags(plain) and not UNSEEN.search(hostile)
    assert words(as_shown(text)) in words(BeautifulSoup(hostile, "html.parser").get_text())


BOOK = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


def test_no_notebook_shows_a_styler_which_escapes_nothing():
    notebooks = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
    assert notebooks and not [
        path for path in notebooks if re.search(r"\.style\b", path.read_text("utf-8"))
    ]


def test_columns_of_texts_are_left_and_those_of_numbers_right_in_every_table():
    rows = [("a", "1.5"), ("b", "–")]
    own = Table(("text", "n"), rows)._repr_html_()
    frame = frame_html(pd.DataFrame({"text": ["a", "b"], "n": [1.5, None]}))
    for html, columns in ((own, ["left", "right"]), (frame, ["left", "left", "right"])):
        for row in BeautifulSoup(html, "html.parser").select("tr"):
            styles = [cell["style"].split(";")[0] for cell in row.select("th, td")]
            assert styles == [f"text-align:{side}" for side in columns]


def test_a_frame_of_many_rows_and_levels_keeps_its_form():
    index = pd.MultiIndex.from_tuples([("p", 1), ("p", 2)], names=["u", "v"])
    page = BeautifulSoup(frame_html(pd.DataFrame({"b": ["x", "y"]}, index=index)), "html.parser")
    assert [cell["style"].split(";")[0] for cell in page.select("tbody td")] == [
        "text-align:left"
    ] * 2
    assert len(page.select("[rowspan]")) == 1 and not page.select("style")
    long = BeautifulSoup(frame_html(pd.DataFrame({"a": range(1000)})), "html.parser")
    assert len(long.select("tr")) == 12 and "1000 rows" in long.text


def test_a_notebook_shows_frames_and_series_with_nothing_unseen(monkeypatch):
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    show_frames()
    frame = pd.DataFrame({"a\u202e": ["b\u2066<i>"]}, index=["c\x1b"])
    for shown in (frame, frame["a\u202e"]):
        data, _ = shell.display_formatter.format(shown)
        assert not {
            letter for text in data.values() for letter in text if letter in "\u202e\u2066\x1b"
        }
        assert all("b⟨U+2066⟩" in text for text in data.values())
    assert "&lt;i&gt;" in shell.display_formatter.format(frame)[0]["text/html"]
