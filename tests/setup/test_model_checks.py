"""The checks of a model folder, whole and damaged."""

import json
import shutil
import sys

import pytest

from neoxlib.checkpoint import shard
from neoxlib.setup.model_checks import model_rows


def test_a_whole_model_folder_passes(checkpoint):
    found = {row.name: row for row in model_rows(checkpoint)}
    assert {row.status for row in found.values()} == {"OK"}
    assert "3 layers, hidden 64, 8 heads" in found["model config"].found
    assert "float32 in 1 file" in found["model weights"].found
    assert found["model tokenizer"].found == "257 ids for 300 rows"


def test_every_fault_of_a_model_folder_is_told_in_one_go(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    found = {row.name: row for row in model_rows(folder)}
    assert found["model config"].status == "OK"
    assert found["model weights"].status == found["model tokenizer"].status == "FAIL"
    assert all(row.repair for row in found.values() if row.status == "FAIL")


def test_a_tokenizer_of_another_model_is_told(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 200}
    (folder / "config.json").write_text(json.dumps(config))
    found = {row.name: row for row in model_rows(folder)}
    assert "257 ids, the model 200 rows" in found["model tokenizer"].found
    assert found["model weights"].status == "FAIL"


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_damaged_tokenizer_is_a_row_and_not_a_crash(checkpoint, tmp_path, content):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "tokenizer.json").write_text(content)
    assert model_rows(folder)[2].status == "FAIL"


def test_a_cut_is_checked_like_a_checkpoint(checkpoint, tmp_path):
    shard.shard(checkpoint, tmp_path / "cut", 2)
    assert [row.status for row in model_rows(tmp_path / "cut")] == ["OK"] * 3


def test_a_folder_that_is_not_there_fails_in_every_row(tmp_path):
    assert {row.status for row in model_rows(tmp_path / "none")} == {"FAIL"}


def test_a_torch_that_cannot_be_imported_is_a_row_and_not_a_crash(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "neoxlib.checkpoint.folder", None)
    assert "torch cannot be used" in model_rows(tmp_path)[1].found
