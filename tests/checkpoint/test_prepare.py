"""A folder of links and copies loads; no file of the checkpoint or of the user is changed."""

import hashlib
import shutil

import pytest
import torch

import neoxlib
from neoxlib.checkpoint import shard
from neoxlib.checkpoint.prepare import prepare_model
from neoxlib.errors import WeightsError
from tests.support.checkpoint_files import unreadable


def hashes(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_the_folder_loads_and_the_checkpoint_is_as_it_was(checkpoint, tmp_path):
    before = hashes(checkpoint)
    table = prepare_model(checkpoint, tmp_path / "model").set_index("file")["how"]
    assert (
        table["model.safetensors"] == "link"
        and table["config.json"] == table["tokenizer.json"] == "copy"
    )
    assert hashes(checkpoint) == before and hashes(tmp_path / "model").items() <= before.items()
    assert (tmp_path / "model" / "model.safetensors").is_symlink()
    assert not (tmp_path / "model" / "config.json").is_symlink()
    ids = torch.tensor([[1, 2, 3]])
    logits = [
        neoxlib.load(folder, compile=False).logits(ids)
        for folder in (checkpoint, tmp_path / "model")
    ]
    assert torch.equal(*logits)


def test_it_may_be_repeated(checkpoint, tmp_path):
    first = prepare_model(checkpoint, tmp_path / "model")
    assert prepare_model(checkpoint, tmp_path / "model").equals(first)


def test_other_files_are_named_and_left_alone(checkpoint, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("mine")
    (target / "model.safetensors").write_bytes(b"mine, too")
    with pytest.raises(WeightsError, match=r"model\.safetensors, config\.json"):
        prepare_model(checkpoint, target)
    assert (target / "config.json").read_text() == "mine" and len(list(target.iterdir())) == 2


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_file_that_this_user_may_not_read_is_named_before_one_is_written(
    checkpoint, tmp_path, name
):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    with unreadable(source / name), pytest.raises(WeightsError, match=f"/{name} cannot be read"):
        prepare_model(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_code_and_large_strangers_are_not_taken_along(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    (source / "modeling.py").write_text("import os")
    (source / "notes.bin").write_bytes(b"0" * 10)
    kept = {"spiece.model", "chat.tiktoken", "additional_chat_templates/tools.jinja"}
    (source / "additional_chat_templates").mkdir()
    for name in kept:
        (source / name).write_text(name)
    prepare_model(source, tmp_path / "model")
    assert all((tmp_path / "model" / name).read_text() == name for name in kept)
    assert not {"modeling.py", "notes.bin"} & {path.name for path in (tmp_path / "model").iterdir()}


def test_what_needs_no_preparation_or_has_no_weights_is_refused(checkpoint, tmp_path):
    shard.shard(checkpoint, tmp_path / "cut", 2)
    (tmp_path / "empty").mkdir()
    for source, word in (
        (checkpoint, "itself"),
        (tmp_path / "cut", "shard"),
        (tmp_path / "empty", "no weights"),
    ):
        with pytest.raises(WeightsError, match=word):
            prepare_model(source, checkpoint if word == "itself" else tmp_path / "model")
    with pytest.raises(WeightsError, match="does not exist"):
        prepare_model(tmp_path / "none", tmp_path / "model")
