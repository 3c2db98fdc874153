"""What a step of decode launches on an NPU, and what it says of positions. Emulated."""

from collections import Counter
from functools import cache

import pytest
import torch

from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import rotary_tables
from neoxlib.model.npu_steps import NpuSteps
from neoxlib.model.quant import SCHEMES
from tests.support.npu import reference as reference
from tests.support.npu.launches import launches
from tests.support.npu.path import HALF, ROOM, loaded

# Operators of a layer in eager decode of several rows, its weights plain or packed; one less for a
# single row. A2 has at most 14.
LAYER = {"A2": (11, 12), "A3": (11, 12), "310P": (17, 14)}
TOKEN = 6  # beside its layers: embedding, index and rows of the angles, last sum, final norm, head


@cache
def of_a_step(family: str, batch: int, quant: str | None, layers: int) -> Counter[str]:
    """The operators of the second token of a batch, with the first `layers` layers of two."""
    model = loaded(dtype=HALF, quant=quant)
    with reference.on_chip(family):
        on_npu.attach(model, family)
        held = KVCache(model.config, batch, ROOM, dtype=HALF)
        prompt = torch.ones(batch, 5, dtype=torch.long)
        with torch.no_grad():
            model(prompt, held, prompt.bool())
            model(prompt[:, :1], held)
        with launches() as counted:
            model.head(model.states(prompt[:, :1], held, layers=layers))
    return counted


@pytest.mark.parametrize("quant", [None, *SCHEMES])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("family", LAYER)
def test_a_layer_of_decode_launches_no_more_operators_than_its_budget_emulated(
    family, batch, quant
):
    if family == "310P" and quant == "int4":
        pytest.skip("310P has no operator for int4: each weight is unpacked at each use")
    one, two = (of_a_step(family, batch, quant, layers) for layers in (1, 2))
    layer = two.total() - one.total()
    assert layer <= LAYER[family][quant is not None] - (batch == 1), two - one
    # The first layer has no sum before it, and the last sum is the token's own.
    assert two.total() - 2 * layer <= TOKEN, two


def test_the_operators_of_a_layer_are_those_that_were_meant_emulated():
    layer = of_a_step("A2", 3, None, 2) - of_a_step("A2", 3, None, 1)
    assert layer == Counter(
        npu_add_layer_norm=1,
        native_layer_norm=1,
        addmm=3,  # q, k and v; h_to_4h; 4h_to_h with the attention's sum
        clone=1,  # q, k and v in blocks; free for a single row
        npu_rotary_mul=1,
        copy_=1,  # keys and values into the cache
        npu_fused_infer_attention_score=1,
        npu_gelu=1,
    ) + Counter(addmm=1)  # dense, with the biases of both branches


def test_a_token_of_decode_needs_no_mask_and_no_write_to_what_is_real_emulated():
    beside = of_a_step("A2", 3, None, 0)
    assert beside == Counter(embedding=1, add=1, index_select=1, native_layer_norm=1, mm=1)


@pytest.mark.parametrize("padded", [False, True])
def test_angles_of_single_tokens_are_those_of_their_positions_emulated(padded):
    """v's are zero. The oracle counts real tokens one by one."""
    model = loaded(dtype=torch.float32)
    on_npu.attach(model, "A3")
    steps: NpuSteps = model.executor.steps
    held = KVCache(model.config, 3, ROOM)
    mask = torch.ones(3, 5, dtype=torch.bool)
    if padded:
        mask[1, :2] = mask[2, 3:] = False  # left of one row, right of another
    steps.next(torch.ones(3, 5, dtype=torch.long), held, mask)
    cos, sin = rotary_tables(ROOM, model.config.rotary_dim, model.config.rotary_emb_base)
    for made in range(3):
        step = steps.next(torch.ones(3, 1, dtype=torch.long), held, None)
        assert (held.length, step.end) == (6 + made, 6 + made)
        for row in range(3):
            position = int(mask[row].sum()) + made
            half = model.config.rotary_dim // 2
            for part in range(2):
                at = 3 * part + row
                assert torch.equal(step.cos[at, 0, 0, :half], cos[position, :half])
                assert torch.equal(step.sin[at, 0, 0, :half], sin[position, :half])
            assert step.cos[6 + row].eq(1).all() and step.sin[6 + row].eq(0).all()


def test_a_cache_that_was_used_otherwise_begins_anew_emulated():
    """Rewound by hand, as for a deep context, or given a chunk between single tokens."""
    model = loaded(dtype=HALF)
    with reference.on_chip("A2"), torch.no_grad():
        on_npu.attach(model, "A2")
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        one = torch.tensor([[3]])
        expected = answers(model, [ids, one, one])
        held = KVCache(model.config, 1, ROOM, dtype=HALF)
        model(ids, held), model(one, held), model(one, held), model(one, held)
        held.length = 5
        held.real[:, 5:] = False
        assert torch.equal(model(one, held), expected[1])
        assert torch.equal(model(one, held), expected[2])
        chunk = torch.tensor([[3, 3]])
        held.length = 5
        model(chunk, held, torch.tensor([[False, True]]))
        assert torch.allclose(model(one, held), expected[2], atol=2e-3)


def answers(model: GPTNeoX, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    held = KVCache(model.config, 1, ROOM, dtype=HALF)
    return [model(part, held) for part in parts]
