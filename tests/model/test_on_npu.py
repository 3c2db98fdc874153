"""The NPU path on CPU kernels that follow the operators' pages gives the numbers of the plain path.

Emulated: it shows that the path fits the pages as they were read, and nothing about a device.
"""

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch

from neoxlib.kernels import npu
from neoxlib.kernels.npu import OPS
from neoxlib.model import on_npu
from neoxlib.model.quant import SCHEMES
from tests.support.npu import reference as reference
from tests.support.npu.pages import PAGES
from tests.support.npu.path import CHIPS, HALF, ROOM, VARIANTS, answer, gap, keywords, loaded, plant


@pytest.mark.parametrize("padded", [False, True], ids=["full", "left-padded"])
@pytest.mark.parametrize("family, dtype", CHIPS)
def test_prompt_chunk_and_decode_are_as_close_as_plain_emulated(family, dtype, padded):
    assert gap(family, dtype, padded=padded) < 1.3


@pytest.mark.parametrize("quant", SCHEMES)
@pytest.mark.parametrize("family, dtype", CHIPS)
def test_packed_weights_are_as_close_as_unpacked_ones_emulated(family, dtype, quant):
    assert gap(family, dtype, quant, padded=True) < 1.3
    taken = "npu_weight_quant_batchmatmul" in reference.called()
    assert taken == bool(OPS.get(family, npu.PLAIN).packed)


@pytest.mark.parametrize("quant", [None, *SCHEMES])
@pytest.mark.parametrize("family", ["A2", "310P"])
def test_two_ranks_are_as_close_as_plain_emulated(family, quant):
    assert gap(family, HALF, quant, size=2, padded=True) < 1.3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["A2", "310P", "unknown"])
def test_every_published_variant_is_served_emulated(family, variant):
    assert gap(family, HALF, padded=True, variant=variant) < 1.3


