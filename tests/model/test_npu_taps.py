"""What is recorded on the NPU's operators is what plain layers compute, and changes no bit.

Emulated on the CPU (tests/support/npu); nothing here ran on an NPU.
"""

from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from neoxlib.inference.activations import forced, run_passes
from neoxlib.model import on_npu, steps
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group
from neoxlib.model.taps import tapped
from tests.support.npu import reference as reference
from tests.support.npu.graph import StandInGraph
from tests.support.npu.path import BRAIN, HALF, answer, left_padded, loaded
from tests.support.thread_ranks import on_ranks

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]]  # the second is padded
THEN = [[15, 16], [17, 18]]
FAMILIES = ("A2", "A3", "310P", "unknown")
QUERY = "gpt_neox.layers.1.attention.rotary.query"
Found = dict[str, list[Tensor]]


@pytest.fixture
def graphs() -> Iterator[list[StandInGraph]]:
    StandInGraph.made.clear()
    yield StandInGraph.made


def recorded(model: GPTNeoX) -> Found:
    """What one rank records of each step, by pass."""
    found = defaultdict(list)
    run_passes(
        model, forced(PROMPTS, THEN), lambda _, name, y: found[name].append(y.float().clone())
    )
    return found


def on_the_npu(
    family: str, group: Group, dtype: torch.dtype, quant: str | None, variant: str = ""
) -> GPTNeoX:
    model = loaded(group, dtype, quant, variant)
    on_npu.attach(model, family)
    return model


def whole(ranks: list[Found], name: str, step: steps.Step) -> Tensor:
    """The joined real tokens of a step, all passes."""
    real = forced(PROMPTS, THEN).mask
    parts = [rank[name] for rank in ranks]
    if step.join == steps.PARTIAL:
        joined = [sum(each) for each in zip(*parts, strict=True)]
    elif step.join == steps.GATHERED:
        joined = [torch.cat(each, step.dim) for each in zip(*parts, strict=True)]
    else:
        joined = parts[-1]
    if "cached" in name:
        return torch.cat([y[real[:, : y.shape[1]]] for y in joined])
    return torch.cat(joined, 1)[real]


def biases(model: GPTNeoX, name: str) -> Tensor | float:
    """What rank 0's product adds on the NPU, and plain layers add after the sum."""
    part = steps.within(name)
    if not part.startswith(("attention.dense", "mlp.dense_4h")) and "all_reduce" not in part:
        return 0.0
    if part.startswith("gpt_neox.embed_in"):
        return 0.0
    block = model.gpt_neox.layers[steps.layer_of(name)]
    both = [block.attention.dense.bias, block.mlp.dense_4h_to_h.bias]
    if block.parallel:
        return sum(both)
    return both[part.startswith("mlp.")]


CASES = [
    (family, HALF, quant, size, "")
    for family in ("A2", "A3", "310P")
    for quant in (None, "int8", "int4")
    for size in (1, 2)
]
CASES += [("A2", BRAIN, None, 2, ""), ("A3", BRAIN, "int8", 1, ""), ("unknown", HALF, None, 1, "")]
CASES += [("A2", HALF, None, 2, "plain-residual"), ("310P", HALF, "int8", 1, "plain-residual")]


@pytest.mark.parametrize("family, dtype, quant, size, variant", CASES)
@torch.no_grad()
def test_every_step_is_that_of_plain_layers_emulated(family, dtype, quant, size, variant):
    plain = loaded(SOLO, torch.float32, quant, variant)
    truth = recorded(plain)
    with reference.on_chip(family):
        ranks = on_ranks(
            size, lambda group: recorded(on_the_npu(family, group, dtype, quant, variant))
        )
    known = steps.all_steps(plain.config)
    unseen = {"mlp.dense_4h_to_h"} if plain.config.use_parallel_residual else set()
    lost = {steps.within(name) for name in known.keys() - ranks[0].keys()}
    assert lost == unseen | ({steps.EMBEDDED} if size == 1 else set())
    for name, step in known.items():
        if name not in ranks[0] or name not in truth:
            continue
        expected = whole([truth], name, step) + biases(plain, name)
        off = (whole(ranks, name, step) - expected).norm() / expected.norm()
        assert off < (0.02 if dtype == BRAIN else 0.004), name


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
@pytest.mark.parametrize("family", ["A2", "A3", "310P"])
@torch.no_grad()
def test_taps_change_no_bit_and_leave_nothing_behind_emulated(family, quant):
    with reference.on_chip(family):
        model = on_the_npu(family, SOLO, HALF, quant)
        reference.calls.clear()  # those that laid out the weights
        before = answer(model, left_padded())
        called = [name for name, _ in reference.calls]
        untouched = {name: id(value) for name, value in vars(model.executor).items()}
        group = vars(model.gpt_neox.embed_in)["group"]
        reference.calls.clear()
        with tapped(model, lambda *_: None):
            assert torch.equal(answer(model, left_padded()), before)
        assert [name for name, _ in reference.calls] == called
        assert {name: id(value) for name, value in vars(model.executor).items()} == untouched
        assert model.gpt_neox.embed_in.group is group and not model.gpt_neox.embed_in._forward_hooks
        assert torch.equal(answer(model, left_padded()), before)


