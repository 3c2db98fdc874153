"""Attention on the emulated operators of the chips: numbers of transformers, at every length.

Emulated: CPU kernels that hold the calls to the vendor's conditions, and nothing about a device.
"""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from neoxlib.kernels import npu
from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from tests.support.npu import reference as reference
from tests.support.npu.path import HALF, SHAPE, loaded
from tests.support.oracle_models import make_oracle

CHUNK = 3  # tokens after the prompt in one pass; one more follows alone
PADDED = 5  # columns of padding before the second row


@cache
def transformers_model() -> torch.nn.Module:
    return make_oracle(**SHAPE)


def batch(length: int) -> tuple[Tensor, Tensor]:
    """Ids of two rows, prompt, chunk and one token, and the mask with the second row's padding."""
    ids = torch.randint(1, 211, (2, length + CHUNK + 1), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, : min(PADDED, length - 1)] = False
    return ids, mask


@torch.no_grad()
def off(model: GPTNeoX, length: int) -> float:
    """Distance of logits from transformers' in float32, of real tokens, relative to their size."""
    ids, mask = batch(length)
    cache = KVCache(model.config, 2, length + 9, dtype=HALF)
    cache.k.fill_(torch.nan), cache.v.fill_(torch.nan)  # what is read without having been written
    ends = (0, length, length + CHUNK, length + CHUNK + 1)
    parts = [model(ids[:, a:b], cache, mask[:, a:b]) for a, b in pairwise(ends)]
    found = torch.cat(parts, dim=1).float()
    truth = [
        transformers_model()(row[real][None]).logits[0] for row, real in zip(ids, mask, strict=True)
    ]
    found = torch.cat([row[real] for row, real in zip(found, mask, strict=True)])
    return ((found - torch.cat(truth)).norm() / torch.cat(truth).norm()).item()


@pytest.mark.parametrize("length", [1, 2, 39, 127, 128, 129])
@pytest.mark.parametrize("family", ["A2", "A3", "310P", "unknown"])
def test_prompt_chunk_and_token_give_transformers_logits_at_any_length_emulated(family, length):
    model = loaded(dtype=HALF)
    rounded = off(model, length)
    with reference.on_chip(family):
        on_npu.attach(model, family)
        assert off(model, length) < 1.3 * rounded


def test_on_310p_a_prompt_is_padded_and_a_chunk_is_pytorchs_own_emulated():
    with reference.on_chip("310P"):
        model = loaded(dtype=HALF)
        on_npu.attach(model, "310P")
        off(model, 130)
        names = [name for name, _ in reference.calls if "flash" in name]
        sizes = {
            tuple(kwargs["atten_mask"].shape)
            for name, kwargs in reference.calls
            if "prompt" in name
        }
    layers = SHAPE["num_hidden_layers"]
    assert names == ["npu_prompt_flash_attention"] * layers + ["npu_incre_flash_attention"] * layers
    assert sizes == {(2, 1, 256, 256)}


@pytest.mark.parametrize(
    "end, served", [(npu.LONGEST_PROMPT, True), (npu.LONGEST_PROMPT + 1, False)]
)
def test_on_310p_a_prompt_past_the_limit_is_pytorchs_own(end, served):
    found = npu.NpuOps(npu.OPS["310P"])._attend(1, end, end)
    assert (found is npu._prompt_flash) == served
