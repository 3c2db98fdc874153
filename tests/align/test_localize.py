"""A fault planted in a running model is found in its layer, step, pass and rank; no healthy run
is accused.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.align.capture import capture
from neoxlib.align.localize import localize
from neoxlib.align.reader import read_capture
from neoxlib.errors import SettingsError
from neoxlib.kernels.cpu import build
from tests.support.align_runs import THEN, expected_place, found_place, run, save_model
from tests.support.compiled_faults import COMPILED
from tests.support.faults import ALL, FAULTS, Fault
from tests.support.planted import Spot


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("aligned"))


def turn(number: int, choices: tuple) -> object:
    """Each fault is planted once here, in dtypes and sizes by turns; all in `make test-align`."""
    return choices[number % len(choices)]


@pytest.mark.parametrize(("number", "fault"), list(enumerate(FAULTS)), ids=[f.kind for f in FAULTS])
def test_a_planted_fault_is_found_where_it_is(
    number: int, fault: Fault, model: Path, tmp_path: Path
):
    form = turn(number, fault.dtypes)
    size = turn(number, tuple(size for size in fault.sizes if size < 4))
    spot = Spot(1, size - 1)
    found = run(model, tmp_path / "capture", form, size, fault, spot)
    assert found_place(found) == expected_place(fault, spot, size)
    assert fault.said.format(rank=spot.rank) in "; ".join(found.said.values())


def test_there_are_forty_kinds_of_faults_at_least():
    assert len({fault.kind for fault in FAULTS}) == len(FAULTS) >= 40


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("form", ALL)
def test_a_healthy_run_is_not_accused(form: str, compiled: bool, model: Path, tmp_path: Path):
    if compiled and build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    found = run(model, tmp_path / "capture", form, 2, compiled=compiled)
    assert found.first == [] and len(found.findings) > 100
    assert max(each.error.greatest for each in found.findings) > 0.3  # it does measure


@pytest.mark.parametrize(
    "changes",
    [
        {"use_parallel_residual": False},
        {"attention_bias": False},
        {"tie_word_embeddings": True},
        {"hidden_act": "relu"},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_no_architecture_is_accused(changes: dict, tmp_path: Path):
    model = save_model(tmp_path / "model", **changes)
    for compiled in (False, build.compiled("forward") is not None):
        found = run(model, tmp_path / "capture", "bfloat16", 2, compiled=compiled)
        assert found.first == [] and len(found.findings) > 100


@pytest.mark.parametrize(
    ("number", "fault"), list(enumerate(COMPILED)), ids=[f.kind for f in COMPILED]
)
def test_in_compiled_kernels_a_fault_is_found_in_the_first_step_that_shows_it(
    number: int, fault: Fault, model: Path, tmp_path: Path
):
    """On two ranks: weights are patched in place, where the kernels read them."""
    if build.compiled("forward") is None:
        pytest.skip(build.compile_error("forward"))
    spot = Spot(1, 1)
    form = turn(number, fault.dtypes)
    found = run(model, tmp_path / "capture", form, 2, fault, spot, compiled=True)
    assert found_place(found) == expected_place(fault, spot, 2)
    assert fault.said.format(rank=1) in "; ".join(found.said.values())


def test_float16_that_overflows_is_found_where_it_does(tmp_path: Path):
    model = save_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    name = "gpt_neox.layers.2.mlp.dense_h_to_4h"
    weights[f"{name}.weight"] *= 3e4
    weights[f"{name}.bias"] *= 3e4
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = run(model, tmp_path / "capture", "float16", 1)
    assert found.first[0].name == name
    assert found.first[0].error.not_finite
    assert run(model, tmp_path / "capture", "float32", 1).first == []


def test_another_checkpoint_as_reference_shows_what_was_changed_in_the_files(
    model: Path, tmp_path: Path
):
    other = save_model(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["gpt_neox.layers.2.attention.dense.weight"][5] += 0.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    engine = neoxlib.load(other, compile=False)
    folder = capture(engine, tmp_path / "capture", [[60, 61, 62]] * 2, THEN)
    assert localize(read_capture(folder)).first == []
    found = localize(read_capture(folder), model)
    assert found.first[0].name == "gpt_neox.layers.2.attention.dense"


def test_references_and_layers_that_do_not_fit_are_refused(
    model: Path, checkpoint: Path, tmp_path: Path
):
    engine = neoxlib.load(model, compile=False)
    found = read_capture(capture(engine, tmp_path / "one", [[299, 61, 62]]))
    with pytest.raises(SettingsError, match=r"layers \[7\] are not among the model's 0..2"):
        localize(found, layers=[1, 7])
    short = save_model(tmp_path / "short", num_hidden_layers=2)
    with pytest.raises(SettingsError, match="of a model of 3 layers, the reference has 2"):
        localize(found, short)
    small = save_model(tmp_path / "small", vocab_size=257)
    with pytest.raises(SettingsError, match="has id 299; the reference's vocabulary has 257"):
        localize(found, small)
    few = read_capture(capture(engine, tmp_path / "few", [[1, 2]], kind="statistics"))
    with pytest.raises(SettingsError, match="holds statistics; a comparison needs tensors"):
        localize(few)
    assert torch.equal(found.mask, torch.ones(1, 3, dtype=torch.bool))
