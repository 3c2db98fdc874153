"""The rules of each profile: the published wording, and the harness's own templates."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from neoxlib.errors import SettingsError
from neoxlib.exam import PROFILES, Profile, get_profile, load_task
from neoxlib.exam.data.benchmarks import BENCHMARKS
from neoxlib.exam.data.subjects import Subject
from neoxlib.exam.extract import EXTRACTIONS, first_letter, reasoned
from neoxlib.exam.prompts import build_prompts, names_of, render
from tests.support.exam_files import write_exam

QUESTION = {"question": " 1+1=____ ", "A": "1", "B": "2", "C": "3", "D": "4"}
EXAMPLE = {
    "question": "2+2=____ ",
    "A": "4",
    "B": "3",
    "C": "2",
    "D": "1",
    "answer": "A",
    "explanation": "1. 二加二。",
}
NAMES = names_of("college_physics", Subject("College Physics", "大学物理", "STEM"))
CHOICES = "A. 1\nB. 2\nC. 3\nD. 4\n"
SHOWN = "A. 4\nB. 3\nC. 2\nD. 1\n"


def text(profile: Profile) -> str:
    return render(profile, NAMES, QUESTION, [EXAMPLE])


def test_official_ceval_asks_as_its_authors_do():
    assert text(get_profile("official", "ceval")) == (
        "以下是中国关于大学物理考试的单项选择题，请选出其中的正确答案。\n\n"
        f"2+2=____ \n{SHOWN}答案：A\n\n 1+1=____ \n{CHOICES}答案："
    )


def test_official_cot_shows_the_explanations_and_begins_the_first_step():
    assert text(get_profile("official", "ceval", "cot")) == (
        "以下是中国关于大学物理考试的单项选择题，请选出其中的正确答案。\n\n"
        f"2+2=____ \n{SHOWN}答案：让我们一步一步思考，\n1. 二加二。\n所以答案是A。\n\n"
        f" 1+1=____ \n{CHOICES}答案：让我们一步一步思考，\n1."
    )


def test_opencompass_repeats_its_header_and_puts_nothing_between_the_parts():
    head = "以下是中国关于大学物理考试的单项选择题，请选出其中的正确答案。\n"
    assert text(get_profile("opencompass", "ceval")) == (
        f"{head}2+2=____ \n{SHOWN}答案: A{head} 1+1=____ \n{CHOICES}答案:"
    )


def test_official_cmmlu_asks_as_its_authors_do():
    assert text(get_profile("official", "cmmlu")) == (
        "以下是关于大学物理的单项选择题，请直接给出正确答案的选项。\n\n"
        f"题目：2+2=____ \n{SHOWN}答案是：A\n\n题目： 1+1=____ \n{CHOICES}答案是："
    )


@pytest.mark.parametrize("name", ["official", "vendor"])
def test_mmlus_frame_has_two_blanks_before_the_subject(name):
    """hendrycks' code writes both; the SDK took it over, for C-Eval too."""
    for task in ("mmlu", *(["ceval"] if name == "vendor" else [])):
        assert text(get_profile(name, task)) == (
            "The following are multiple choice questions (with answers) about  college physics.\n\n"
            f"2+2=____ \n{SHOWN}Answer: A\n\n 1+1=____ \n{CHOICES}Answer:"
        )


