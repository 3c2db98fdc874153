"""The choice of a token against transformers' LogitsProcessors, and what a bad setting is told."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from neoxlib.errors import SettingsError
from neoxlib.inference.sampling import RULES, Pick, Sampling, penalize, pick, warp

VOCAB = 311
PROMPTS = [[1, 2, 3], [4], [5, 5, 6, 7, 300]]


def logits_for(rows: int = 3, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 4


def choose(
    logits: Tensor,
    prompts: list[list[int]],
    top: int = 0,
    tokenizer_size: int = VOCAB,
    **settings: object,
) -> Pick:
    sampling = Sampling(**settings)
    return pick(logits, prompts, sampling, sampling.generators(prompts), tokenizer_size, top)


SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 3.0, "top_k": 5},
    {"temperature": 1.0, "top_k": 10**6},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 1.0, "top_p": 1e-9},
    {"temperature": 0.9, "top_k": 40, "top_p": 0.8, "repetition_penalty": 1.3},
    {"temperature": 2.0, "top_k": 1, "repetition_penalty": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_probabilities_equal_those_of_transformers_processors(settings: dict):
    sampling = Sampling(**settings)
    logits = logits_for()
    history = [[1, 2, 2, 9], [4, 4, 4, 4], [310, 0, 5, 6]]
    theirs = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))]
    )
    theirs.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        theirs.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p:
        theirs.append(TopPLogitsWarper(sampling.top_p))
    expected = theirs(torch.tensor(history), logits.clone()).softmax(-1)
    found = warp(penalize(logits, history, sampling.repetition_penalty), sampling).softmax(-1)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_ties_with_the_kth_score_stay_as_in_transformers():
    logits = torch.tensor([[2.0, 2.0, 1.0, 1.0, 1.0, 0.0]])
    kept = warp(logits, Sampling(temperature=1.0, top_k=3)).isfinite()
    assert torch.equal(kept, TopKLogitsWarper(3)(None, logits).isfinite())
    assert kept.sum() == 5


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2, 0.0]).log().clamp(min=-100)
    copies = [[1]] * 4000
    drawn = choose(logits.repeat(4000, 1), copies, tokenizer_size=4, temperature=1.0, seed=5).tokens
    share = drawn.bincount(minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.03, rtol=0)


def test_temperature_zero_is_argmax_whatever_the_other_settings():
    logits = logits_for()
    for settings in ({}, {"top_k": 3, "top_p": 0.1, "seed": 4}):
        assert torch.equal(choose(logits, PROMPTS, **settings).tokens, logits.argmax(-1))


def test_repetition_penalty_also_holds_at_temperature_zero():
    logits = torch.tensor([[-1.0, -3.0, -1.2], [4.0, 1.0, 3.0]])
    picked = choose(logits, [[0, 0], [0]], tokenizer_size=3, repetition_penalty=2.0)
    assert picked.tokens.tolist() == [
        2,
        2,
    ]  # -1 * 2 < -1.2; 4 / 2 < 3; counted once however often it occurs


def test_extreme_settings_still_give_a_token():
    logits = logits_for()
    assert torch.equal(
        choose(logits, PROMPTS, temperature=1e-300, seed=1).tokens, logits.argmax(-1)
    )
    assert choose(logits, PROMPTS, temperature=1e300, seed=1).tokens.max() < VOCAB
    for penalty in (1e-300, 1e300):
        assert (
            choose(
                logits, PROMPTS, temperature=0.5, repetition_penalty=penalty, seed=1
            ).tokens.max()
            < VOCAB
        )


@pytest.mark.parametrize("settings", [{}, {"temperature": 50.0, "seed": 2}])
def test_rows_that_pad_the_vocabulary_are_never_chosen(settings: dict):
    logits = logits_for()
    logits[:, 300:] = 99.0
    picked = choose(logits, [[1]] * 3, top=5, tokenizer_size=300, **settings)
    assert picked.tokens.max() < 300 and picked.top_tokens.max() < 300
    expected = logits[:, :300].log_softmax(-1).gather(1, picked.tokens[:, None])[:, 0]
    torch.testing.assert_close(picked.logprobs, expected)


def test_log_probabilities_are_the_models_own_before_any_setting():
    logits = logits_for()
    picked = choose(
        logits, PROMPTS, top=4, temperature=0.3, top_k=2, repetition_penalty=9.0, seed=0
    )
    truth = logits.double().log_softmax(-1)
    torch.testing.assert_close(picked.logprobs, truth[range(3), picked.tokens].float())
    torch.testing.assert_close(picked.top_logprobs, truth.topk(4).values.float())
    assert torch.equal(picked.top_tokens, logits.topk(4).indices)


def test_a_rows_draws_do_not_depend_on_its_neighbours():
    logits = logits_for()
    together = choose(logits, PROMPTS, temperature=5.0, seed=11).tokens
    alone = [
        choose(logits[n : n + 1], [p], temperature=5.0, seed=11).tokens.item()
        for n, p in enumerate(PROMPTS)
    ]
    assert together.tolist() == alone


def test_copies_of_a_prompt_draw_differently_and_the_first_as_if_alone():
    logits = logits_for(1).repeat(8, 1)
    drawn = choose(logits, [[1, 2]] * 8, temperature=5.0, seed=11).tokens.tolist()
    assert len(set(drawn)) > 4
    assert drawn[0] == choose(logits[:1], [[1, 2]], temperature=5.0, seed=11).tokens.item()
    assert drawn[3] == choose(logits[:1], [[1, 2]], temperature=5.0, seed=14).tokens.item()


def test_a_seed_repeats_and_no_seed_does_not():
    logits = logits_for(20)
    prompts = [[n] for n in range(20)]
    draws = [
        choose(logits, prompts, temperature=5.0, seed=seed).tokens.tolist()
        for seed in (3, 3, 4, None, None)
    ]
    assert draws[0] == draws[1]
    assert len(set(map(tuple, draws))) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused_by_row(value: float):
    logits = logits_for()
    logits[1, 7] = value
    with pytest.raises(SettingsError, match=r"row\(s\) \[1\] are not finite"):
        choose(logits, PROMPTS)


BAD = {
    "max_new_tokens": [0, -1, 1.5, "3", None, True],
    "temperature": [-0.1, math.nan, math.inf, "hot", None, True],
    "top_k": [0, -1, 2.0, True],
    "top_p": [0, -0.1, 1.01, math.nan, True],
    "repetition_penalty": [0, -1.0, math.inf, None],
    "stop": ["", ["a", ""], [3], 5, b"x"],
    "seed": [1.0, "1", True, 2**63],
    "stop_token_ids": [-1, [1, "2"], "5", True, [1.0], b"x"],
    "skip_special_tokens": [1, None, "yes"],
}
CASES = [(name, value) for name, values in BAD.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=str)
def test_a_bad_setting_is_refused_by_name(name: str, value: object):
    with pytest.raises(SettingsError, match=f"{name} is .*, it must be"):
        Sampling(**{name: value})


def test_every_bad_setting_is_listed_at_once():
    with pytest.raises(SettingsError) as error:
        Sampling(**{name: values[0] for name, values in BAD.items()})
    assert all(f"\n  {name} is " in str(error.value) for name in BAD)


def test_every_setting_has_a_rule():
    assert list(RULES) == [field.name for field in dataclasses.fields(Sampling)] == list(BAD)


def test_stop_may_be_nothing_one_string_or_many():
    assert [Sampling(stop=stop).stop for stop in (None, "a", ["a", "b"], ("c",), [])] == [
        (),
        ("a",),
        ("a", "b"),
        ("c",),
        (),
    ]


def test_stop_token_ids_may_be_nothing_one_id_or_many():
    given = (None, 3, 0, [3, 4], (5,), [])
    assert [Sampling(stop_token_ids=ids).stop_token_ids for ids in given] == [
        (),
        (3,),
        (0,),
        (3, 4),
        (5,),
        (),
    ]


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 1e300, "seed": 2}, {"temperature": 9.0, "top_p": 0.99}],
    ids=str,
)
def test_ids_that_have_no_token_are_never_chosen_and_count_for_nothing(settings: dict):
    logits = logits_for()
    holes = [5, 17, 200]
    logits[:, holes] = 99.0
    sampling = Sampling(**settings)
    picked = pick(logits, PROMPTS, sampling, sampling.generators(PROMPTS), VOCAB, 5, holes)
    kept = [n for n in range(VOCAB) if n not in holes]
    truth = logits[:, kept].double().log_softmax(-1)
    assert set(picked.tokens.tolist()) | set(picked.top_tokens.flatten().tolist()) <= set(kept)
    expected = [
        truth[row, kept.index(token)].item() for row, token in enumerate(picked.tokens.tolist())
    ]
    assert picked.logprobs.tolist() == pytest.approx(expected, abs=1e-5)
