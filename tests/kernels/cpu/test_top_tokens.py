"""The most likely tokens of a row, compiled and in numpy, against PyTorch."""

import pytest
import torch

from neoxlib.kernels.cpu import top_tokens as module
from neoxlib.kernels.cpu.top_tokens import top_tokens


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(module, "_library", lambda: None)
    return request.param


@pytest.mark.parametrize("columns", [1, 5, 16, 63, 64, 65, 1000, 50277])
@pytest.mark.parametrize("count", [1, 5])
def test_the_best_and_their_log_probabilities_are_those_of_pytorch(columns, count):
    generator = torch.Generator().manual_seed(columns)
    whole = 20 * torch.randn(3, columns + 7, generator=generator)
    logits = whole[:, :columns]
    count = min(count, columns)  # rows that lie apart
    found = top_tokens(logits, count)
    expected = logits.double().log_softmax(-1).topk(count)
    assert torch.equal(found.ids, expected.indices)
    assert torch.equal(found.logits, logits.gather(1, expected.indices))
    torch.testing.assert_close(
        (found.logits - found.total[:, None]).double(), expected.values, rtol=0, atol=1e-5
    )


def test_of_equals_the_first_comes_first():
    logits = torch.zeros(2, 200)
    logits[1, [150, 40, 90]] = 3.0
    assert top_tokens(logits, 4).ids.tolist() == [[0, 1, 2, 3], [40, 90, 150, 0]]


def test_what_is_impossible_counts_for_nothing():
    logits = torch.full((1, 100), -torch.inf)
    logits[0, 70] = 1.0
    logits[0, 3] = 0.0
    found = top_tokens(logits, 2)
    assert found.ids.tolist() == [[70, 3]]
    assert found.total.item() == pytest.approx(
        torch.tensor([1.0, 0.0]).logsumexp(0).item(), abs=1e-6
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 17, 63, 64, 99])
def test_a_number_that_is_none_shows_in_its_row_only(bad, place):
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    logits[1, place] = bad
    assert top_tokens(logits, 2).total.isfinite().tolist() == [True, False, True]
