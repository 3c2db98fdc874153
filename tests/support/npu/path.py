"""A small model on the NPU path, emulated on CPU kernels: what the tests of that path share."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig

from neoxlib.kernels import npu
from neoxlib.kernels.npu import OPS
from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import HEAD_SCHEME, SCHEMES, Packed
from tests.support.npu import reference as reference
from tests.support.oracle_models import TINY, make_oracle
from tests.support.thread_ranks import on_ranks

reference.install()

HALF = torch.float16
BRAIN = torch.bfloat16
SHAPE = {
    "hidden_size": 384,
    "num_attention_heads": 4,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
}  # heads of 96
BATCH = 3
LENGTH = 15
ROOM = 18
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "gelu": {"hidden_act": "gelu"},
    "relu": {"hidden_act": "relu"},
    "plain-residual": {"use_parallel_residual": False},
    "no-bias": {"attention_bias": False},
    "full-rotary": {
        "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0, "rope_type": "default"}
    },
    "odd-rotary": {
        "rope_parameters": {
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.4,
            "rope_type": "default",
        }
    },
}
CHIPS = [(family, HALF) for family in (*OPS, "unknown")] + [("A2", BRAIN), ("A3", BRAIN)]


@cache
def random_weights() -> dict[str, Tensor]:
    """Weights whose sums stay within float16, by name."""
    oracle = make_oracle(**SHAPE)
    return {
        name.replace("lm_head", "embed_out"): tensor.clone()
        for name, tensor in oracle.state_dict().items()
    }


@cache
def packed(name: str, scheme: str) -> Packed:
    return SCHEMES[scheme].pack(random_weights()[name])


def loaded(
    group: Group = SOLO,
    dtype: torch.dtype = torch.float32,
    quant: str | None = None,
    variant: str = "",
) -> GPTNeoX:
    """A model with this rank's part of the weights, packed as the loader packs them."""
    config = ModelConfig.from_dict(GPTNeoXConfig(**TINY | SHAPE | VARIANTS[variant]).to_dict())
    model = GPTNeoX(config, group, quant=quant).to(dtype)
    for name, parameter in model.named_parameters():
        full = full_parameters(config, quant)[name]
        source = random_weights().get(name)
        if full.dtype is not None:
            scheme = HEAD_SCHEME.name if name.startswith("embed_out") else quant
            source = packed(name.removesuffix("_scale"), scheme)[name.rpartition(".")[2]]
        parameter.data.copy_(source[full.rule.slices(full.shape, group.rank, group.size)])
    return model


def ids() -> Tensor:
    return torch.randint(1, 211, (BATCH, LENGTH), generator=torch.Generator().manual_seed(3))


def everything() -> Tensor:
    return torch.ones(BATCH, LENGTH, dtype=torch.bool)


def left_padded() -> Tensor:
    mask = everything()
    mask[1, :3] = False
    mask[2, :5] = False
    return mask


def answer(model: GPTNeoX, mask: Tensor | None = None) -> Tensor:
    """Logits of a prompt of 6, a chunk of 3, then single tokens, in a cache with room to spare.

    Of the single tokens the first comes with a mask, the others as `decode` gives them.
    """
    like = model.gpt_neox.final_layer_norm.weight
    cache = KVCache(model.config, BATCH, ROOM, model.group, like.dtype, like.device)
    for held in cache.layers:
        held.fill_(torch.nan)  # what is read without having been written shows
    tokens = ids().to(like.device)
    mask = None if mask is None else mask.to(like.device)
    ends = [0, 6, *range(9, LENGTH + 1)]
    columns = [
        model(tokens[:, a:b], cache, mask[:, a:b] if mask is not None and a < 10 else None)
        for a, b in pairwise(ends)
    ]
    return model.group.gather(torch.cat(columns, dim=1).float())


@cache
def plain(dtype: torch.dtype, quant: str | None, padded: bool, variant: str) -> Tensor:
    """Logits of the plain path on one rank."""
    return answer(loaded(SOLO, dtype, quant, variant), left_padded() if padded else None)


def gap(
    family: str,
    dtype: torch.dtype,
    quant: str | None = None,
    size: int = 1,
    padded: bool = False,
    variant: str = "",
) -> float:
    """Error of the NPU path against float32, relative to the plain path's error in its dtype."""

    def on_rank(group: Group) -> Tensor:
        model = loaded(group, dtype, quant, variant)
        on_npu.attach(model, family)
        return answer(model, left_padded() if padded else None)

    with reference.on_chip(family):
        found = on_ranks(size, on_rank)[0]
    assert found.isfinite().all()
    real = left_padded() if padded else everything()
    exact, rounded = (plain(kind, quant, padded, variant)[real] for kind in (torch.float32, dtype))
    return ((found[real] - exact).norm() / (rounded - exact).norm()).item()


Change = Callable[[tuple, dict[str, Any]], tuple[tuple, dict[str, Any]]]


def keywords(**changes: Any) -> Change:
    """The call with some keywords given otherwise; a function is given the value that is there."""

    def change(args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        new = {name: to(given.get(name)) if callable(to) else to for name, to in changes.items()}
        return args, {name: value for name, value in (given | new).items() if value is not LEFT_OUT}

    return change


def first(change: Callable[..., Any]) -> Change:
    """The call with its positional arguments passed through `change`."""
    return lambda args, given: (change(*args), given)


LEFT_OUT = object()


def plant(monkeypatch: pytest.MonkeyPatch, operator: str, change: Change) -> None:
    """Let the NPU path call `operator` with what `change` makes of its arguments."""
    real = npu.npu

    class Changed:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                args, kwargs = change(args, kwargs) if name == operator else (args, kwargs)
                return getattr(real, name)(*args, **kwargs)

            return call

    monkeypatch.setattr(npu, "npu", Changed())
