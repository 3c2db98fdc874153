"""Cuts in blocks of any size, resumed after kills and full disks. Oracle: an uninterrupted cut."""

import errno
import fcntl
import gc
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from neoxlib.checkpoint import cut as checkpoint_cut
from neoxlib.checkpoint import tensor_writer
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import JOURNAL
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.tensor_file import read_header
from neoxlib.checkpoint.tensor_writer import TensorFile
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import ShardError, WeightsError
from tests.support.checkpoint_files import (
    SMALL,
    assert_same_bits,
    contents,
    kill_in_the_middle,
    read_folder,
)
from tests.support.oracle_models import make_oracle
from tests.support.shard_calls import refused


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "asked", [{}, {"dtype": "float32"}, {"quant": "int8"}], ids=["as stored", "cast", "packed"]
)
def test_a_cut_is_the_same_however_few_rows_are_read_at_a_time(tmp_path, monkeypatch, size, asked):
    make_oracle(hidden_size=128, intermediate_size=256, vocab_size=301).half().save_pretrained(
        tmp_path / "source"
    )
    at_once = shard(tmp_path / "source", tmp_path / "at once", size, **asked)
    # Several rows of a narrow matrix, less than one row of a wide one.
    monkeypatch.setattr(checkpoint_cut, "BLOCK", 1000)
    monkeypatch.setattr(tensor_writer, "SLOT", 4096)
    assert shard(tmp_path / "source", tmp_path / "in runs", size, **asked) == at_once
    verify(tmp_path / "in runs")


@pytest.mark.parametrize("wanted", [True, False])
def test_garbage_is_collected_after_a_cut_as_it_was_before(source, tmp_path, monkeypatch, wanted):
    monkeypatch.setattr(TensorFile, "finish", lambda file: 1 / gc.isenabled())
    (gc.enable if wanted else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            shard(source, tmp_path / "cut", 1)
        assert gc.isenabled() == wanted
    finally:
        gc.enable()


def test_every_tensor_begins_at_a_multiple_of_its_width(tmp_path):
    """After three float16 a float32 would be misaligned: mapping readers refuse or copy it."""
    state = make_oracle(intermediate_size=24).state_dict()
    state = {
        name: tensor.half() if ".layers.0." in name else tensor for name, tensor in state.items()
    }
    (tmp_path / "source").mkdir()
    make_oracle(intermediate_size=24).config.save_pretrained(tmp_path / "source")
    torch.save(state, tmp_path / "source" / "pytorch_model.bin")  # in the order of the layers
    shard(tmp_path / "source", tmp_path / "cut", 8)
    pieces, _ = read_header(tmp_path / "cut" / "part_model" / "7" / "model.safetensors")
    assert pieces["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"].shape == (3,)
    assert all(piece.offset % piece.dtype.itemsize == 0 for piece in pieces.values())


ONE_RANK = {"max_file_bytes": 60_000, "progress": False}


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "cut"
    shard(source, folder, 1, **ONE_RANK)
    return folder


def assert_resumes(source: Path, cut: Path, whole: Path) -> None:
    """The cut has no unfinished file, does not look finished, and resumes to the whole one."""
    assert not list(cut.rglob("*.tmp"))
    assert (cut / JOURNAL).is_file() and not (cut / "manifest.json").exists()
    with pytest.raises(WeightsError, match="not finished: run shard again to resume"):
        verify(cut)
    shard(source, cut, 1, **ONE_RANK)
    assert contents(cut) == contents(whole)


def test_a_cut_whose_file_may_not_grow_resumes(source, whole, tmp_path):
    cut = tmp_path / "cut"
    biggest = max(path.stat().st_size for path in whole.rglob("*.safetensors"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest - 5000, hard))
    words = f"{os.strerror(errno.EFBIG)}.*give the same command again"
    try:
        refused(ShardError, words, source, cut, 1, **ONE_RANK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_resumes(source, cut, whole)


def test_a_cut_whose_disk_is_full_resumes(source, whole, tmp_path):
    """A link makes the last file's temporary one a device that is always full."""
    cut = tmp_path / "cut"
    last = max(path.name for path in (whole / "part_model" / "0").glob("*.safetensors"))
    (cut / "part_model" / "0").mkdir(parents=True)
    (cut / JOURNAL).touch()
    (cut / "part_model" / "0" / f"{last}.tmp").symlink_to("/dev/full")
    words = f"{os.strerror(errno.ENOSPC)}.*give the same command again"
    refused(ShardError, words, source, cut, 1, **ONE_RANK)
    assert_resumes(source, cut, whole)


@pytest.fixture(scope="module")
def unbroken(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "cut"
    shard(source, folder, 2, **SMALL)
    return folder


@pytest.fixture(scope="module")
def killed(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "cut"
    kill_in_the_middle(f"shard({str(source)!r}, {str(folder)!r}, 2, **{SMALL})", blocks=60)
    return folder


def test_a_killed_cut_looks_unfinished_and_is_no_other_cut(source, killed):
    assert list(killed.rglob("*.tmp")) and not (killed / "manifest.json").exists()
    with pytest.raises(WeightsError, match="is not finished"):
        open_checkpoint(killed)
    with pytest.raises(WeightsError, match="is not finished"):
        verify(killed)
    before = contents(killed)
    refused(
        ShardError,
        "another cut, unfinished: world_size is 2, asked for 4",
        source,
        killed,
        4,
        **SMALL,
    )
    refused(
        ShardError,
        "cast_to is None, asked for 'float16'",
        source,
        killed,
        2,
        dtype="float16",
        **SMALL,
    )
    refused(ShardError, "max_file_bytes is 40000, asked for", source, killed, 2)
    assert {name: data for name, data in contents(killed).items() if name in before} == before


def test_a_killed_cut_goes_on_where_it_was_and_ends_the_same(source, killed, unbroken, tmp_path):
    cut = shutil.copytree(killed, tmp_path / "cut")
    done = [cut / json.loads(line)["file"] for line in (cut / JOURNAL).read_text().splitlines()[1:]]
    assert 0 < len(done) < len(list(unbroken.rglob("*.safetensors")))
    before = {path: path.stat().st_mtime_ns for path in done}
    shard(source, cut, 2, **SMALL)
    assert contents(cut) == contents(unbroken)
    assert before == {path: path.stat().st_mtime_ns for path in done}


def test_a_finished_file_that_was_lost_or_cut_short_is_written_again(
    source, killed, unbroken, tmp_path
):
    cut = shutil.copytree(killed, tmp_path / "cut")
    first, second = sorted((cut / "part_model" / "1").glob("*-of-*.safetensors"))[:2]
    os.truncate(first, 100)
    second.unlink()
    shard(source, cut, 2, **SMALL)
    assert contents(cut) == contents(unbroken)


def test_two_writers_never_meet_in_one_folder(source, killed, tmp_path):
    cut = shutil.copytree(killed, tmp_path / "cut")
    with (cut / JOURNAL).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(ShardError, "another process is writing", source, cut, 2, **SMALL)
    shard(source, cut, 2, **SMALL)


def test_a_killed_merge_does_not_look_done_and_goes_on(source, unbroken, tmp_path):
    out = tmp_path / "out"
    kill_in_the_middle(f"merge({str(unbroken)!r}, {str(out)!r}, **{SMALL})", blocks=30)
    with pytest.raises(WeightsError, match="is not finished"):
        open_checkpoint(out)
    merge(unbroken, out, **SMALL)
    assert_same_bits(read_folder(out), read_folder(source))
    with pytest.raises(ShardError, match="nothing is touched"):
        merge(unbroken, out, **SMALL)
