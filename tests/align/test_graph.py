"""The reference's memory: one part of the model at a time, and no copies of its large weights."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from neoxlib.align import estimates
from neoxlib.align.estimates import Estimate
from neoxlib.align.localize import part_graph
from neoxlib.align.reader import read_capture
from neoxlib.align.weights import ReferenceWeights
from tests.support.align_runs import run, save_model


@pytest.mark.parametrize("part", [-1, 0, 2], ids=["embedding", "layer", "head"])
def test_a_part_of_the_reference_is_freed_as_soon_as_it_is_done(part, tmp_path):
    run(save_model(tmp_path / "model"), tmp_path / "capture", "float32", 1)
    capture = read_capture(tmp_path / "capture")
    source = ReferenceWeights(tmp_path / "model")
    graph = part_graph(capture, source, part)
    for name in graph.formulas:
        graph.expected(name, 0, 0)
    weight = weakref.ref(next(iter(graph.weights.values())))
    gc.disable()  # 20B's layers are 3.6 GB each: the collector comes too late
    try:
        del graph
        assert weight() is None
    finally:
        gc.enable()


def test_a_product_is_the_same_by_rows_of_the_weight_as_whole(monkeypatch):
    torch.manual_seed(0)
    x = Estimate(*(torch.rand(2, 3, 5, dtype=torch.float64) for _ in range(2)))
    weight = torch.randn(7, 5, dtype=torch.float64)
    how = estimates.numerics("bfloat16", "int8", compiled=True)

    def both(bias: Tensor | None) -> list[Estimate]:
        found = []
        for rows in (3, 7):
            monkeypatch.setattr(estimates, "ROWS", rows)
            found.append(estimates.linear(x, weight, bias, how))
        return found

    for bias in (None, torch.randn(7, dtype=torch.float64)):
        torch.testing.assert_close(*both(bias))
