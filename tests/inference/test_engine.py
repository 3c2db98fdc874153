"""The methods of a loaded model, against transformers on the same folder."""

import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXForCausalLM

import neoxlib
from neoxlib.errors import ConfigError, SettingsError
from neoxlib.inference import score
from neoxlib.inference.engine import Engine
from neoxlib.inference.timing import Case
from tests.support.thread_ranks import on_ranks

PROMPTS = ["The sun is a star.", "月亮绕着地球转，", "1 + 1"]


@pytest.fixture(scope="module")
def engine(checkpoint) -> Engine:
    return neoxlib.load(checkpoint)


@pytest.fixture(scope="module")
def oracle(checkpoint) -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def log_probability(oracle, tokenizer, prompt: str, choice: str) -> float:
    """One prompt, one choice, one forward pass of transformers; the tokenizer's 257 ids only."""
    context = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + choice)["input_ids"]
    with torch.no_grad():
        logp = oracle(torch.tensor([whole])).logits[0, :, :257].log_softmax(-1)
    return sum(logp[i - 1, whole[i]].item() for i in range(len(context), len(whole)))


def test_logits_equal_transformers_with_padding_on_either_side(engine: Engine, oracle):
    ids = torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 6 + [0] * 3, [0] * 4 + [1] * 5])
    found = engine.logits(ids, mask)
    kept = mask.bool()
    assert found.shape == (2, 9, 300) and found.dtype == torch.float32
    torch.testing.assert_close(
        found[kept], oracle(ids, attention_mask=mask).logits[kept], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("size", [1, 2, 4])
def test_scores_equal_those_of_each_choice_alone(checkpoint, oracle, size: int):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    choices = [["A", "B"], ["一个星期", " x"], ["=2", "?"]]
    found = on_ranks(
        size, lambda group: neoxlib.load(checkpoint, group=group).score(PROMPTS, choices)
    )[0]
    for prompt, several, values in zip(PROMPTS, choices, found, strict=True):
        assert values == pytest.approx(
            [log_probability(oracle, tokenizer, prompt, c) for c in several], abs=1e-3
        )


def test_choices_of_one_token_share_one_row(engine: Engine, monkeypatch):
    rows_seen = []
    batches = score.batches
    monkeypatch.setattr(
        score, "batches", lambda rows, *at: rows_seen.extend(rows) or batches(rows, *at)
    )
    engine.score(PROMPTS, ["A", "B", "C", "D"])
    assert len(rows_seen) == len(PROMPTS)


def test_a_batch_scores_as_its_rows_alone(engine: Engine, monkeypatch):
    together = engine.score(PROMPTS, ["A", "不"])
    monkeypatch.setattr(score, "BATCH_TOKENS", 1)
    for row, alone in zip(together, engine.score(PROMPTS, ["A", "不"]), strict=True):
        assert row == pytest.approx(alone, abs=1e-4)


def test_greedy_text_is_that_of_transformers_at_any_world_size(checkpoint, oracle):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for size in (1, 2, 8):
        found = on_ranks(
            size, lambda group: neoxlib.load(checkpoint, group=group).generate(PROMPTS, 12)
        )[0]
        for prompt, completion in zip(PROMPTS, found, strict=True):
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            expected = oracle.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[
                0, ids.shape[1] :
            ]
            assert completion.token_ids == expected.tolist()


def test_a_case_is_timed_step_by_step_by_the_slowest_rank(checkpoint):
    case = Case(batch_size=2, input_len=8, output_len=4, repeats=2, warmup=1)
    first, other = on_ranks(2, lambda group: neoxlib.load(checkpoint, group=group).profile(case))
    assert len(first) == len(other) == 2
    for run in first:
        assert all(len(run[part]) == 4 for part in ("pre", "forward", "communication", "post"))
        assert all(ms > 0 for ms in run["forward"])


@pytest.mark.parametrize(
    "ids, mask, message",
    [
        ([1, 2], None, r"expected whole numbers \[batch, tokens\]"),
        ([[1.5]], None, "float"),
        ([[1, 300]], None, "the vocabulary has ids 0 to 299"),
        ([[-1]], None, "from -1"),
        ([[1] * 97], None, "97 tokens a row, but max_seq_len is 96"),
        ([[1, 2]], [[1]], r"attention_mask is \[1, 1\]"),
        ([[1, 2], [3]], None, r"input_ids cannot be read .*; rows of unequal lengths are padded"),
        ([[1, 2], [3]], [[1, 1], [1]], "input_ids cannot be read"),
        ([[1, 2], [3, 0]], [[1, 1], [1]], "attention_mask cannot be read"),
        ([[1, 2]], [[0.0, -1e4]], "attention_mask holds other numbers than 1"),
        ([b"ab"], None, "input_ids cannot be read"),
        ([["a", "b"]], None, "input_ids cannot be read"),
        ([[True, False]], None, "expected whole numbers"),
        ([[2**70]], None, "input_ids cannot be read"),
    ],
)
def test_ids_the_model_cannot_take_are_refused(
    engine: Engine, ids: list, mask: list | None, message: str
):
    with pytest.raises(SettingsError, match=message):
        engine.logits(ids, mask)


@pytest.mark.parametrize(
    "prompts, choices, message",
    [
        (["a"], "AB", "give a list of texts"),
        (["a", "b"], [["A"]], "2 prompts but 1 lists"),
        (["a", ""], ["A"], "request 1: prompt and choice need at least one token"),
        (["a" * 97], ["A"], "97 tokens, but max_seq_len is 96"),
        (["a"], b"AB", "give a list of texts"),
        (["a"], {"A": 1}, "give a list of texts"),
        (["a", "b"], [["A"], "AB"], "choices holds 'AB'; give a list of texts"),
        (["a", "b"], [["A"], 5], "choices holds 5; give a list of texts"),
        ([b"a"], ["A"], "it must be valid text or a list of token ids"),
        (["a"], [[b"A"]], "the choice must be valid text"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_work(
    engine: Engine, prompts: list, choices: list, message: str
):
    with pytest.raises(SettingsError, match=message):
        engine.score(prompts, choices)


def test_a_prompt_without_choices_has_no_scores_and_others_have_theirs(engine: Engine):
    assert engine.score(["abc"], [[]]) == [[]] and engine.score([], []) == []
    none, one = engine.score(["abc", "abc"], [[], [" d"]])
    assert none == [] and [one] == engine.score(["abc"], [[" d"]])


def test_blanks_at_a_prompts_end_are_scored_with_the_choice(engine: Engine):
    expected = engine.score(["2 ="], [" 4", "  4", "\n4"])[0]
    assert engine.score(["2 = "], ["4", " 4"])[0] == pytest.approx(expected[:2], abs=1e-4)
    assert engine.score(["2 =\n"], ["4"])[0] == pytest.approx(expected[2:], abs=1e-4)


@pytest.mark.parametrize(
    "request_",
    [
        (b"ab", [1]),
        ([1], b"b"),
        ("ab", [1]),
        ([1], {1: 2}),
        ([1.5], [2]),
        ([True], [1]),
        ([1], 5),
        ([1], torch.ones(1)),
    ],
    ids=repr,
)
def test_what_only_looks_like_a_list_of_ids_is_not_scored(engine: Engine, request_: tuple):
    with pytest.raises(
        SettingsError, match=r"request\(s\) \[1\] hold what is no list of token ids"
    ):
        engine.score_ids([([1], [2]), request_])


@pytest.mark.parametrize("rows", [0, -1, 301])
def test_rows_that_the_model_does_not_have_are_refused(engine: Engine, rows: int):
    with pytest.raises(SettingsError, match=f"tokenizer_size is {rows}; the model has 300 rows"):
        engine.score_ids([([1], [2])], tokenizer_size=rows)


def test_cases_without_tokens_are_refused():
    with pytest.raises(SettingsError, match="input_len is 0; output_len is -1"):
        Case(1, 0, -1)


def test_a_folder_without_tokenizer_still_gives_logits(tmp_path, oracle):
    oracle.save_pretrained(tmp_path)
    engine = neoxlib.load(tmp_path)
    assert [len(a.token_ids) for a in engine.generate([[5], [6, 7]], max_new_tokens=3)] == [3, 3]
    assert engine.logits([[1, 2]]).shape == (1, 2, 300)
    with pytest.raises(ConfigError, match="has no tokenizer"):
        engine.generate(["hello"])


def test_the_window_bounds_prompt_and_answer(checkpoint):
    engine = neoxlib.load(checkpoint, max_seq_len=16)
    with pytest.raises(SettingsError, match="max_seq_len is 16"):
        engine.generate(["a" * 10], max_new_tokens=7)
    assert len(engine.generate(["a" * 10], max_new_tokens=6)[0].token_ids) <= 6


def test_streamed_lines_of_several_prompts_are_told_apart(engine: Engine, capsys):
    answers = engine.generate(PROMPTS, max_new_tokens=5, stream=True)
    printed = capsys.readouterr().out
    for row, answer in enumerate(answers):
        for line in answer.text.split("\n"):
            assert f"[{row}] {line}\n" in printed
    answer = engine.generate(PROMPTS[:1], max_new_tokens=5, stream=True)[0]
    assert capsys.readouterr().out == answer.text + "\n"


def test_an_unknown_quantization_is_refused(checkpoint):
    with pytest.raises(SettingsError, match="quant is 'int3'"):
        neoxlib.load(checkpoint, quant="int3")


def test_a_graph_that_no_rule_allows_is_refused_by_name_before_weights_are_read(checkpoint):
    with pytest.raises(SettingsError, match="captured on NPUs alone, and this runs on cpu"):
        neoxlib.load(checkpoint, graph="on")
    with pytest.raises(SettingsError, match="graph is 'perhaps'; it is one of auto, on, off"):
        neoxlib.load(checkpoint, graph="perhaps")


def test_a_report_says_whether_decode_is_captured_and_by_which_rule(engine: Engine, checkpoint):
    assert engine.describe()["graph"].startswith("off: a step is captured on NPUs alone")
    assert neoxlib.load(checkpoint, graph="off").describe()["graph"] == "off: asked for"
    assert engine.graph_use == {}
