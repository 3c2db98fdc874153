"""Predicted launches of a token against those counted on the emulated operators."""

from dataclasses import replace

import pytest
import torch

from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.group import Group
from neoxlib.speed import launches
from neoxlib.speed.plan import plan
from tests.support.npu import reference as reference
from tests.support.npu.launches import launches as counting
from tests.support.npu.path import HALF, ROOM, SHAPE, loaded
from tests.support.planned import TWENTY_B


class OneOf(Group):
    """The first of `size` ranks, alone: its sums are taken as they are, and none is an operator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


def counted(family: str, batch: int, quant: str | None, variant: str, size: int = 1) -> int:
    """The operators of a token after the first, with two layers."""
    model = loaded(OneOf(size), HALF, quant, variant)
    with reference.on_chip(family):
        on_npu.attach(model, family)
        held = KVCache(model.config, batch, ROOM, model.group, HALF)
        ids = torch.ones(batch, 3, dtype=torch.long)
        with torch.no_grad():
            model(ids, held, ids.bool())
            model(ids[:, :1], held)
        with counting() as names:
            model(ids[:, :1], held)
    return names.total()


@pytest.mark.parametrize("variant", ["", "gelu", "plain-residual", "no-bias"])
@pytest.mark.parametrize("quant", [None, "int8"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chip, family", [("910B3", "A2"), ("A3", "A3"), ("310P3", "310P")])
def test_the_planner_counts_what_the_model_launches_emulated(chip, family, batch, quant, variant):
    config = loaded(dtype=HALF, variant=variant).config
    found = launches.launches(plan(config, 1, batch, 16, chip=chip, quant=quant))
    real = counted(family, batch, quant, variant)
    assert found.eager == real, (found, real)
    assert (found.graph is None) == (family == "310P")
    assert SHAPE["num_hidden_layers"] == 2 and found.sums == 0


def test_over_ranks_the_embedding_and_the_sums_are_added_emulated():
    found = launches.launches(plan(loaded(dtype=HALF).config, 2, 3, 16, chip="910B3"))
    assert found.eager == counted("A2", 3, None, "", size=2) + found.sums + 1 and found.sums == 2


def test_gpt_neox_20b_launches_as_many_as_its_layers_say():
    """44 layers of 10 operators and 6 beside them; over ranks a sum a layer and the embedding's."""
    assert launches.launches(plan(TWENTY_B, 1, chip="910B3")).eager == 44 * 10 + 6
    eight = launches.launches(plan(TWENTY_B, 8, chip="910B3"))
    assert eight.sums == 44 and eight.eager == 44 * 10 + 6 + 45 + launches.OF_RANKS


def test_eager_and_graph_are_told_apart_and_both_are_called_predicted():
    table = plan(TWENTY_B, 8, chip="910B3").launches
    assert table.columns[0] == "predicted" and table["predicted"].tolist() == [
        "one by one",
        "as a graph",
    ]
    assert table["operators launched"].tolist() == ["495", str(launches.REPLAYED)]
    text = repr(plan(TWENTY_B, 8, chip="910B3"))
    assert "assumed and was measured on no NPU" in text and "as a graph" in text
    older = plan(TWENTY_B, 4, chip="310P3").launches
    assert older["operators launched"].tolist()[1] == "not on this chip"


def test_where_the_operators_are_pytorchs_own_nothing_is_predicted():
    for chip, quant in (("910A", None), ("310P3", "int4"), (None, None)):
        found = plan(replace(TWENTY_B, num_hidden_layers=2), 1, chip=chip, quant=quant)
        assert launches.launches(found) is None and found.launches.empty
