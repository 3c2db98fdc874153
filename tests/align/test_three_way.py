"""What the dtype explains is excused, and nothing else: reference, the same dtype, target."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.align import limits, references, study, three_way
from neoxlib.align.distances import OwnError
from neoxlib.align.localize import Finding, localize
from neoxlib.align.study import Study, take
from neoxlib.kernels import plain
from neoxlib.kernels.cpu import build
from tests.support.align_runs import run, save_model
from tests.support.faults import FAULTS
from tests.support.planted import Spot


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


def studied(model: Path, folder: Path, form: str, kind: str = "", compiled: bool = False) -> Study:
    """Two ranks, with a fault of layer 1 on the last."""
    fault = next((fault for fault in FAULTS if fault.kind == kind), None)
    run(model, folder / "capture", form, 2, fault, Spot(1, 1), compiled)
    found = study.open_capture(folder / "capture")
    return study.compared(found, references.parse(""), folder, None)


def finding(greatest: float, same: float, rms: float = 0.1, same_rms: float = 0.1, lost: int = 0):
    mine, theirs = OwnError(greatest, rms, lost, ()), OwnError(same, same_rms, lost, ())
    return Finding(0, "gpt_neox.layers.0", 0, 0, mine, theirs)


@pytest.mark.parametrize(
    ("found", "guilty", "excused"),
    [
        (finding(5, 1), False, False),
        (finding(9, 4), True, False),  # the same dtype is within the limit
        (finding(20, 9), False, True),
        (finding(31, 9), False, True),
        (finding(33, 30), True, False),  # more than four times the limit: the plain layers' own
        (finding(20, 9, 2.0, 0.5), True, False),  # the root mean square has no excuse
        (finding(20, 9, 2.0, 1.6), False, True),
        (finding(20, 9, 5.0, 1.6), True, False),  # 3.1 times as large
        (finding(torch.inf, torch.inf), True, False),
        (finding(1, 1, lost=3), True, False),
        (replace(finding(9, 9), same=None), True, False),
        (replace(finding(9, 9), error=None), True, False),
    ],
)
def test_only_what_the_same_dtype_does_as_well_is_excused(
    found: Finding, guilty: bool, excused: bool
):
    assert (found.guilty, found.excused) == (guilty, excused)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("form", ["float32", "float16", "bfloat16"])
def test_a_healthy_run_is_as_near_as_its_dtype_explains(
    form: str, compiled: bool, model: Path, tmp_path: Path
):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    found = studied(model, tmp_path, form, compiled=compiled)
    assert {line.word for line in found.lines} == {three_way.RIGHT}
    assert all(line.times <= limits.TIMES_L2.value for line in found.lines)
    assert len(found.lines) > 80 and all(passed for _, passed, _ in found.checks)
    assert found.sentence.endswith("Held against " + found.reference.words(form))


def test_after_a_guilty_step_errors_are_carried_and_before_it_nothing_is_far(
    model: Path, tmp_path: Path
):
    found = studied(model, tmp_path, "float32", "rows of the neighbour, h_to_4h")
    words = [line.word for line in found.lines]
    first = words.index(three_way.GUILTY)
    assert found.lines[first].name == "gpt_neox.layers.1.mlp.dense_h_to_4h"
    assert set(words[:first]) == {three_way.RIGHT} and found.lines[first].times > 1000
    assert {three_way.CARRIED} <= set(words[first:])
    assert three_way.FARTHER not in words
    assert "; the same dtype in plain layers on one CPU by " in found.sentence


def test_one_rank_in_plain_layers_is_the_same_dtype_to_the_bit(model: Path, tmp_path: Path):
    engine = neoxlib.load(model, "bfloat16", compile=False)
    found = take(engine, tmp_path / "capture", [[60, 61, 62], [70]])
    result = study.compared(found, references.parse(""), tmp_path, None)
    assert all(drift.distance.same_bits for drift in result.witness.beside)
    assert all(line.same == line.target and line.own == line.own_same for line in result.lines)


def test_a_dtype_that_overflows_is_named_with_its_place(tmp_path: Path):
    """It is no excuse that the same dtype overflows on the CPU as well, but it is told."""
    model = save_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["gpt_neox.layers.2.mlp.dense_h_to_4h.weight"] *= 1e5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = studied(model, tmp_path, "float16")
    assert found.sentence.startswith("layer 2, every rank, prefill: mlp.dense_h_to_4h has ")
    assert "; the same dtype in plain layers on one CPU has " in found.sentence


def test_a_fault_of_the_plain_layers_themselves_is_no_excuse(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Target and witness are both wrong, and the checkpoint is not."""
    monkeypatch.setattr(plain, "activate", lambda x, form: torch.relu(x))
    found = take(neoxlib.load(model, compile=False), tmp_path / "capture", [[60, 61, 62]])
    result = study.compared(found, references.parse(""), tmp_path, None)
    assert result.sentence.startswith("layer 0, prefill: mlp.activation is off by up to ")
    assert "past the limit, too: so it is not the target alone" in result.sentence
    assert not result.checks[0][1] and localize(found).first
