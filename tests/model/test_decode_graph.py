"""A captured step of decode against the same steps run one operator at a time. Emulated.

The graph is a stand-in on the CPU (tests/support/npu/graph.py); no NPU's graph was run.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.inference.decode import Limits, decode
from neoxlib.inference.sampling import Sampling
from neoxlib.kernels.npu import OPS
from neoxlib.model import decode_graph, on_npu
from neoxlib.model.decode_graph import choose_graph
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group
from tests.support.npu import reference as reference
from tests.support.npu.graph import NotCapturable, StandInGraph
from tests.support.npu.path import HALF, loaded
from tests.support.thread_ranks import on_ranks

SLOTS = 32
STEPS = 20
PROMPTS = {  # ragged rows
    1: [[5, 6, 7]],
    3: [[5, 6, 7], [8], [9, 10, 11, 12, 13]],
}


@pytest.fixture(autouse=True)
def on_an_a2() -> Iterator[None]:
    StandInGraph.made.clear()
    with reference.on_chip("A2"):
        yield


def model_on(
    recorder: Callable[[], Any] | None, quant: str | None = None, group: Group = SOLO
) -> GPTNeoX:
    model = loaded(group, HALF, quant)
    on_npu.attach(model, "A2", recorder)
    return model


def logits_of(model: GPTNeoX, batch: int, steps: int = STEPS) -> list[Tensor]:
    """Logits of a left-padded prompt and of single tokens after it."""
    rows = PROMPTS[batch]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    generator = torch.Generator().manual_seed(batch)
    cache = model.new_cache(batch, SLOTS)
    with torch.inference_mode():
        found = [model(ids, cache, mask, last_only=True)]
        for _ in range(steps):
            ids = torch.randint(1, 211, (batch, 1), generator=generator)
            found.append(model(ids, cache, None, last_only=True))
    return [model.group.gather(each) for each in found]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("quant", [None, "int8", "int4"])
@pytest.mark.parametrize("batch", PROMPTS)
def test_replayed_steps_are_the_eager_ones_bit_for_bit_emulated(batch, quant):
    model = model_on(StandInGraph, quant)
    assert same(logits_of(model, batch), logits_of(model_on(None, quant), batch))
    (graph,) = StandInGraph.made
    longest = max(map(len, PROMPTS[batch]))
    assert graph.ends == list(range(longest + 2, longest + STEPS + 1))  # the first token is eager
    use = model.executor.graphs.use
    assert (use.captured, use.replayed, use.failure) == (1, STEPS - 1, "") and use.capture_s > 0


def test_a_graph_serves_the_next_batch_of_its_size_in_the_same_memory_emulated():
    model = model_on(StandInGraph)
    first = logits_of(model, 3)
    memory = [held.data_ptr() for held in model.executor.graphs.leases[3, SLOTS].memory.layers]
    assert same(logits_of(model, 3), first) and len(StandInGraph.made) == 1
    held = model.executor.graphs.leases[3, SLOTS].memory.layers
    assert [each.data_ptr() for each in held] == memory
    assert StandInGraph.made[0].ends[STEPS - 1] == 6  # of the second batch even the first token


def test_another_batch_size_frees_the_idle_one_and_has_a_graph_of_its_own_emulated():
    model = model_on(StandInGraph)
    plain = model_on(None)
    for batch in (1, 3, 1):
        assert same(logits_of(model, batch), logits_of(plain, batch))
        assert list(model.executor.graphs.leases) == [(batch, SLOTS)]
    assert len(StandInGraph.made) == 3


def test_idle_memory_is_freed_when_asked_and_what_is_in_use_is_not_emulated():
    model = model_on(StandInGraph)
    logits_of(model, 3)
    model.free_idle_caches()
    assert model.executor.graphs.leases == {}
    held = model.new_cache(1, SLOTS)
    model.free_idle_caches()
    assert list(model.executor.graphs.leases) == [(1, SLOTS)] and held.length == 0


def test_a_size_that_is_in_use_twice_at_a_time_gives_each_its_own_numbers_emulated():
    model = model_on(StandInGraph)
    plain = model_on(None)
    mask = torch.ones(1, 3, dtype=torch.bool)
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        both = [model.new_cache(1, SLOTS), model.new_cache(1, SLOTS)]
        other = [plain.new_cache(1, SLOTS), plain.new_cache(1, SLOTS)]
        for step in range(6):
            ids = (prompt, mask) if step == 0 else (torch.tensor([[step]]), None)
            for n in range(2):
                rows = ids[0] + n
                assert torch.equal(model(rows, both[n], ids[1]), plain(rows, other[n], ids[1])), (
                    step,
                    n,
                )
    assert len(StandInGraph.made) == 1


def test_a_stop_in_the_middle_leaves_the_next_answer_as_it_was_emulated():
    sampling = Sampling(12)
    limits = Limits((), 211, SLOTS)

    def tokens(model: GPTNeoX, stop: int) -> list[list[int | None]]:
        steps = decode(model, PROMPTS[3], sampling, limits)
        return [next(steps).choice.tokens for _ in range(stop)]

    model = model_on(StandInGraph)
    expected = tokens(model_on(None), 12)
    assert tokens(model, 5) == expected[:5]
    assert tokens(model, 12) == expected and len(StandInGraph.made) == 1
    assert model.executor.graphs.use.replayed == 3 + 11


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_replay_the_graph_of_one_capture_emulated(ranks):
    def work(group: Group) -> tuple[list[Tensor], Any]:
        model = model_on(lambda: StandInGraph(group), group=group)
        return logits_of(model, 3), model.executor.graphs.use

    alone = on_ranks(ranks, lambda group: logits_of(model_on(None, group=group), 3))[0]
    found = on_ranks(ranks, work)
    assert same(found[0][0], alone)
    assert {(use.captured, use.replayed) for _, use in found} == {(1, STEPS - 1)}


class CannotOnRank1(StandInGraph):
    """A capture that fails on one rank alone."""

    def capture(self, step: Callable[[], Tensor]) -> Tensor:
        raise RuntimeError("aclmdlRICaptureEnd failed\nmore")


def test_where_one_rank_cannot_capture_all_go_on_eagerly_and_say_why_emulated():
    def work(group: Group) -> tuple[list[Tensor], Any]:
        kind = CannotOnRank1 if group.rank == 1 else StandInGraph
        model = model_on(lambda: kind(group), group=group)
        return logits_of(model, 3), model.executor.graphs.use

    alone = on_ranks(2, lambda group: logits_of(model_on(None, group=group), 3))[0]
    found = on_ranks(2, work)
    assert same(found[0][0], alone)
    assert [use.failure for _, use in found] == [
        "another rank could not capture the step",
        "RuntimeError: aclmdlRICaptureEnd failed",
    ]
    assert [use.replayed for _, use in found] == [0, 0]


@pytest.mark.parametrize(
    "step", [lambda x: x.sum().item(), lambda x: x + torch.arange(3), lambda x: x[x > 0]]
)
def test_what_no_graph_can_hold_is_refused_by_the_stand_in(step):
    with torch.no_grad(), pytest.raises(NotCapturable):
        StandInGraph().capture(lambda: step(torch.ones(3)))


def test_chunks_layers_and_caches_made_elsewhere_run_eagerly_emulated():
    model = model_on(StandInGraph)
    cache = model.new_cache(1, SLOTS)
    with torch.no_grad():
        for _ in range(3):
            model(torch.tensor([[5, 6]]), cache)
            model.states(torch.tensor([[7]]), cache, layers=1)
            model(torch.tensor([[7]]), cache, torch.tensor([[True]]))
        elsewhere = model.executor.empty_cache(1, SLOTS)
        for _ in range(3):
            model(torch.tensor([[7]]), elsewhere)
    assert StandInGraph.made == []


@pytest.mark.parametrize(
    "asked, device, family, compiled, rule",
    [
        ("auto", "npu", "A2", True, ""),
        ("on", "npu", "A3", True, ""),
        ("auto", "npu", "310P", True, "310P NPU, and torch_npu captures decode on A2, A3 alone"),
        ("auto", "npu", "unknown", True, "unknown NPU"),
        ("auto", "cpu", "", True, "captured on NPUs alone, and this runs on cpu"),
        ("auto", "npu", "A2", False, "compile is False"),
        ("off", "npu", "A2", True, "asked for"),
    ],
)
def test_the_rule_decides_and_is_named(asked, device, family, compiled, rule):
    use, said = choose_graph(asked, device, family, compiled)
    assert use == (not rule) and rule in said
    if rule and asked == "auto":
        with pytest.raises(SettingsError, match='graph is "on", but .*' + rule[:20]):
            choose_graph("on", device, family, compiled)


@pytest.mark.parametrize("name", decode_graph.AGAINST)
def test_variables_that_make_the_host_wait_are_rules_too(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    use, said = choose_graph("auto", "npu", "A2")
    assert not use and name in said


def test_an_unknown_choice_is_refused():
    with pytest.raises(SettingsError, match="graph is 'yes'; it is one of auto, on, off"):
        choose_graph("yes", "npu", "A2")


def test_only_chips_with_fused_attention_are_captured():
    assert all(one.one is not None for one in OPS.values() if one.graph)