def rows_of_the_harness(name: str) -> dict:
    lm_eval = pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed: pip install 'neoxlib[eval]'"
    )
    folder = Path(lm_eval.__file__).parent / "tasks"
    return yaml.safe_load((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("task", "defaults", "subject"),
    [
        ("ceval", "ceval/_default_ceval_yaml", "ceval/ceval-valid_college_physics.yaml"),
        ("mmlu", "mmlu/default/_default_template_yaml", "mmlu/default/mmlu_college_physics.yaml"),
        ("cmmlu", "cmmlu/_default_template_yaml", "cmmlu/cmmlu_high_school_physics.yaml"),
        ("boolq", "super_glue/boolq/default.yaml", None),
    ],
)
def test_the_harnesss_templates_say_what_ours_say(task, defaults, subject):
    """Its templates and engine, with its delimiters: " " before an answer, two lines after."""
    from jinja2 import Environment

    rows = rows_of_the_harness(defaults) | (rows_of_the_harness(subject) if subject else {})
    template = Environment(keep_trailing_newline=True).from_string(rows["doc_to_text"])
    profile = get_profile("lm_eval", task)
    own = {"passage": "甲 -- 乙"} if task == "boolq" else {}

    def asked(row: dict) -> str:
        return template.render(
            **row, Question=row["question"], choices=[row[letter] for letter in "ABCD"]
        )

    example = EXAMPLE | own | ({"answer": "yes"} if task == "boolq" else {})
    shown = f"{rows.get('description', '')}{asked(example)} {example['answer']}"
    expected = f"{shown}\n\n{asked(QUESTION | own)}"
    names = NAMES
    if task == "cmmlu":  # which has no college_physics
        names = names_of("high_school_physics", BENCHMARKS["cmmlu"].subjects["high_school_physics"])
    assert render(profile, names, QUESTION | own, [example]) == expected
    assert profile.answers == tuple(f" {choice}" for choice in rows["doc_to_choice"])
    assert f"version {rows['metadata']['version']}" in profile.source


@pytest.mark.parametrize(
    ("task", "form"), [("ceval", "ceval/ceval-valid_{}.yaml"), ("cmmlu", "cmmlu/cmmlu_{}.yaml")]
)
def test_every_subject_is_headed_as_in_the_harness(task, form):
    profile = get_profile("lm_eval", task)
    for name, subject in BENCHMARKS[task].subjects.items():
        header = profile.header.format(**names_of(name, subject))
        assert header == rows_of_the_harness(form.format(name))["description"]


def test_the_harness_asks_no_other_subject_of_cmmlu():
    asked = rows_of_the_harness("cmmlu/_cmmlu.yaml")["task"]
    assert sorted(asked) == sorted(f"cmmlu_{name}" for name in BENCHMARKS["cmmlu"].subjects)


def test_every_row_is_whole_and_names_its_source_and_version():
    assert len({(p.task, p.name, p.mode) for p in PROFILES}) == len(PROFILES)
    for p in PROFILES:
        assert " at " in p.source or "lm-eval 0." in p.source or p.name == "vendor"
        assert p.average in ("macro", "micro") and not p.cue.endswith(" ")
        if p.scoring == "logprob":
            assert len(p.answers) == len(BENCHMARKS[p.task].choices) and not (
                p.extraction or p.max_new_tokens
            )
            assert tuple(a.strip() for a in p.answers) == BENCHMARKS[p.task].choices
        else:
            assert p.extraction in EXTRACTIONS and p.max_new_tokens and not p.answers
    assert [f.name for f in fields(Profile) if f.name in ("bugs", "departs")] == ["bugs", "departs"]


def test_the_vendors_bugs_are_marked_and_its_own_alone():
    assert all(bool(p.bugs) == (p.name == "vendor") for p in PROFILES)
    assert any("T for 'The answer is B'" in bug for bug in get_profile("vendor", "ceval").bugs)


def test_profiles_modes_and_shots_that_a_task_lacks_are_refused_with_those_it_has():
    with pytest.raises(
        SettingsError, match=r"did you mean 'official'.*: official, lm_eval, opencompass, vendor"
    ):
        get_profile("offical", "ceval")
    with pytest.raises(SettingsError, match=r"'official' is not known for boolq; known: lm_eval"):
        get_profile("official", "boolq")
    with pytest.raises(
        SettingsError, match=r"mode 'cot' is not known for profile lm_eval of ceval"
    ):
        get_profile("lm_eval", "ceval", "cot")
    with pytest.raises(SettingsError, match="no question with less than 1"):
        get_profile("vendor", "ceval", shots=0)


@pytest.mark.parametrize(
    ("task", "name"), [("ceval", "official"), ("mmlu", "official"), ("boolq", "lm_eval")]
)
def test_without_a_name_a_task_has_its_authors_rules(task, name):
    assert get_profile(None, task).name == name


def test_a_profile_brings_its_shots_and_zero_is_a_number_of_them():
    assert [get_profile("lm_eval", task).shots for task in ("ceval", "mmlu", "boolq")] == [5, 5, 0]
    assert (
        get_profile("official", "ceval", shots=0).shots == 0
        and get_profile("lm_eval", "boolq", shots=2).shots == 2
    )


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        (" B", "B"),
        ("\n b) because", "B"),
        ("The answer is B", "T"),
        ("答案是C。", "C"),
        ("42。", ""),
        ("", ""),
        ("éB", "B"),
    ],
)
def test_the_vendor_takes_the_first_ascii_letter_of_all(said, letter):
    assert first_letter(said) == letter


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        (" 猫有四条腿。\n所以答案是D。", "D"),
        ("A不对。答案为 B，因为", "B"),
        ("答案应该选C", "C"),
        ("答案：A", "A"),
        ("只有选项B是对", "B"),
        ("说法不正确的是A", "A"),
        ("C是正确答案", "C"),
        ("选项D正确", "D"),
        ("D。", "D"),
        ("因此B。", "B"),
        ("很难说", ""),
        ("", ""),
        ("This is A test", ""),
    ],
)
def test_a_chain_of_thought_ends_on_the_letter_it_concludes(said, letter):
    assert reasoned(said) == letter


def test_generated_answers_take_their_room_from_the_prompt(tmp_path):
    task = load_task("ceval", write_exam(tmp_path / "exam"), shots=2, explained=True)
    profile = get_profile("official", "ceval", "cot", shots=2)
    whole = build_prompts(task, task.questions, profile, len, 10_000)
    need = max(p.prompt_tokens for p in whole)
    assert all(
        p.shots_used == 2 for p in build_prompts(task, task.questions, profile, len, need + 512)
    )
    assert any(
        p.shots_used == 1 for p in build_prompts(task, task.questions, profile, len, need + 511)
    )
    with pytest.raises(SettingsError, match="writes up to 512 tokens, and the window is 512"):
        build_prompts(task, task.questions, profile, len, 512)


def test_the_vendors_limit_is_2000_tokens_and_never_without_an_example(tmp_path):
    task = load_task("ceval", write_exam(tmp_path / "exam"), shots=2)
    profile = get_profile("vendor", "ceval", shots=2)
    sizes = {
        n: len(
            render(
                profile,
                names_of("tiny_sums", task.subjects["tiny_sums"]),
                task.questions.iloc[0].to_dict(),
                task.examples["tiny_sums"][:n],
            )
        )
        for n in (0, 1, 2)
    }

    def first(extra: int):
        return build_prompts(task, task.questions, profile, lambda text: len(text) + extra, 10_000)[
            0
        ]

    assert (first(2000 - sizes[2]).shots_used, first(2001 - sizes[2]).shots_used) == (2, 1)
    never = first(2001 - sizes[1])
    assert (
        never.too_long and never.shots_used == 1
    )  # without examples it would fit, and the SDK does not ask it so
    assert sizes[0] < sizes[1]
