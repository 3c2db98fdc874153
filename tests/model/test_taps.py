"""What taps record is what transformers' own modules compute, on every executor and over ranks."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.inference.activations import forced, run_passes
from neoxlib.kernels.cpu import build
from neoxlib.model import steps
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.taps import tapped
from tests.support.compiled_models import model_of
from tests.support.oracle_models import VARIANTS, ids_for, make_oracle
from tests.support.thread_ranks import on_ranks

MODULES = ("input_layernorm", "post_attention_layernorm", "attention.query_key_value")
MODULES += ("attention.dense", "mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h", "")
OURS = {"mlp.act": "mlp.activation"}


def truth(oracle: torch.nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Outputs of transformers' modules by our names, from its own hooks."""
    found = {}

    def hook(name: str):
        return lambda _, __, y: found.update({name: y[0] if isinstance(y, tuple) else y})

    for number, layer in enumerate(oracle.gpt_neox.layers):
        for name in MODULES:
            full = steps.full_name(number, OURS.get(name, name))
            layer.get_submodule(name).register_forward_hook(hook(full))
    oracle.gpt_neox.final_layer_norm.register_forward_hook(hook("gpt_neox.final_layer_norm"))
    oracle.gpt_neox.embed_in.register_forward_hook(hook("gpt_neox.embed_in"))
    found[steps.LOGITS] = oracle(ids).logits.detach()
    return {name: y.detach() for name, y in found.items()}


def recorded(model: GPTNeoX, rows: Tensor, decode: int = 0) -> dict[str, list[Tensor]]:
    """What one rank records of each step, by pass."""
    found = defaultdict(list)
    cut = rows.shape[1] - decode
    work = forced(rows[:, :cut].tolist(), rows[:, cut:].tolist())
    run_passes(model, work, lambda _, name, value: found[name].append(value.clone()))
    return found


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("variant", ["20b-like", "plain-residual", "tied"])
@torch.no_grad()
def test_every_step_is_what_transformers_computes(variant: str, size: int, compiled: bool):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    oracle = make_oracle(**VARIANTS[variant])
    ids = ids_for(oracle, batch=2, length=9)

    def work(group: Group) -> dict[str, list[Tensor]]:
        return recorded(model_of(oracle, group, compiled=compiled), ids, decode=2)

    ranks = on_ranks(size, work)
    known = steps.all_steps(model_of(oracle, compiled=False).config)
    for name, expected in truth(oracle, ids).items():
        if compiled and name not in ranks[0]:
            continue
        parts = [torch.cat(rank[name], dim=1) for rank in ranks]
        step = known[name]
        if step.join == steps.PARTIAL:  # transformers' has the bias in it
            bias = oracle.get_submodule(name).bias
            torch.testing.assert_close(sum(parts) + bias, expected, rtol=1e-4, atol=1e-4)
        else:
            whole = torch.cat(parts, step.dim) if step.join == steps.GATHERED else parts[-1]
            torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["20b-like", "plain-residual"])
@torch.no_grad()
def test_the_kernels_record_what_the_plain_layers_do(variant: str):
    if build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    oracle = make_oracle(**VARIANTS[variant])
    ids = ids_for(oracle, batch=2, length=9)
    plain, fast = (recorded(model_of(oracle, compiled=c), ids, 3) for c in (False, True))
    unseen = {".query_key_value", "_h_to_4h", "_4h_to_h", "attention.dense", "final_layer_norm"}
    assert not [n for n in plain.keys() - fast.keys() if not n.endswith(tuple(unseen))]
    assert len(fast) > 25
    for name, passes in fast.items():
        for one, other in zip(passes, plain[name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_cache_is_recorded_as_the_keys_that_were_rotated():
    oracle = make_oracle()
    found = recorded(model_of(oracle, compiled=False), ids_for(oracle, 2, 9), decode=2)
    keys = torch.cat(found["gpt_neox.layers.1.attention.rotary.key"], dim=1)
    for end, cached in zip((7, 8, 9), found["gpt_neox.layers.1.attention.cached.key"], strict=True):
        assert torch.equal(cached, keys[:, :end])


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@torch.no_grad()
def test_taps_change_no_bit_and_leave_nothing_behind(compiled: bool):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    oracle = make_oracle()
    model = model_of(oracle, compiled=compiled)
    ids = ids_for(oracle)

    def logits() -> Tensor:
        return model(ids, KVCache(model.config, *ids.shape))

    def state() -> list:
        parts = [*model.modules(), *([model.executor] if compiled else [])]
        hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
        own = [{k: id(v) for k, v in vars(p).items() if k in ("ops", "group")} for p in parts]
        return [own, [(dict(a), dict(b)) for a, b in hooks], "states" in vars(parts[-1])]

    before = logits()
    untouched = state()
    with tapped(model, lambda *_: None):
        assert torch.equal(logits(), before)
    assert state() == untouched
    assert torch.equal(logits(), before)


def test_an_executor_without_taps_is_refused_by_name():
    model = model_of(make_oracle(), compiled=False)
    model.executor = object()
    with pytest.raises(SettingsError, match=r"object does not show .* compile=False"):
        tapped(model, lambda *_: None).__enter__()
