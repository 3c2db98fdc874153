"""A cut has one unchanged source, and copies every file that belongs to the model."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neoxlib.checkpoint import plan
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.source import companions
from neoxlib.checkpoint.tensor_writer import TensorFile
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import ConfigError, ShardError, WeightsError
from tests.support.checkpoint_files import (
    SMALL,
    assert_same_bits,
    contents,
    kill_in_the_middle,
    read_folder,
    unreadable,
)
from tests.support.oracle_models import make_oracle, save_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_oracle().save_pretrained(folder, max_shard_size="60KB")
    save_tokenizer(folder)
    return folder


@pytest.fixture
def source(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "source")


def flip(path: Path, n: int = -1) -> None:
    with path.open("r+b") as file:
        file.seek(n, os.SEEK_END if n < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def in_secret(path: Path) -> None:
    """Restore the old mtime: only ctime shows the change."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))
    flip(path.with_suffix(".new"))
    os.utime(path.with_suffix(".new"), ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(path.with_suffix(".new"), path)


def there_and_back(path: Path) -> None:
    data = path.read_bytes()
    flip(path)
    path.write_bytes(data)


CHANGES = (flip, in_secret, replaced, there_and_back, Path.unlink, lambda path: flip(path, 9))
FILES = ("model-00001-of-*", "model-00003-of-*", "config.json", "tokenizer.json")


def change_after(monkeypatch, count: int, change: Callable[[], None]) -> None:
    """Call `change` after a number of blocks was written."""
    room = TensorFile.room
    calls = [0]

    def counted(file: TensorFile, *shape):
        calls[0] += 1
        if calls[0] == count:
            change()
        return room(file, *shape)

    monkeypatch.setattr(TensorFile, "room", counted)


@pytest.mark.parametrize(
    "change", CHANGES, ids=["flip", "in secret", "replaced", "there and back", "gone", "header"]
)
@pytest.mark.parametrize("name", FILES)
def test_a_source_that_changes_while_it_is_cut_ends_the_cut(
    source, tmp_path, monkeypatch, change, name
):
    path = next(source.glob(name))
    cut = tmp_path / "cut"
    change_after(monkeypatch, 60, lambda: change(path))
    with pytest.raises(
        WeightsError, match=f"changed while it was read: {path.name}.*the same command again"
    ):
        shard(source, cut, 2, **SMALL)
    assert not any(contents(cut).values())  # only an empty journal is left
    with pytest.raises(WeightsError, match="is not finished"):
        open_checkpoint(cut)


def test_once_nothing_writes_there_the_same_command_cuts_what_is_there_now(
    source, tmp_path, monkeypatch
):
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        change_after(patch, 60, lambda: flip(next(source.glob("model-00001-*"))))
        with pytest.raises(WeightsError, match="changed while"):
            shard(source, cut, 2, **SMALL)
    shard(source, cut, 2, **SMALL)
    merge(cut, tmp_path / "merged", progress=False)
    assert_same_bits(read_folder(tmp_path / "merged"), read_folder(source))


def test_a_source_that_changed_before_a_resume_is_refused_with_all_that_changed(source, tmp_path):
    cut = tmp_path / "cut"
    names = set()
    kill_in_the_middle(f"shard({str(source)!r}, {str(cut)!r}, 2, **{SMALL})", blocks=60)
    before = contents(cut)
    changes = (there_and_back, there_and_back, in_secret, replaced)
    for name, change in zip(
        ("tokenizer.json", "config.json", "model-00001-*", "model-00003-*"), changes, strict=True
    ):
        path = next(source.glob(name))
        change(path)
        names.add(path.name)
        with pytest.raises(
            ShardError, match="source_files have changed since, or are copies"
        ) as error:
            shard(source, cut, 2, **SMALL)
        assert all(name in str(error.value) for name in names)
    assert contents(cut) == before


def test_a_source_that_changed_after_a_cut_is_not_taken_for_the_one_that_was_cut(source, tmp_path):
    cut = tmp_path / "cut"
    shard(source, cut, 2, progress=False)
    shard(source, cut, 2, progress=False)
    in_secret(max(source.glob("*.safetensors"), key=lambda path: path.stat().st_size))
    with pytest.raises(
        ShardError, match=r"finished cut: .*source_files have changed since, or are copies: model-"
    ):
        shard(source, cut, 2, progress=False)


def test_a_cut_that_is_damaged_is_neither_merged_nor_cut_again(source, tmp_path):
    cut = tmp_path / "cut"
    shard(source, cut, 2, progress=False)
    flip(cut / "part_model" / "1" / "model.safetensors")
    for call in (lambda: merge(cut, tmp_path / "out"), lambda: shard(cut, tmp_path / "out", 4)):
        with pytest.raises(
            WeightsError, match=r"part_model/1/model\.safetensors has another sha256"
        ):
            call()
        assert not (tmp_path / "out").exists()


def test_a_cut_that_changes_while_it_is_merged_ends_the_merge(source, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    shard(source, cut, 2, progress=False)
    change_after(monkeypatch, 20, lambda: in_secret(cut / "part_model" / "1" / "model.safetensors"))
    with pytest.raises(WeightsError, match=r"changed while it was read: \.\./1/model\.safetensors"):
        merge(cut, tmp_path / "out", progress=False)
    with pytest.raises(WeightsError, match="is not finished"):
        open_checkpoint(tmp_path / "out")


COMPANIONS = (
    "spiece.model",
    "tokenizer.model",
    "qwen.tiktoken",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tools.jinja",
    "generation_config.json",
    "LICENSE",
    "README.md",
    "preprocessor_config.json",
    "modeling_neox.py",
    "special\udcff.txt",
)
WEIGHTS = ("optimizer.pt", "rng_state.pth", "flax_model.msgpack", "pytorch_model.bin", "model.gguf")


def test_what_belongs_to_a_checkpoint_comes_along_and_no_other_weights(source, tmp_path):
    for name in (*COMPANIONS, *WEIGHTS, ".gitattributes"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"the bytes of " + os.fsencode(name))
    shard(source, tmp_path / "cut", 2, progress=False)
    verify(tmp_path / "cut", progress=False)
    merge(tmp_path / "cut", tmp_path / "out", progress=False)
    expected = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    expected = {name for name in expected if "safetensors" not in name} - {
        *WEIGHTS,
        ".gitattributes",
    }
    assert expected >= {*COMPANIONS, "config.json", "tokenizer.json"}
    for folder in (tmp_path / "out", *(tmp_path / "cut" / "part_model").iterdir()):
        here = contents(folder)
        assert {name for name in here if "safetensors" not in name} == expected
        assert all(here[name] == (source / name).read_bytes() for name in expected)


@pytest.mark.parametrize(
    "name", ["added_tokens.json", "chat_template.jinja", "model.safetensors.index.json"]
)
def test_verify_names_a_file_that_a_loader_would_take_and_no_cut_wrote(source, tmp_path, name):
    shard(source, tmp_path / "cut", 2, progress=False)
    (tmp_path / "cut" / "part_model" / "0" / name).write_text("{}")
    with pytest.raises(WeightsError, match=f"part_model/0/{name} is not in the manifest"):
        verify(tmp_path / "cut", progress=False)


def test_a_companion_that_is_no_file_is_an_error_and_a_large_one_is_named(source, tmp_path, caplog):
    with (source / "notes.txt").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert "notes.txt" not in companions(source) and "notes.txt are not taken along" in caplog.text
    (source / "spiece.model").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(WeightsError, match=r"git-lfs pointers.*spiece\.model; run `git lfs pull`"):
        shard(source, tmp_path / "cut", 2)
    (source / "spiece.model").unlink()
    (source / "spiece.model").symlink_to("../../blobs/gone")
    with pytest.raises(
        WeightsError, match=r"spiece\.model is a link to \.\./\.\./blobs/gone, which is not there"
    ):
        shard(source, tmp_path / "cut", 2)
    assert not (tmp_path / "cut").exists()


def test_files_beside_the_weights_that_fill_the_memory_are_refused_before_one_is_read(
    source, tmp_path
):
    for n in range(4):
        with (source / f"notes{n}.txt").open("wb") as file:
            file.truncate(64 << 20)
    with pytest.raises(
        WeightsError, match=r"files beside the weights in .* 256 MiB together; move"
    ):
        shard(source, tmp_path / "cut", 2)
    assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "config.json"])
def test_a_file_that_this_user_may_not_read_is_named_before_a_cut_begins(source, tmp_path, name):
    (source / "special_tokens_map.json").write_text("{}")
    with (
        unreadable(source / name),
        pytest.raises((WeightsError, ConfigError), match=f"/{name} cannot be read: Permission"),
    ):
        shard(source, tmp_path / "cut", 2)
    assert not (tmp_path / "cut").exists()


def test_a_folder_whose_name_is_no_utf8_is_cut_verified_merged_and_loaded(source, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff"))
    source = source.rename(Path(f"{odd} source"))
    shard(source, f"{odd} cut", 2, **SMALL)
    verify(f"{odd} cut", progress=False)
    merge(f"{odd} cut", f"{odd} merged", progress=False)
    for folder in (source, Path(f"{odd} merged")):  # safetensors cannot read this path
        folder.rename(tmp_path / folder.name[2:])
    assert_same_bits(read_folder(tmp_path / "merged"), read_folder(tmp_path / "source"))
    assert plan.parameter_plan(f"{odd} cut", 2)
