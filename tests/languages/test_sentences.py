"""Texts in Chinese: whole, by pattern, part by part; and what stays as it is."""

import pytest

from neoxlib.languages import padded, said, said_whole, speaking, width

TOLD = {
    "2 ranks started and wrote text": "2 个 rank 已启动并生成了文本",
    "error 1/20 of the limit": "误差为允许值的 1/20",
    ", 0 of 8 differ": "，8 个中有 0 个不同",
    "Which is faster cannot be said: run a was noisy.": "无法判断哪个更快：运行 a 有噪声。",
    "12 % more than last time": "比上次多 12 %",
    "6.7 × 10⁻⁷, no more than 0.05": "6.7 × 10⁻⁷，不大于 0.05",
    "greatest error of one step 3.38 roundings": "单个步骤的最大误差 3.38 个舍入",
    "3 of 25": "25 个中的 3 个",
    "rank 1 (pid 5) was killed by SIGKILL, not by the kernel's out-of-memory killer, whose count "
    "has not risen: something else sent it (during generate). The session has ended.": (
        "rank 1 (pid 5) 被 SIGKILL 杀掉，不是内核的内存不足处理（OOM killer）所为，"
        "其计数没有增加：信号来自别处（generate 期间）。会话已结束。"
    ),
    "The other 9 at their default": "其余 9 个参数为默认值",
}


@pytest.mark.parametrize("text", TOLD)
def test_a_text_is_said_in_chinese(text: str):
    with speaking("zh"):
        assert said(text) == TOLD[text]
    assert said(text) == text


def test_the_words_of_a_model_stay_as_they_are():
    text = "To “It does not fit.” it says “no change”, 93.3 % sure of a typical token."
    with speaking("zh"):
        told = said(text)
    assert "“It does not fit.”" in told and "“no change”" in told and "把握" in told


def test_names_of_parameters_and_unknown_texts_stay():
    with speaking("zh"):
        assert said("dtype, max_seq_len, model, steps") == "dtype, max_seq_len, model, steps"
        assert said("zorp of quux") == "zorp of quux"
        assert said_whole("no change") == "没有变化"
        assert said_whole("no change since") == "no change since"


def test_every_line_of_a_text_is_said_and_keeps_its_place():
    with speaking("zh"):
        assert said("  no change\n\n    not known") == "  没有变化\n\n    未知"


def test_a_chinese_letter_takes_two_columns_of_a_terminal():
    assert width("rank 数") == 7
    assert padded("否", 4) == "否  "
