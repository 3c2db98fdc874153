"""This machine as a target: its free memory, its measured figures, their sources."""

from pathlib import Path

import pytest
import torch

from neoxlib.machine import npu_smi
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.limits import Memory
from neoxlib.speed import peaks, target
from neoxlib.speed.plan import plan
from tests.support.planned import SMALL


def test_this_machine_can_be_measured(monkeypatch):
    monkeypatch.setattr(peaks, "SIDE", {"cpu": 64})
    before = torch.get_num_threads()
    found = target.of_machine.__wrapped__(2**20, 2, 1, ("float32", "bfloat16"))
    assert found.gb_s > 0 and found.product.startswith("a product of ") and found.size == 2**20
    assert torch.get_num_threads() == before


def test_what_a_plan_measures_is_measured_once_and_given_figures_are_not(monkeypatch):
    asked = []

    def measure(size: int, threads: int) -> float:
        asked.append((size, threads))
        return 20.0

    monkeypatch.setattr(target, "reading", measure)
    monkeypatch.setattr(target, "product", lambda dtype, device: 0.1)
    monkeypatch.setattr(target.devices, "pick_device", lambda device: "cpu")
    target.of_machine.cache_clear()
    ranks = 2
    found = [plan(SMALL, ranks, dtype="float32") for _ in range(2)]
    weights = sum(found[0].budget.weights.values())
    assert [size for size, _ in asked] == [ranks * max(weights, 2**20)]
    assert found[0].bandwidth_gb_s == 10.0 and found[0].target.measured is found[1].target.measured
    plan(SMALL, ranks, dtype="float32", bandwidth_gb_s=5.0, tflops=1.0)
    assert len(asked) == 1
    target.of_machine.cache_clear()


def test_a_groups_limit_is_what_fits_and_is_named_as_the_source(cpu_host, monkeypatch):
    assert plan(SMALL, 1, dtype="float32").fits
    limited = Memory(2**20, 2**19, "cgroup memory.max: 0.0 GiB; the host has 23.0")
    monkeypatch.setattr(target.limits, "memory", lambda: limited)
    small = plan(SMALL, 1, dtype="float32")
    assert small.free == 2**19 and not small.fits and small.largest_batch == 0
    assert "cgroup memory.max" in repr(small) and "the host has 23.0" in small._repr_html_()


def test_on_an_npu_host_the_fullest_card_decides(monkeypatch):
    answer = npu_smi.parse(
        (Path(__file__).parents[1] / "fixtures" / "npu_smi" / "910b4_busy.txt").read_text()
    )
    monkeypatch.setattr(target.devices, "pick_device", lambda device: "npu")
    monkeypatch.setattr(target.devices, "chip_here", lambda: CHIPS["910B4"])
    monkeypatch.setattr(target.npu_smi, "query", lambda: answer)
    here = plan(SMALL, 2)
    assert here.target.chip.name == "910B4" and here.free == (32768 - 28911) * 2**20


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            npu_smi.Smi(failure="npu-smi printed a card that cannot be read: | 0 |"),
            "cannot be read: | 0 |",
        ),
        (
            npu_smi.Smi(cards=(npu_smi.Card(0, 0, "310B4", "OK", None, None, 7545),)),
            "npu-smi does not show it",
        ),
    ],
)
def test_memory_that_is_not_known_says_why(answer, said, monkeypatch):
    monkeypatch.setattr(target.devices, "pick_device", lambda device: "npu")
    monkeypatch.setattr(target.devices, "chip_here", lambda: CHIPS["310B4"])
    monkeypatch.setattr(target.npu_smi, "query", lambda: answer)
    here = plan(SMALL, 1)
    assert here.fits is None and said in repr(here)
