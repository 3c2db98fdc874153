"""The most likely tokens as an accelerator finds them, against the CPU's way to choose."""

import pytest
import torch

from neoxlib.inference.choosing import NOT_FINITE, Finder
from neoxlib.inference.sampling import Sampling, pick

CPU = torch.device("cpu")
REAL, VOCAB, TOP = 190, 211, 4
HOLES = (3, 17, 101)


def random_logits(seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Few distinct values, so that the largest is there more than once."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-40, 12, (5, VOCAB), generator=generator).to(dtype) / 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("holes", [(), HOLES])
def test_the_tokens_are_those_that_the_cpu_would_choose_with_the_lowest_id_of_equals(dtype, holes):
    ties = 0
    for seed in range(20):
        logits = random_logits(seed, dtype)
        due = pick(logits.float(), [[]] * 5, Sampling(), [], REAL, TOP, holes)
        found = Finder(REAL, holes, TOP, True, CPU)(logits)
        assert found.tokens == due.tokens.tolist()
        assert found.logprobs == pytest.approx(due.logprobs.tolist(), abs=1e-5)
        for row, values in zip(found.top, due.top_logprobs.tolist(), strict=True):
            assert [value for _, value in row] == pytest.approx(values, abs=1e-5)
        told = Finder(REAL, holes, TOP, False, CPU)(logits)
        assert told == (found.tokens, [], [])
        real = logits[:, :REAL].float()
        ties += ((real == real.amax(-1, keepdim=True)).sum(-1) > 1).sum().item()
    assert ties > 20


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_has_no_token_unless_that_is_past_the_real_ids(value, told):
    logits = random_logits(1, torch.float16)
    logits[2, 50] = logits[3, REAL] = value
    tokens = Finder(REAL, HOLES, 0, told, CPU)(logits).tokens
    assert [token == NOT_FINITE for token in tokens] == [False, False, True, False, False]


def test_no_alternatives_are_none():
    found = Finder(REAL, (), 0, True, CPU)(random_logits(2, torch.float16))
    assert found.top == [[]] * 5 and len(found.logprobs) == 5
