"""Faults under the compiled kernels: weights patched where they read, what they are told, and sums.

The kernels show what lies between two of their products: a fault is found in the first step that
shows it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from tests.support import planted
from tests.support.fault_edits import doubled, lost, mean, reduced_in_half
from tests.support.faults import (
    AFTER,
    DENSE,
    DOWN,
    FAULTS,
    FIRST_QUERY,
    FLOAT32,
    HEAD,
    IN,
    POST,
    QUERY,
    SPLIT,
    Fault,
)
from tests.support.planted import Edited, Plant, Spot, here

SUM = "all_reduce.before"
EMBEDDED = "/gpt_neox.embed_in"  # the ranks' terms of the embedding are not seen
SHOWN = {  # kind of a patched weight: the first step that shows it
    "thirds of q, k, v cut as blocks": QUERY,
    "q and k swapped in the weight": QUERY,
    "one head turned by a row": QUERY,
    "bias of q, k, v left out": QUERY,
    "bias of h_to_4h left out": "mlp.activation",
    "bias of dense left out": "",
    "bias of a norm left out": IN,
    "weight of a norm left out": POST,
    "rows of the neighbour, q, k, v": QUERY,
    "rows of the neighbour, h_to_4h": "mlp.activation",
    "bias of the neighbour, h_to_4h": "mlp.activation",
    "columns of the neighbour, dense": SUM,
    "columns of the neighbour, 4h_to_h": SUM,
    "embedding of the neighbour": EMBEDDED,
    "head of another rank": HEAD,
    "final norm's bias left out": HEAD,
    "scales of the next group": QUERY,
    "scales of the next row": "mlp.activation",
    "NaN in one weight": SUM,
    "infinity in one bias": "mlp.activation",
    "one flipped exponent bit": "mlp.activation",
    "one packed byte flipped": SUM,
}

# One int8 weight is less than the kernels' rounding of the inputs to 8 bits.
IN_KERNELS = {"one packed byte flipped": ("int4",)}


def reloaded(plant: Plant) -> Plant:
    """Patch the model, and let the kernels read it anew."""

    def patched(model: GPTNeoX, spot: Spot) -> None:
        plant(model, spot)
        model.executor.reload_pointers()

    return patched


def told(**changes: Callable[[Any], Any]) -> Plant:
    """Another config for the kernels."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        planted.config(**changes)(model, spot)
        model.executor.config = model.config

    return reloaded(plant)


def reduce(edit: Callable[[Group, Tensor], Tensor], one: bool = False) -> Plant:
    """Replace the all-reduce after one layer, on all ranks or on one."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        executor = model.executor
        real = executor.group
        calls = [0]

        def all_reduce(x: Tensor) -> Tensor:
            stage = calls[0] % executor.stages
            calls[0] += 1
            mine = stage == spot.layer and (not one or here(model, spot))
            return edit(real, x) if mine else real.all_reduce(x)

        executor.group = Edited(real, all_reduce=all_reduce)

    return plant


def on_every_rank(path: str) -> Plant:
    """The bias of a row-parallel product as the sum over the ranks has it if each adds it."""

    def plant(model: GPTNeoX, spot: Spot) -> None:
        planted.weights(path, lambda bias: bias * model.group.size)(model, spot)

    return reloaded(plant)


def late(model: GPTNeoX, spot: Spot) -> None:
    """One rank sends the term of the pass before, if that had as many tokens."""
    kept: dict[Any, Tensor] = {}

    def edit(real: Group, x: Tensor) -> Tensor:
        now = x.clone()
        x.copy_(kept.get(x.shape, x))
        kept[x.shape] = now
        return real.all_reduce(x)

    reduce(edit, one=True)(model, spot)


def _patched(fault: Fault) -> Fault:
    step = SHOWN[fault.kind]
    one = fault.one and step != EMBEDDED  # the sum has it on every rank
    dtypes = IN_KERNELS.get(fault.kind, fault.dtypes)
    return replace(fault, plant=reloaded(fault.plant), step=step, one=one, dtypes=dtypes)


COMPILED = (
    *(_patched(fault) for fault in FAULTS if fault.kind in SHOWN),
    Fault("bias of dense on every rank", on_every_rank(f"{DENSE}.bias"), "", sizes=SPLIT),
    Fault("bias of 4h_to_h on every rank", on_every_rank(f"{DOWN}.bias"), "", sizes=SPLIT),
    Fault("rotary base", told(rotary_emb_base=lambda x: x * 2), FIRST_QUERY),
    Fault("rotary fraction halved", told(rotary_pct=lambda x: x / 2), FIRST_QUERY),
    Fault(
        "relu for gelu",
        told(hidden_act=lambda _: "relu"),
        "/gpt_neox.layers.0.mlp.activation",
    ),
    Fault(
        "eps a thousand times",
        told(layer_norm_eps=lambda x: x * 1000),
        "/gpt_neox.layers.0.input_layernorm",
    ),
    Fault(
        "all-reduce without effect",
        reduce(lambda _, x: x),
        AFTER,
        sizes=SPLIT,
        said="rank 0 has only its own term",
    ),
    Fault(
        "a rank's term is lost",
        reduce(lost, one=True),
        AFTER,
        sizes=SPLIT,
        said="the sum lacks the term of rank {rank}",
    ),
    Fault(
        "a rank's term is in twice",
        reduce(doubled, one=True),
        AFTER,
        sizes=SPLIT,
        said="the term of rank {rank} is in the sum twice",
    ),
    Fault(
        "a rank is late by one pass",
        late,
        AFTER,
        sizes=SPLIT,
        pass_=2,
        said="the term of rank {rank} is that of the pass before",
    ),
    Fault("mean in place of the sum", reduce(mean), AFTER, sizes=SPLIT),
    Fault(
        "reduced in float16",
        reduce(reduced_in_half),
        AFTER,
        sizes=SPLIT,
        dtypes=FLOAT32,
        said="it was rounded too much",
    ),
)
