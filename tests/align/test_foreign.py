"""Captures of transformers' model and of ours are of the same numbers, step for step."""

from pathlib import Path

import pytest

import neoxlib
from neoxlib.align import capture as module
from neoxlib.align.capture import capture
from neoxlib.align.foreign import capture_transformers
from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.reader import read_capture
from neoxlib.errors import SettingsError
from tests.support.align_runs import ROWS, THEN, save_model


@pytest.mark.parametrize(
    "changes", [{}, {"use_parallel_residual": False}, {"tie_word_embeddings": True}], ids=str
)
def test_every_module_of_transformers_is_a_step_of_ours(changes: dict, tmp_path: Path):
    model = save_model(tmp_path / "model", **changes)
    engine = neoxlib.load(model, compile=False)
    ours = read_capture(capture(engine, tmp_path / "ours", ROWS, THEN))
    theirs = capture_transformers(model, tmp_path / "theirs", ours)
    drifts = against(ours, theirs)
    assert len(drifts) == (3 + 9 * 3) * 3  # ends, nine steps of each layer, each in three passes
    assert max(drift.distance.relative_l2 for drift in drifts) < 1e-5


def test_transformers_is_not_accused_and_a_fault_in_it_is_found(tmp_path: Path):
    model = save_model(tmp_path / "model")
    engine = neoxlib.load(model, compile=False)
    ours = read_capture(capture(engine, tmp_path / "ours", ROWS, THEN))
    theirs = capture_transformers(model, tmp_path / "theirs", ours)
    assert localize(theirs).first == []
    other = save_model(tmp_path / "other", hidden_act="relu")
    broken = capture_transformers(other, tmp_path / "broken", ours)
    assert localize(broken, model).first[0].name == "gpt_neox.layers.0.mlp.activation"
    with pytest.raises(SettingsError, match="there already"):
        capture_transformers(model, tmp_path / "theirs", ours)


def test_a_disk_that_fills_leaves_nothing_of_transformers_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = save_model(tmp_path / "model")
    engine = neoxlib.load(model, compile=False)
    ours = read_capture(module.capture(engine, tmp_path / "ours", ROWS, THEN))
    real = module.save_file

    def full(tensors: dict, path: Path) -> None:
        if "layer001" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(SettingsError, match=r"could not be written: .*No space left on device"):
        capture_transformers(model, tmp_path / "theirs", ours)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "ours"}
