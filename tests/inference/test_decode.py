"""The decode loop against transformers' generate, and its promises to rows, ranks and clocks."""

import random
from functools import cache

import pytest
import torch
from transformers import GPTNeoXForCausalLM

from neoxlib.errors import RankError, SettingsError
from neoxlib.inference.decode import DecodeStep, Limits, decode, left_pad
from neoxlib.inference.sampling import Sampling
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from tests.support.oracle_models import TINY, make_oracle, ours
from tests.support.thread_ranks import on_ranks

VOCAB = TINY["vocab_size"]
WINDOW = TINY["max_position_embeddings"]
PROMPTS = [[5, 9, 200], [17], [3, 3, 3, 8, 120, 44, 61], [17, 5]]
VARIANTS = {
    "20b-like": {},
    "plain-residual": {"use_parallel_residual": False},
    "tied": {"tie_word_embeddings": True},
}


@cache
def oracle_for(variant: str = "20b-like") -> GPTNeoXForCausalLM:
    return make_oracle(**VARIANTS[variant])


@cache
def model_for(variant: str = "20b-like") -> GPTNeoX:
    return ours(oracle_for(variant))


def run(
    model: GPTNeoX, prompts: list[list[int]], eos: int | None = None, **settings: object
) -> list[DecodeStep]:
    return list(
        decode(
            model,
            prompts,
            Sampling(**settings),
            Limits(() if eos is None else (eos,), VOCAB, WINDOW),
        )
    )


def answers(steps: list[DecodeStep]) -> list[list[int]]:
    rows = zip(*(step.choice.tokens for step in steps), strict=True)
    return [[token for token in row if token is not None] for row in rows]


def generate(
    variant: str, prompt: list[int], eos: int | None = None, **settings: object
) -> list[int]:
    """The ids that transformers' generate adds: float32, the end-of-text id among it."""
    ids = torch.tensor([prompt])
    settings |= {"attention_mask": torch.ones_like(ids), "eos_token_id": eos, "pad_token_id": 0}
    return oracle_for(variant).generate(ids, **settings)[0, len(prompt) :].tolist()


def likely_end(variant: str) -> int:
    """An id that greedy decoding says in the middle of an answer, to serve as end of text."""
    return generate(variant, PROMPTS[2], max_new_tokens=8, do_sample=False)[5]


@pytest.mark.parametrize("penalty", [1.0, 1.8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_equals_transformers_generate_token_for_token(variant: str, penalty: float):
    settings = {"max_new_tokens": 24, "repetition_penalty": penalty}
    expected = [generate(variant, prompt, do_sample=False, **settings) for prompt in PROMPTS]
    assert answers(run(model_for(variant), PROMPTS, **settings)) == expected  # ragged
    alone = [answers(run(model_for(variant), [prompt], **settings))[0] for prompt in PROMPTS]
    assert alone == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_end_of_text_ends_a_row_and_is_among_its_tokens_as_in_transformers(variant: str):
    eos = likely_end(variant)
    expected = [
        generate(variant, prompt, eos, max_new_tokens=24, do_sample=False) for prompt in PROMPTS
    ]
    steps = run(model_for(variant), PROMPTS, eos, max_new_tokens=24)
    assert answers(steps) == expected
    assert steps[-1].choice.reasons == [
        "stop" if answer[-1] == eos else "length" for answer in expected
    ]
    assert "stop" in steps[-1].choice.reasons


def test_the_loop_ends_with_its_last_row():
    steps = run(model_for(), PROMPTS, likely_end("20b-like"), max_new_tokens=60)
    lengths = [len(answer) for answer in answers(steps)]
    assert len(steps) == max(lengths) < 60
    assert len(set(lengths)) > 1
    ended = [[reason is not None for reason in step.choice.reasons] for step in steps]
    assert ended == [[length <= n for length in lengths] for n in range(1, len(steps) + 1)]


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.8, "top_p": 0.9}, {"temperature": 1.5, "top_k": 20}], ids=str
)
def test_sampling_with_a_seed_equals_transformers_under_the_same_seed(settings: dict):
    """Both draw by torch.multinomial: same scores and same stream, same tokens."""
    for prompt in PROMPTS:
        torch.manual_seed(21)
        theirs = {"top_k": 0, "do_sample": True, "max_new_tokens": 20} | settings
        expected = generate("20b-like", prompt, **theirs)
        assert answers(run(model_for(), [prompt], seed=21, max_new_tokens=20, **settings)) == [
            expected
        ]