@torch.no_grad()
def test_a_captured_graph_is_not_used_while_tapped_and_is_valid_afterwards_emulated(graphs):
    """Single tokens before, while and after: the same bits as without a graph and taps."""

    def logits(model: GPTNeoX, look: bool) -> tuple[list[Tensor], int]:
        cache = model.new_cache(2, 32)
        ids = torch.tensor([[5, 6, 7], [0, 8, 9]])
        found = [model(ids, cache, torch.tensor([[True] * 3, [False, True, True]]))]
        seen = []
        for number in range(9):
            ids = torch.full((2, 1), 20 + number)
            if look and number in (3, 4):
                with tapped(model, lambda name, _: seen.append(name)):
                    found.append(model(ids, cache))
            else:
                found.append(model(ids, cache))
        return found, len(seen)

    with reference.on_chip("A2"):
        model = loaded(dtype=HALF)
        on_npu.attach(model, "A2", StandInGraph)
        expected = logits(on_the_npu("A2", SOLO, HALF, None), look=False)[0]
        for look in (True, False):
            found, seen = logits(model, look)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert (seen > 50) == look
        assert len(graphs) == 1 and model.executor.graphs.use.replayed == 6 + 9


@pytest.mark.parametrize("family", ["A2", "310P"])
@torch.no_grad()
def test_the_run_goes_on_with_what_a_record_writes_emulated(family):
    """Each step is another's input, whatever order its rows have inside."""
    with reference.on_chip(family):
        model = on_the_npu(family, SOLO, HALF, None)
        usual = recorded(model)
        for name in ("query_key_value", "rotary.query", "rotary.key", "cached.value", "context"):
            name = f"gpt_neox.layers.0.attention.{name}"
            given = usual[name][0].half().flip(-1)
            found = {}

            def record(each: str, y: Tensor, name=name, given=given, found=found) -> None:
                found[each] = y.clone()
                if each == name:
                    y.copy_(given)

            work = forced(PROMPTS)
            with tapped(model, record):
                model(work.ids, model.new_cache(*work.ids.shape), work.mask)
            same = {each: torch.equal(found[each].float(), usual[each][0]) for each in found}
            order = [each for each in steps.all_steps(model.config) if each in found]
            later = order[order.index(name) + 1 :]
            assert all(same[each] for each in order[: order.index(name) + 1])
            assert not same["gpt_neox.layers.0.attention.dense"] and not same[later[-1]]
            if name.endswith("query_key_value"):  # turned by hand: the same parts of the same heads
                parts = given.unflatten(-1, (-1, 3, model.config.head_dim))
                assert torch.equal(
                    found["gpt_neox.layers.0.attention.cached.value"], parts[..., 2, :]
                )


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_plain_operators_in_their_place_give_the_same_from_what_they_are_given_emulated(
    family, quant
):
    """Weights, tables and masks are the run's: none of the chip's operators is called."""
    with reference.on_chip(family):
        model = on_the_npu(family, SOLO, HALF, quant)
        usual = recorded(model)
        untouched = {name: id(value) for name, value in vars(model.executor).items()}
        reference.calls.clear()
        with model.executor.plain():
            found = recorded(model)
        assert reference.calls == [] and found.keys() == usual.keys()
        assert {name: id(value) for name, value in vars(model.executor).items()} == untouched
        real = forced(PROMPTS, THEN).mask
        for name in found:
            for pass_, (one, other) in enumerate(zip(found[name], usual[name], strict=True)):
                ends = real[:, : one.shape[1]] if "cached" in name or not pass_ else slice(None)
                off = (one[ends] - other[ends]).norm() / other[ends].norm()
                assert off < 0.004, (name, pass_)
        with model.executor.plain():  # a table that is wrong stays so
            model.executor.steps.table = model.executor.steps.table * 0.5
            turned = recorded(model)
        assert not torch.equal(turned[QUERY][0], found[QUERY][0])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_operators_that_are_named_are_those_that_are_called_emulated(family):
    with reference.on_chip(family):
        model = on_the_npu(family, SOLO, HALF, "int8")
        reference.calls.clear()
        recorded(model)
        told = [model.executor.operators(2, *sizes) for sizes in ((7, 7), (1, 8))]
        named = {name for each in told for name in each.values() if name.startswith("npu_")}
        assert named == reference.called()
        assert told[0][steps.CONTEXT] != told[1][steps.CONTEXT] or family != "310P"
