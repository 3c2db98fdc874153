"""Attention on the emulated operators of the chips: numbers of transformers, at every length.

Emulated: CPU kernels that hold the calls to the vendor's conditions, and nothing about a device.
"""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from neoxlib.inference.decode import Limits, decode
from neoxlib.inference.sampling import Sampling
from neoxlib.kernels import npu
from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from tests.support.npu import reference as reference
from tests.support.npu.path import HALF, LEFT_OUT, SHAPE, Change, keywords, loaded, plant
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
def off(model: GPTNeoX, length: int, padded: bool = True) -> float:
    """Distance of logits from transformers' in float32, of real tokens, relative to their size."""
    ids, mask = batch(length)
    mask = mask if padded else torch.ones_like(mask)
    cache = KVCache(model.config, 2, length + 9, dtype=HALF)
    for held in cache.layers:
        held.fill_(torch.nan)  # what is read without having been written shows
    ends = (0, length, length + CHUNK, length + CHUNK + 1)
    found = torch.cat(
        [
            model(ids[:, a:b], cache, mask[:, a:b] if padded else None).float()
            for a, b in pairwise(ends)
        ],
        dim=1,
    )
    rows = list(zip(ids, mask, strict=True))
    truth = torch.cat([transformers_model()(row[real][None]).logits[0] for row, real in rows])
    return ((found[mask] - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("length", [1, 2, 39, 127, 128, 129])
@pytest.mark.parametrize("family", ["A2", "A3", "310P", "unknown"])
def test_prompt_chunk_and_token_give_transformers_logits_at_any_length_emulated(
    family, length, padded
):
    model = loaded(dtype=HALF)
    rounded = off(model, length, padded)
    with reference.on_chip(family):
        on_npu.attach(model, family)
        assert off(model, length, padded) < 1.3 * rounded


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


Asked = tuple[int, tuple[int, ...] | None]


def asked() -> list[Asked]:
    """sparse_mode and the mask's shape of each call of an attention operator."""
    calls = [given for name, given in reference.calls if "attention" in name]
    masks = [given.get("atten_mask") for given in calls]
    return [
        (given.get("sparse_mode", 0), None if mask is None else tuple(mask.shape))
        for given, mask in zip(calls, masks, strict=True)
    ]


FULL: dict[str, list[Asked]] = {  # prompt, chunk where an operator takes it, token
    "A2": [(3, (2048, 2048)), (3, (2048, 2048)), (0, (2, 1, 1, 64))],
    "310P": [(0, (2, 1, 128, 128)), (0, (2, 1, 1, 64))],
}
PADDED_CALLS: dict[str, list[Asked]] = {
    "A2": [(0, (2, 1, 39, 64)), (0, (2, 1, 3, 64)), (0, (2, 1, 1, 64))],
    "310P": [(0, (2, 1, 128, 128)), (0, (2, 1, 1, 64))],
}


@pytest.mark.parametrize("family", FULL)
def test_several_rows_without_padding_share_the_causal_mask_emulated(family):
    for padded, wanted in ((False, FULL), (True, PADDED_CALLS)):
        with reference.on_chip(family):
            model = loaded(dtype=HALF)
            on_npu.attach(model, family)
            off(model, 39, padded)
            layers = SHAPE["num_hidden_layers"]
            assert asked() == [call for call in wanted[family] for _ in range(layers)]


@torch.no_grad()
def test_a_cache_that_held_padding_once_keeps_the_full_mask_emulated():
    with reference.on_chip("A2"):
        model = loaded(dtype=HALF)
        on_npu.attach(model, "A2")
        ids, mask = batch(6)
        cache = KVCache(model.config, 2, 20, dtype=HALF)
        model(ids[:, :6], cache, mask[:, :6])
        model(ids[:, 6:7], cache)
        assert {mode for mode, _ in asked()} == {0} and None not in {mask for _, mask in asked()}


@pytest.mark.parametrize(
    "prompts, full", [([[5, 6, 7], [8, 9, 10]], True), ([[5, 6, 7], [8]], False)]
)
def test_decoding_knows_from_the_prompts_whether_rows_are_padded_emulated(prompts, full):
    with reference.on_chip("A2"):
        model = loaded(dtype=HALF)
        on_npu.attach(model, "A2")
        list(decode(model, prompts, Sampling(3), Limits((), 211, 20)))
        assert {mode for mode, _ in asked()} == ({3, 0} if full else {0})


WITHOUT_PADDING: dict[str, Change] = {
    "sparse_mode left out": keywords(sparse_mode=LEFT_OUT),
    "the upper left's causal mask": keywords(sparse_mode=2),
    "the causal mask inverted": keywords(atten_mask=lambda mask: mask if mask.dim() > 2 else ~mask),
    "a mask of the keys seen": keywords(
        atten_mask=lambda mask: mask if mask.dim() > 2 else mask.mT
    ),
    "a smaller causal mask": keywords(
        atten_mask=lambda mask: mask if mask.dim() > 2 else mask[:64, :64].contiguous()
    ),
    "no mask at all": keywords(atten_mask=LEFT_OUT),
    "lengths left out": keywords(actual_seq_lengths_kv=LEFT_OUT),
}


@pytest.mark.parametrize("mistake", WITHOUT_PADDING)
def test_a_planted_mistake_without_padding_is_found_emulated(mistake, monkeypatch):
    model = loaded(dtype=HALF)
    rounded = off(model, 39, padded=False)

    def found_out() -> bool:
        try:
            return not off(model, 39, padded=False) < 1.3 * rounded
        except (reference.Contract, RuntimeError):
            return True

    with reference.on_chip("A2"):
        on_npu.attach(model, "A2")
        assert not found_out()
        plant(monkeypatch, "npu_fused_infer_attention_score", WITHOUT_PADDING[mistake])
        assert found_out()