def test_a_ragged_batch_samples_as_single_prompts_do():
    settings = {
        "temperature": 1.2,
        "top_p": 0.95,
        "repetition_penalty": 1.2,
        "seed": 8,
        "max_new_tokens": 20,
    }
    eos = likely_end("20b-like")
    alone = [answers(run(model_for(), [prompt], eos, **settings))[0] for prompt in PROMPTS]
    assert answers(run(model_for(), PROMPTS, eos, **settings)) == alone
    assert len({tuple(answer) for answer in alone}) == len(PROMPTS)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.2, "seed": 3}], ids=str)
def test_every_rank_sees_the_same_tokens_whatever_the_world_size(size: int, settings: dict):
    eos = likely_end("20b-like")

    def work(group: Group) -> list[DecodeStep]:
        return run(ours(oracle_for(), group), PROMPTS, eos, max_new_tokens=12, **settings)

    ranks = on_ranks(size, work)
    expected = answers(run(model_for(), PROMPTS, eos, max_new_tokens=12, **settings))
    assert [answers(steps) for steps in ranks] == [expected] * size
    assert len({str([step.choice.reasons for step in steps]) for steps in ranks}) == 1


def test_watch_stops_a_row_on_every_rank_without_another_forward_pass():
    def work(group: Group) -> list[DecodeStep]:
        seen = []

        def watch(row: int, token: int) -> bool:
            assert group.rank == 0
            seen.append((row, token))
            return row == 1 and sum(r == 1 for r, _ in seen) == 3

        return list(
            decode(
                ours(oracle_for(), group),
                PROMPTS,
                Sampling(5),
                Limits((), VOCAB, WINDOW),
                watch=watch,
            )
        )

    for steps in on_ranks(2, work):
        assert [len(answer) for answer in answers(steps)] == [5, 3, 5, 5]
        assert steps[-1].choice.reasons == ["length", "stop", "length", "length"]


@pytest.mark.parametrize("eos", [True, False])
def test_watch_sees_each_new_token_once_but_not_the_end_of_text(eos: bool):
    end = likely_end("20b-like") if eos else None
    seen: list[list[int]] = [[] for _ in PROMPTS]
    limits = Limits(() if end is None else (end,), VOCAB, WINDOW)
    steps = list(
        decode(
            model_for(),
            PROMPTS,
            Sampling(20),
            limits,
            watch=lambda row, token: seen[row].append(token),
        )
    )
    assert seen == [[token for token in answer if token != end] for answer in answers(steps)]


def test_a_failure_on_rank_0_is_told_to_all_ranks():
    """A rank that waits for a token which never comes would wait until the group's timeout."""

    def broken(row: int, token: int) -> bool:
        raise ValueError("no such row")

    def work(group: Group) -> str:
        model = ours(oracle_for(), group)
        steps = decode(model, PROMPTS, Sampling(5), Limits((), VOCAB, WINDOW), watch=broken)
        with pytest.raises((ValueError, RankError)) as error:
            next(steps)
        return repr(error.value)

    first, *others = on_ranks(4, work)
    assert first == "ValueError('no such row')"
    assert (
        others
        == ["RankError('rank 0 could not choose the next token: ValueError: no such row')"] * 3
    )


def test_logits_of_nan_are_an_error_not_a_token():
    model = ours(make_oracle())
    model.gpt_neox.final_layer_norm.bias.data[3] = torch.nan
    with pytest.raises(SettingsError, match="not finite"):
        run(model, PROMPTS)


def test_log_probabilities_and_alternatives_are_those_of_the_whole_sequence():
    steps = list(decode(model_for(), PROMPTS, Sampling(6), Limits((), VOCAB, WINDOW), top=3))
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers(steps), strict=True)):
        truth = (
            oracle_for()(torch.tensor([prompt + answer]))
            .logits[0]
            .log_softmax(-1)[len(prompt) - 1 : -1]
        )
        chosen = torch.tensor([step.choice.logprobs[row] for step in steps])
        torch.testing.assert_close(chosen, truth[range(6), answer], atol=1e-4, rtol=0)
        expected = truth.topk(3)
        assert [
            [token for token, _ in step.choice.top[row]] for step in steps
        ] == expected.indices.tolist()
        values = torch.tensor([[value for _, value in step.choice.top[row]] for step in steps])
        torch.testing.assert_close(values, expected.values, atol=1e-4, rtol=0)


