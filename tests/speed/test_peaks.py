"""Peaks: measured on all ranks, or given; never a figure that cannot be."""

from ctypes import c_int64, c_void_p
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neoxlib.errors import SettingsError
from neoxlib.kernels.cpu import build
from neoxlib.machine.chips import CHIPS
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.speed import peaks
from neoxlib.workbook import parameter_table, parameters
from tests.support.thread_ranks import on_ranks
from tests.support.timed_cases import CONFIG

ABOUT = {"device": "cpu", "threads": 1, "dtype": "float32", "quant": None}


@pytest.fixture
def quick(monkeypatch):
    """Small products and short reads: what is tested is not how fast this machine is."""
    monkeypatch.setattr(peaks, "SIDE", {"cpu": 64})
    monkeypatch.setattr(peaks, "MOST_BYTES", 2**20)


def session(world_size: int = 1, device: str = "cpu") -> SimpleNamespace:
    about = {"world_size": world_size, "device": device, "quant": None}

    def engine(group: object) -> SimpleNamespace:
        model = GPTNeoX(CONFIG, group)
        weight = model.gpt_neox.final_layer_norm.weight
        about_itself = {"describe": lambda: about, "wait_until_resident": lambda: None}
        return SimpleNamespace(model=model, weight=weight, group=group, **about_itself)

    def apply(function: object) -> object:
        return on_ranks(world_size, lambda group: function(engine(group)))[0]

    return SimpleNamespace(apply=apply, describe=lambda: about)


def test_peaks_are_measured_and_say_so(quick):
    found = peaks.find_peaks(session())
    assert found.gb_s > 0 and found.tflops > 0 and found.shared and found.own is None
    assert found.table["source"].str.startswith("measured now, 1 rank at once").all()


@pytest.mark.parametrize("kilobytes", [1, 7, 64])
def test_reading_leaves_no_byte_out(kilobytes: int):
    library = build.compiled("bandwidth")
    if library is None:
        pytest.skip(build.compile_error("bandwidth"))
    for at in (0, 255, 256, 700, 1024 * kilobytes - 1):
        data = np.zeros(1024 * kilobytes, np.uint8)
        assert library.reading_through(data.ctypes.data_as(c_void_p), c_int64(data.nbytes)) == 0
        data[at] = 1
        assert library.reading_through(data.ctypes.data_as(c_void_p), c_int64(data.nbytes)) != 0


def test_what_ranks_reach_is_added_up(quick, monkeypatch):
    monkeypatch.setattr(peaks, "reading", lambda size, threads: 5.0)
    monkeypatch.setattr(peaks, "product", lambda dtype, device: 0.25)
    found = peaks.find_peaks(session(2))
    assert (found.gb_s, found.tflops) == (10.0, 0.5)


PLANNED = peaks.MachinePeaks(2**20, 2, 1, ("float32",), 8.0, 0.2, "a product of float32", "")


def test_the_peaks_of_a_run_are_those_of_its_plan(quick):
    planned = session(2)
    planned.describe = lambda: {**ABOUT, "world_size": 2}
    found = peaks.find_peaks(planned, machine=PLANNED)
    assert (found.gb_s, found.tflops, found.shared) == (8.0, 0.2, True)
    assert found.source_gb_s == (
        "measured before the ranks started, 2 × 1 threads, over 1.0 MiB each"
    )
    given = peaks.find_peaks(planned, 3.0, machine=PLANNED)
    assert (given.gb_s, given.source_gb_s, given.tflops) == (3.0, "as given", 0.2)


@pytest.mark.parametrize(
    "other", [{"world_size": 1}, {"threads": 2}, {"dtype": "bfloat16"}, {"quant": "int8"}]
)
def test_a_plan_for_other_ranks_threads_or_formats_is_measured_anew(other, monkeypatch):
    about = {**ABOUT, "world_size": 2} | other
    asked = SimpleNamespace(
        describe=lambda: about, apply=lambda work: peaks.RankPeaks(1, 5.0, 0.1, "a product", "")
    )
    assert peaks.find_peaks(asked, machine=PLANNED).gb_s == 5.0


def test_given_figures_take_the_place_of_measured_ones(quick):
    found = peaks.find_peaks(session(2), 30.0, 0.5)
    assert (found.gb_s, found.tflops) == (30.0, 0.5)  # one machine, whatever the ranks
    assert found.table["source"].tolist() == ["as given", "as given"]


