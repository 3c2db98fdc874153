"""Prompts: the published wording to the letter, and examples that fall off whole."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from neoxlib.exam import get_profile, load_task
from neoxlib.exam.prompts import build_prompts
from tests.support.exam_files import write_exam

OFFICIAL = get_profile("official", "ceval")
TWO_SHOTS = (
    "以下是中国关于小算术考试的单项选择题，请选出其中的正确答案。\n\n"
    "1+2=____\nA. 3\nB. 4\nC. 5\nD. 6\n答案：A\n\n"
    "5-5=____\nA. 7\nB. 1\nC. 2\nD. 0\n答案：D\n\n"
    "2+1=____\nA. 1\nB. 3\nC. 5\nD. 7\n答案："
)
ONE_SHOT = TWO_SHOTS.replace("5-5=____\nA. 7\nB. 1\nC. 2\nD. 0\n答案：D\n\n", "")
NO_SHOT = ONE_SHOT.replace("1+2=____\nA. 3\nB. 4\nC. 5\nD. 6\n答案：A\n\n", "")


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    return write_exam(tmp_path / "exam")


def second(exam: Path, room: int, **asked):
    """The prompt of the second sum; a token is a character here."""
    task = load_task("ceval", exam, **{"shots": 2} | asked)
    return build_prompts(task, task.questions, OFFICIAL, len, room)[1]


def test_the_official_prompt_is_the_published_one(exam):
    prompt = second(exam, room=10_000)
    assert prompt.text == TWO_SHOTS
    assert (prompt.shots_used, prompt.prompt_tokens, prompt.too_long) == (2, len(TWO_SHOTS), False)


def test_whole_examples_fall_off_the_end_until_the_prompt_fits(exam):
    """Cutting tokens from the left, as others do, would take the header and half a question."""
    assert second(exam, len(TWO_SHOTS)).text == TWO_SHOTS
    for room in (len(TWO_SHOTS) - 1, len(ONE_SHOT)):
        assert (second(exam, room).text, second(exam, room).shots_used) == (ONE_SHOT, 1)
    for room in (len(ONE_SHOT) - 1, len(NO_SHOT)):
        assert (second(exam, room).text, second(exam, room).shots_used) == (NO_SHOT, 0)


def test_a_question_that_never_fits_is_marked_not_dropped(exam):
    prompt = second(exam, len(NO_SHOT) - 1)
    assert prompt.too_long and (prompt.shots_used, prompt.prompt_tokens) == (0, len(NO_SHOT))


def test_a_dev_question_never_sees_its_own_answer(exam):
    prompt = second(exam, 10_000, split="dev")
    assert (
        prompt.shots_used == 1 and "答案：D" not in prompt.text and prompt.text.count("5-5=") == 1
    )


def test_braces_in_the_data_are_text(exam):
    path = exam / "val/tiny_sums_val.csv"
    path.write_text(
        path.read_text(encoding="utf-8").replace("2+1=", "{A} $\\frac{1}{2}$ {0}"), encoding="utf-8"
    )
    assert "{A} $\\frac{1}{2}$ {0}____\nA. 1\n" in second(exam, 10_000).text


def test_every_real_question_fits_gpt_neox_20b_with_four_or_five_examples(data):
    """Five examples overflow 2048 tokens for some questions; each keeps four at least."""
    task = load_task("ceval", data / "ceval")
    tokenizer = AutoTokenizer.from_pretrained(data / "neox20b")
    prompts = build_prompts(
        task, task.questions, OFFICIAL, lambda text: len(tokenizer(text)["input_ids"]), 2048
    )
    full = build_prompts(task, task.questions, OFFICIAL, len, 10**9)
    assert len(prompts) == 1030 and not any(p.too_long for p in prompts)
    for prompt, whole in zip(prompts, full, strict=True):
        tokens = len(tokenizer(whole.text)["input_ids"])
        assert prompt.prompt_tokens <= 2048 and prompt.shots_used == (5 if tokens <= 2048 else 4)
    assert 0 < sum(p.shots_used < 5 for p in prompts) < 31  # 30 of all 1346 questions