def test_ids_past_the_tokenizers_last_are_never_chosen():
    oracle = make_oracle()
    free = answers(list(decode(ours(oracle), PROMPTS, Sampling(12), Limits((), VOCAB, WINDOW))))
    last = sorted({token for answer in free for token in answer})[-1]
    prompts = [[token % last for token in prompt] for prompt in PROMPTS]
    kept = answers(list(decode(ours(oracle), prompts, Sampling(12), Limits((), last, WINDOW))))
    assert max(map(max, kept)) < last


def test_no_prompts_give_no_steps():
    assert run(model_for(), []) == []


def test_an_answer_may_fill_the_window_and_no_more():
    full = [[1] * (WINDOW - 4)]
    assert len(run(model_for(), full, max_new_tokens=4)) == 4
    found = (
        r"prompts\[0\] has 92 tokens and max_new_tokens is 5: 97 together, but max_seq_len is 96"
    )
    with pytest.raises(SettingsError, match=found):
        decode(model_for(), full, Sampling(5), Limits((), VOCAB, WINDOW))


def test_every_prompt_that_cannot_be_served_is_listed_before_any_work():
    """`decode` itself raises, not its first step: nothing has been computed or allocated."""
    prompts = [[1, 2], [], [1, -1, 999, 210], [1] * 95, [0] * 200 + [500]]
    with pytest.raises(SettingsError) as error:
        decode(None, prompts, Sampling(2), Limits((0,), VOCAB, WINDOW))
    lines = str(error.value).split("\n  ")[1:]
    assert [line.split()[0] for line in lines] == [
        "prompts[1]",
        "prompts[2]",
        "prompts[3]",
        "prompts[4]",
        "prompts[4]",
    ]
    assert "the end-of-text id, [0]" in lines[0]
    assert "[-1, 999]" in lines[1] and "0..210" in lines[1]


def test_left_padding_ends_rows_together_and_masks_what_it_added():
    rng = random.Random(1)
    prompts = [[rng.randrange(1, 99) for _ in range(length)] for length in (4, 1, 7)]
    ids, mask = left_pad(prompts)
    assert ids.shape == mask.shape == (3, 7)
    assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == prompts
    assert mask[:, -1].all() and mask.sum() == 12


def test_the_four_clocks_cover_the_step_and_do_not_overlap(monkeypatch: pytest.MonkeyPatch):
    """With a clock that ticks by one second per look, each part has exactly its own ticks."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("neoxlib.inference.clocks.time.perf_counter", lambda: next(ticks))

    class Slow(Group):
        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            self.seconds += 0.05
            return x

    steps = run(ours(oracle_for(), Slow()), PROMPTS, max_new_tokens=3)
    for step in steps:
        assert step.clock.communication == pytest.approx(
            3 * 50
        )  # one all-reduce in each of three layers
        assert step.clock.forward == pytest.approx(1000 - 150)
        assert step.clock.pre == step.clock.post == 1000


def test_what_the_caller_does_between_steps_is_on_no_clock(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("neoxlib.inference.clocks.time.perf_counter", lambda: now[0])
    for step in decode(model_for(), PROMPTS, Sampling(3), Limits((), VOCAB, WINDOW)):
        assert sum(step.clock) == 0
        now[0] += 99


def test_half_precision_logits_are_weighed_in_float32():
    model = ours(oracle_for(), dtype=torch.bfloat16)
    ids, mask = left_pad(PROMPTS)
    logits = model(
        ids, KVCache(model.config, 4, WINDOW, dtype=torch.bfloat16), mask, last_only=True
    )[:, -1]
    expected = logits.double().log_softmax(-1).amax(-1).tolist()
    assert run(model, PROMPTS, max_new_tokens=1)[0].choice.logprobs == pytest.approx(
        expected, abs=1e-5
    )