def test_on_npus_a_given_figure_is_each_ones_and_the_chips_own_is_only_predicted(
    quick, monkeypatch
):
    monkeypatch.setattr(peaks, "chip_for", lambda device: CHIPS["910B3"])
    found = peaks.find_peaks(session(2, "npu:0"), 1000.0, 200.0)
    assert (found.gb_s, found.tflops, found.shared) == (2000.0, 400.0, False)
    own = found.table[found.table["source"].str.contains("910B3")]
    assert own["source"].str.startswith("predicted").all() and own["value"].tolist() == [
        3200.0,
        626.0,
    ]


def test_more_chips_are_more_bandwidth_and_more_ranks_on_one_cpu_are_not():
    apart, together = (peaks.Peaks(10, 1, "", "", shared) for shared in (False, True))
    assert apart.seconds(1e10, 1e12, 2) == (0.5, 0.5) and together.seconds(1e10, 1e12, 2) == (1, 1)


@pytest.fixture
def accelerator(monkeypatch):
    """A CPU that is asked as an accelerator; returns what it is said to have free."""
    free = {"bytes": 2**40}
    module = SimpleNamespace(
        synchronize=lambda: None, mem_get_info=lambda device: (free["bytes"], 2**40)
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    return free


def test_on_an_accelerator_the_models_own_matrices_fill_at_least_what_no_cache_holds(
    accelerator, monkeypatch
):
    monkeypatch.setattr(peaks, "ACCELERATOR_BYTES", 10**6)
    made = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda x, w: made.append((x, w)) or linear(x, w)
    )
    size, rates = peaks.reading_on_device((96, 40), torch.float16, torch.device("cpu"))
    one = 96 * 40 * 2
    assert 10**6 <= size < 10**6 + one and size % one == 0
    assert {w.shape for _, w in made} == {(96, 40)} and {x.shape for x, _ in made} == {(1, 40)}
    assert len({w.data_ptr() for _, w in made}) * one == size  # each byte once a pass
    assert set(rates) == {"a sum", "a product with [96, 40]"} and min(rates.values()) > 0


def test_an_accelerator_without_so_much_free_memory_is_measured_over_less(accelerator, monkeypatch):
    monkeypatch.setattr(peaks, "ACCELERATOR_BYTES", 10**6)
    accelerator["bytes"] = 10**5
    size, _ = peaks.reading_on_device((16, 40), torch.float16, torch.device("cpu"))
    assert size <= 10**5 * peaks.FREE_SHARE + 16 * 40 * 2


@pytest.mark.parametrize("size", [1, 2])
def test_the_matrix_is_the_largest_of_a_layer_on_this_rank(size: int):
    def on_rank(group: object) -> bool:
        model = GPTNeoX(CONFIG, group)
        weights = [w for w in model.gpt_neox.layers[0].parameters() if w.ndim == 2]
        largest = max(weights, key=torch.Tensor.numel)
        found = peaks.largest_matrix(SimpleNamespace(model=model, group=group))
        return found == tuple(largest.shape)

    assert all(on_ranks(size, on_rank))


@pytest.mark.parametrize("figures", [(0.0, -1.0), (float("nan"), 0.0)])
def test_peaks_that_cannot_be_are_refused_together(figures):
    with pytest.raises(SettingsError, match=r"peak_gb_s is .*; peak_tflops is"):
        peaks.find_peaks(session(), *figures)
    given = dict(zip(("peak_gb_s", "peak_tflops"), figures, strict=True))
    said = parameters.complaints(given, parameter_table.PARAMETERS)
    assert [line.split(":")[0] for line in said] == ["peak_gb_s", "peak_tflops"]
    assert not parameters.complaints(dict.fromkeys(given), parameter_table.PARAMETERS)


@pytest.mark.parametrize(
    ("dtype", "quant", "tried"),
    [
        (torch.float32, None, {"float32"}),
        (torch.bfloat16, None, {"float32", "bfloat16"}),
        (torch.float16, None, {"float32"}),
        (torch.float32, "int8", {"float32", "int8"}),
    ],
)
def test_the_numbers_tried_are_those_that_a_cpu_may_compute_in(dtype, quant, tried):
    engine = SimpleNamespace(weight=torch.zeros(1, dtype=dtype), describe=lambda: {"quant": quant})
    assert set(peaks._formats(engine)) == tried


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_every_kind_of_product_can_be_measured(quick, dtype):
    assert peaks.product(dtype, torch.device("cpu")) > 0