NORM = "npu_add_layer_norm"
EXPECTED = {
    "A2": {"npu_fused_infer_attention_score", "npu_rotary_mul", "npu_gelu", NORM},
    "A3": {"npu_fused_infer_attention_score", "npu_rotary_mul", NORM},
    "310P": {"npu_prompt_flash_attention", "npu_incre_flash_attention", "npu_gelu", NORM},
    "910A": {"npu_gelu"},
    "unknown": set(),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_each_chip_is_served_by_the_operators_of_the_table_emulated(family):
    gap(family, HALF)
    used = reference.called()
    assert used - {"npu_format_cast"} == EXPECTED[family]
    assert all(family in PAGES[name].families for name in used)
    assert ("npu_format_cast" in used) == (family == "310P")


def test_every_operator_that_is_called_has_a_page_a_schema_and_a_kernel():
    schemas = {line.split("(")[0].removeprefix("npu::") for line in reference.schemas()}
    kernels = {kernel.__name__ for kernel in reference.KERNELS}
    assert set(PAGES) <= schemas == kernels
    assert "fast_gelu" not in PAGES and kernels - set(PAGES) <= reference.NOT_CALLED


def test_nz_is_for_plain_matrices_on_310p_only_emulated():
    for quant, family, casts in ((None, "310P", 2 * 4 + 1), ("int8", "310P", 0), (None, "A2", 0)):
        with reference.on_chip(family):
            on_npu.attach(loaded(dtype=HALF, quant=quant), family)
            assert [kwargs for name, kwargs in reference.calls if name == "npu_format_cast"] == [
                {}
            ] * casts


def test_turning_whole_heads_is_the_partial_rotation_in_another_order():
    """The scores of q and k, and nothing else, are what the order must keep."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 5, 96, generator=generator, dtype=torch.float64)
    angle = torch.rand(1, 1, 5, 12, generator=generator, dtype=torch.float64).repeat(1, 1, 1, 2) * 9
    plain = [npu.plain.rotate(x, angle.cos(), angle.sin()) for x in (q, k)]
    ops = npu.NpuOps(OPS["A2"])
    wide = ops.angles(angle.cos(), angle.sin(), 96)
    assert wide[0].shape[-1] == 96
    turned = [npu.plain.rotate(on_npu.halves(x.mT, 24).mT, *wide) for x in (q, k)]
    torch.testing.assert_close(turned[0] @ turned[1].mT, plain[0] @ plain[1].mT)


def test_heads_that_the_pages_rule_out_go_to_pytorchs_own():
    for heads, head_dim, rotary, attention, rotation in (
        (8, 96, 24, True, True),
        (8, 48, 12, True, True),
        (8, 40, 10, False, False),
        (8, 20, 4, False, False),
        (300, 16, 4, False, True),
        (8, 1024, 24, False, False),
        (8, 96, 0, True, False),
    ):
        found = npu.operators_for("A2", heads, head_dim, rotary)
        assert (found.several is not None, found.one is not None, found.rotary_mul) == (
            attention,
            attention,
            rotation,
        )


def test_where_npu_gelu_is_not_listed_pytorchs_own_is_not_asked_for_the_exact_form(monkeypatch):
    """On an NPU it is the tanh form, whatever it is asked for."""
    monkeypatch.setattr(npu.plain, "activate", None)
    x = torch.tensor([1.0, -2.0])
    found = npu.NpuOps(OPS["A3"]).activate(x, "gelu")
    torch.testing.assert_close(found, torch.tensor([0.841344746, -0.045500264]))


def test_weights_are_laid_out_once_only_emulated():
    model = loaded(dtype=HALF)
    on_npu.attach(model, "A2")
    with pytest.raises(AssertionError, match="laid out already"):
        on_npu.attach(model, "A2")


@pytest.mark.parametrize(
    "family, limit, tokens, operator",
    [
        ("A2", 1000, 2, "npu_rotary_mul"),
        ("310P", 129, 2, "npu_prompt_flash_attention"),
        ("310P", 257, 1, "npu_incre_flash_attention"),
    ],
)
def test_a_batch_past_the_operators_limit_goes_to_pytorchs_own_emulated(
    family, limit, tokens, operator
):
    ops = npu.NpuOps(OPS[family])
    for rows in (limit - 1, limit):
        q = torch.zeros(rows, 1, tokens, 16, dtype=HALF)
        keep = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool)
        with reference.on_chip(family):
            cos, sin = ops.angles(*torch.ones(2, rows, 1, tokens, 4, dtype=HALF), 16)
            ops.attend(ops.rotate(q, cos, sin), q, q, ops.mask(keep, tokens), tokens)
            assert (operator in reference.called()) == (rows < limit)


@pytest.mark.parametrize("family", ["A2", "310P"])
def test_slots_not_in_use_are_left_out_by_their_number_and_in_prompts_by_the_mask_too_emulated(
    family,
):
    """The number is what spares the operator the work, and the one mask of all single tokens."""
    gap(family, HALF, padded=True)
    told = [
        kwargs for name, kwargs in reference.calls if name.startswith(("npu_fused", "npu_incre"))
    ]
    masks = Counter(kwargs["atten_mask"].data_ptr() for kwargs in told)
    alike = {address for address, times in masks.items() if times > 2}  # a layer each, two layers
    for kwargs in told:
        (end,) = kwargs.get("actual_seq_lengths_kv") or kwargs["actual_seq_lengths"]
        left_out = kwargs["atten_mask"]
        assert (
            left_out.shape[-1] == 32 >= ROOM
            and not left_out[..., -1:, end - 1].any()
            and (left_out.data_ptr() in alike or left_out[..., end:].all())
        )
    assert told and len(alike) == 1


def test_float32_is_refused_as_the_pages_have_it_emulated():
    with (
        pytest.raises(reference.Contract, match="float16, bfloat16 or int8"),
        reference.on_chip("A2"),
    ):
        model = loaded()
        on_npu.attach(model, "A2")
        answer(model)


@pytest.mark.parametrize("form", ["gelu", "tanh", "relu"])
@pytest.mark.parametrize("family", EXPECTED)
def test_the_activation_is_the_one_that_the_config_names_emulated(family, form, monkeypatch):
    """The two forms of gelu are 5e-4 apart at most, which 16 bits hide; so are their slopes."""
    x = torch.linspace(-6, 6, 1001)
    ops = npu.NpuOps(OPS.get(family, npu.PLAIN))
    exact = npu.plain.activate(x.double(), form).float()
    with reference.on_chip(family):
        torch.testing.assert_close(ops.activate(x, form), exact, rtol=0, atol=2e-6)
        plant(
            monkeypatch,
            "npu_gelu",
            keywords(approximate=lambda form: "none" if form == "tanh" else "tanh"),
        )
        same = (ops.activate(x, form) - exact).abs().max() < 1e-4
        assert same == (form == "relu" or "npu_gelu" not in EXPECTED[family])


# ---- on a make-believe device: where tensors are, and what the host waits for ----


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """Run tests/support/npu/device.py in a process of its own: its device stays registered."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.npu.device"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_the_model_moves_to_the_device_and_computes_the_same_there_emulated(seen):
    """Bit for bit; PyTorch's own attention is done in parts there, which rounds in other places.

    310P takes it for a chunk on a cache.
    """
    assert seen["off"]["A2"] == [0.0] * 3
    assert max(seen["off"]["310P"] + seen["off"]["unknown"]) < 0.05


def test_a_decode_step_waits_for_the_device_only_for_its_clocks_and_the_logits_emulated(seen):
    for steps in seen["greedy"].values():
        assert all(
            step["waits"] == {"synchronize": 3 + (n > 0), "aten::_to_copy": 1}
            for n, step in enumerate(steps)
        )
        assert [step["device_ms"] for step in steps] == [2.0] * 4
    assert seen["greedy"]["A2"][0]["tokens"] == seen["greedy"]["310P"][0]["tokens"]


def test_an_engine_counts_the_devices_time_and_memory_emulated(seen):
    engine = seen["engine"]
    assert engine["memory"] == [{"peak": 3.0, "allocated": 2.0, "in_use": 4000.0}]
    assert engine["peak_mb"] == [3.0]
    assert engine["device"] == [2.0] * 3 and engine["logits"] == ["cpu", "torch.float32"]
    assert len(engine["scores"]) == 4 and all(logprob < 0 for logprob, _ in engine["scores"])


def test_a_tensor_left_on_the_cpu_is_found_emulated(seen):
    assert all("same device" in said for said in seen["wrong"]), seen["wrong"]


def test_a_folder_is_loaded_onto_the_device_and_answers_there_emulated(seen):
    plain = seen["load"]["None"]
    packed = seen["load"]["int8"]
    assert plain["about"] == {
        "dtype": "float16",
        "device": "npu",
        "quant": None,
        "compile": "operators for 910B3",
    }
    assert plain["started"] == [{"jit_compile": False}] * 2
    assert max(plain["off"], packed["off"]) < 3e-3 and plain["tokens"] == packed["tokens"] == [3, 3]
    assert set(packed["called"]) - set(plain["called"]) == {"npu_weight_quant_batchmatmul"}


def test_a_cache_on_the_device_starts_with_zeros_emulated(seen):
    """An operator may take whole blocks of slots, past the last that is in use."""
    assert seen["fresh"] == 0
