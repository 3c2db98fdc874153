"""Cut, verify, merge: bit for bit, through kills and full disks, in little memory. Oracles: safetensors, torch."""

import errno
import fcntl
import gc
import hashlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, GPTNeoXForCausalLM

from neoxlib.checkpoint import cut as checkpoint_cut
from neoxlib.checkpoint import tensor_writer
from neoxlib.checkpoint.durable import Journal, header_of
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import JOURNAL, manifest_bytes, seal
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.tensor_file import read_header
from neoxlib.checkpoint.tensor_writer import TensorFile
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import ConfigError, SettingsError, ShardError, WeightsError
from tests.support.checkpoint_files import (
    ROOT,
    SMALL,
    assert_same_bits,
    contents,
    kill_in_the_middle,
    read_folder,
)
from tests.support.oracle_models import make_oracle, save_tokenizer
from tests.support.parts import expected_part

SAVED = "Tensor parallelism weights have been successfully saved.\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Several files, an uneven vocabulary, NaNs of many payloads, one layer in float16, and a tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    oracle = make_oracle()
    oracle.save_pretrained(folder, max_shard_size="60KB")
    save_tokenizer(folder)
    for file in folder.glob("*.safetensors"):
        state = load_file(file)
        for name in state:
            if ".layers.1." in name:
                state[name] = state[name].half()
        if "gpt_neox.layers.1.mlp.dense_4h_to_h.weight" in state:
            nans = torch.arange(0x7C01, 0x7C01 + 64, dtype=torch.int16).view(torch.float16)
            state["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, :64] = nans
        save_file(state, file, metadata={"format": "pt"})
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("max_file_bytes", [2 << 30, 50_000], ids=["one file", "many files"])
def test_a_cut_is_verified_and_merges_to_the_very_bits_it_came_from(
    source, tmp_path, capsys, size, max_file_bytes
):
    manifest = shard(source, tmp_path / "cut", size, max_file_bytes=max_file_bytes)
    assert capsys.readouterr().out == SAVED
    assert manifest == json.loads((tmp_path / "cut" / "manifest.json").read_text())
    assert (
        manifest["world_size"] == size
        and manifest["dtype"] == "mixed"
        and manifest["quant"] is None
    )
    state = read_folder(source)
    for rank in range(size):
        part = read_folder(tmp_path / "cut" / "part_model" / str(rank))
        assert_same_bits(
            part, {name: expected_part(name, full, rank, size) for name, full in state.items()}
        )
    rows = pd.DataFrame(verify(tmp_path / "cut"))
    assert set(rows.file) == contents(tmp_path / "cut").keys() - {"manifest.json"}
    for row in rows.itertuples():
        data = (tmp_path / "cut" / row.file).read_bytes()
        assert (row.bytes, row.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    merge(tmp_path / "cut", tmp_path / "merged", max_file_bytes=max_file_bytes)
    assert_same_bits(read_folder(tmp_path / "merged"), state)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob(JOURNAL))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "asked", [{}, {"dtype": "float32"}, {"quant": "int8"}], ids=["as stored", "cast", "packed"]
)
def test_a_cut_is_the_same_however_few_rows_are_read_at_a_time(tmp_path, monkeypatch, size, asked):
    make_oracle(hidden_size=128, intermediate_size=256, vocab_size=301).half().save_pretrained(
        tmp_path / "source"
    )
    at_once = shard(tmp_path / "source", tmp_path / "at once", size, **asked)
    monkeypatch.setattr(
        checkpoint_cut, "BLOCK", 1000
    )  # some rows of a narrow matrix, not one of a wide one
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


def test_a_merged_folder_is_a_checkpoint_of_transformers(tmp_path):
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path / "source", max_shard_size="60KB")
    shard(tmp_path / "source", tmp_path / "cut", 4)
    merge(tmp_path / "cut", tmp_path / "merged", max_file_bytes=60_000)
    merged, loading = GPTNeoXForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not any(loading.values())
    assert_same_bits(merged.state_dict(), oracle.state_dict())


def test_every_tensor_begins_at_a_multiple_of_its_width(tmp_path):
    """Of three float16 values the next float32 would be misaligned: readers that map the file refuse or copy it."""
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


class Trickle:
    """A file that takes seven bytes at a time, as a nearly full disk or a network may."""

    def __init__(self, raw):
        self.raw = raw
        self.fileno = raw.fileno
        self.tell = raw.tell
        self.close = raw.close

    def write(self, view):
        return self.raw.write(view[:7])


def test_a_file_is_whole_however_few_bytes_a_write_takes(tmp_path):
    tensor = torch.randn(9, 5)
    header = header_of({"w": (tensor.dtype, (9, 5))}, {})
    file = TensorFile(tmp_path / "w.safetensors", header, ThreadPoolExecutor(1))
    file.file = Trickle(file.file)
    file.room(9, 5, tensor.dtype).copy_(tensor)
    entry = file.finish()
    data = (tmp_path / "w.safetensors").read_bytes()
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert_same_bits(load_file(tmp_path / "w.safetensors"), {"w": tensor})


@pytest.mark.parametrize("slot", [1, 999, 1 << 20])
def test_a_file_is_the_same_wherever_its_slots_begin(tmp_path, monkeypatch, slot):
    """Of widths 4, 2 and 1, in rows fewer and more than fill a slot, and longer than one."""
    state = {
        "a": torch.randn(100, 31),
        "b": torch.randn(7, 3).half(),
        "c": torch.arange(77, dtype=torch.int8)[:, None],
    }
    monkeypatch.setattr(tensor_writer, "SLOT", slot)
    path = tmp_path / "w.safetensors"
    header = header_of({name: (tensor.dtype, tensor.shape) for name, tensor in state.items()}, {})
    file = TensorFile(path, header, ThreadPoolExecutor(1))
    for tensor in state.values():
        for rows in tensor.split([1, 0, 4, len(tensor) - 5]):
            file.room(*rows.shape, rows.dtype).copy_(rows)
    entry = file.finish()
    assert entry == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert_same_bits(load_file(path), state)


def test_a_failure_that_the_disk_tells_of_once_in_mid_file_is_not_lost(tmp_path, monkeypatch):
    make_oracle(hidden_size=128, intermediate_size=256).save_pretrained(tmp_path / "source")
    told = []
    fsync = os.fsync

    def fail_once(number: int) -> None:
        if os.readlink(f"/proc/self/fd/{number}").endswith(".safetensors.tmp"):
            told.append(threading.current_thread())
            if len(told) == 1:
                raise OSError(errno.EIO, "a worn disk")
        fsync(number)

    monkeypatch.setattr(os, "fsync", fail_once)
    monkeypatch.setattr(tensor_writer, "SYNC", 1)
    with pytest.raises(ShardError, match=r"a worn disk.*the same command again to resume"):
        shard(tmp_path / "source", tmp_path / "cut", 1)
    assert told[0] is not threading.main_thread()
    assert not list((tmp_path / "cut").rglob("*.safetensors*"))
    shard(tmp_path / "source", tmp_path / "cut", 1)
    verify(tmp_path / "cut")


def test_every_part_is_a_folder_with_the_same_config_and_tokenizer(source, tmp_path):
    shard(source, tmp_path / "cut", 2)
    text = "名 and name"
    for rank in "01":
        part = tmp_path / "cut" / "part_model" / rank
        for name in (
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ):
            assert (part / name).read_bytes() == (source / name).read_bytes()
        assert AutoConfig.from_pretrained(part).num_hidden_layers == 3
        assert AutoTokenizer.from_pretrained(part)(text) == AutoTokenizer.from_pretrained(source)(
            text
        )


@pytest.mark.parametrize(("first", "second"), [(1, 4), (2, 8), (8, 2), (4, 4), (8, 1)])
def test_a_cut_of_a_cut_is_the_cut_of_the_source(source, tmp_path, first, second):
    shard(source, tmp_path / "first", first, max_file_bytes=70_000)
    shard(tmp_path / "first", tmp_path / "second", second)
    shard(source, tmp_path / "direct", second)
    for rank in range(second):
        parts = [
            read_folder(tmp_path / cut / "part_model" / str(rank)) for cut in ("second", "direct")
        ]
        assert_same_bits(*parts)
    verify(tmp_path / "second")


@pytest.mark.parametrize("form", ["bin", "lm_head", "bare tied", "tied head only", "old tables"])
def test_names_come_back_as_they_were(tmp_path, form):
    oracle = make_oracle(tie_word_embeddings="tied" in form)
    state = {name: tensor.clone() for name, tensor in oracle.state_dict().items()}
    if "tied" in form:
        del state["gpt_neox.embed_in.weight" if "head" in form else "lm_head.weight"]
    if form == "bin":
        state["embed_out.weight"] = state.pop("lm_head.weight")
    if "bare" in form:
        state = {name.removeprefix("gpt_neox."): tensor for name, tensor in state.items()}
    (tmp_path / "source").mkdir()
    oracle.config.save_pretrained(tmp_path / "source")
    tables = (
        {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
        if "tables" in form
        else {}
    )
    if form == "bin":
        torch.save(state, tmp_path / "source" / "pytorch_model.bin")
    else:
        save_file(state | tables, tmp_path / "source" / "model.safetensors")
    shard(tmp_path / "source", tmp_path / "two", 2)
    shard(tmp_path / "two", tmp_path / "four", 4)
    merge(tmp_path / "four", tmp_path / "merged")
    assert_same_bits(read_folder(tmp_path / "merged"), state)
    verify(tmp_path / "four")


def test_a_cut_may_change_the_dtype_but_not_past_its_range(tmp_path):
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path / "source")
    for name in ("float16", "bfloat16"):
        manifest = shard(tmp_path / "source", tmp_path / name, 2, dtype=name)
        assert manifest["dtype"] == name
        merge(tmp_path / name, tmp_path / f"{name} merged")
        expected = {
            n: t.to(getattr(torch, name)) for n, t in read_folder(tmp_path / "source").items()
        }
        assert_same_bits(read_folder(tmp_path / f"{name} merged"), expected)
    oracle.gpt_neox.layers[1].mlp.dense_4h_to_h.bias.data[5] = -70000.0
    oracle.save_pretrained(tmp_path / "source")
    with pytest.raises(
        WeightsError, match=r"dense_4h_to_h\.bias holds 70000, past the range of torch\.float16"
    ):
        shard(tmp_path / "source", tmp_path / "too far", 2, dtype="float16")
    with pytest.raises(WeightsError, match="is not finished"):
        open_checkpoint(tmp_path / "too far")
    assert not list((tmp_path / "too far").rglob("*.safetensors*"))


def refused(error: type[Exception], words: str, *args: object, **options: object) -> None:
    with pytest.raises(error, match=words):
        shard(*args, **options)


def test_what_cannot_be_cut_is_refused_before_anything_is_written(source, tmp_path):
    new = tmp_path / "new"
    refused(
        ShardError,
        "8 attention heads cannot be cut over 3 ranks; world_size may be 1, 2, 4, 8",
        source,
        new,
        3,
    )
    refused(ShardError, "world_size may be", source, new, 0)
    refused(SettingsError, r"quant is 'int88'; did you mean int8\?", source, new, 2, quant="int88")
    refused(ShardError, "not stored as 'int8'", source, new, 2, dtype="int8")
    refused(ShardError, "max_file_bytes is 0", source, new, 2, max_file_bytes=0)
    refused(WeightsError, "does not exist", tmp_path / "nothing", new, 2)
    (tmp_path / "bare").mkdir()
    shutil.copy(next(source.glob("*.safetensors")), tmp_path / "bare" / "model.safetensors")
    refused(ConfigError, r"config\.json is missing", tmp_path / "bare", new, 2)
    shutil.copy(source / "config.json", tmp_path / "bare")
    refused(WeightsError, "missing gpt_neox", tmp_path / "bare", new, 2)
    assert not new.exists()


def test_a_folder_that_is_not_ours_is_not_touched(source, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("ten years")
    (tmp_path / "file").write_text("x")
    before = contents(tmp_path)
    refused(ShardError, "nothing is touched", source, tmp_path / "theirs", 2)
    refused(ShardError, "is a file", source, tmp_path / "file", 2)
    refused(ShardError, "is the source or lies inside it", source, source, 2)
    refused(ShardError, "is the source or lies inside it", source, source / "cut", 2)
    (tmp_path / "link").symlink_to(source)
    refused(ShardError, "is the source or lies inside it", source, tmp_path / "link" / "cut", 2)
    with pytest.raises(WeightsError, match="holds no finished cut"):
        merge(source, tmp_path / "out")
    (tmp_path / "link").unlink()
    assert contents(tmp_path) == before and not (source / "cut").exists()


def test_a_part_is_no_source(source, tmp_path):
    shard(source, tmp_path / "cut", 2)
    part = tmp_path / "cut" / "part_model" / "1"
    refused(WeightsError, "rank 1 of 2 only; give .*cut, which", part, tmp_path / "new", 4)


def test_a_finished_cut_is_kept_and_another_one_refused(source, tmp_path, capsys):
    cut = tmp_path / "cut"
    first = shard(source, cut, 2)
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*")}
    capsys.readouterr()
    assert shard(source, cut, 2) == first and capsys.readouterr().out == SAVED
    refused(ShardError, "another finished cut: world_size is 2, asked for 4", source, cut, 4)
    refused(ShardError, "cast_to is None, asked for 'float16'", source, cut, 2, dtype="float16")
    make_oracle(vocab_size=300).save_pretrained(tmp_path / "other")
    refused(ShardError, "source_fingerprint is ", tmp_path / "other", cut, 2)
    with pytest.raises(
        ShardError, match="another finished cut: kind is 'shard', asked for 'merge'"
    ):
        shard(source, tmp_path / "second", 4)
        merge(tmp_path / "second", cut)
    assert before == {path: path.stat().st_mtime_ns for path in cut.rglob("*")}
    os.truncate(cut / "part_model" / "1" / "model.safetensors", 100)
    refused(ShardError, r"files have changed: part_model/1/model\.safetensors", source, cut, 2)


def test_a_disk_without_room_is_refused_with_both_numbers(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    refused(ShardError, r"needs \d+kB, the disk has 300kB free", source, tmp_path / "a" / "cut", 2)
    assert not (tmp_path / "a").exists()


def test_a_disk_that_fills_up_leaves_nothing_half_written_and_the_cut_resumes(source, tmp_path):
    """Twice: a file that may not grow, by a limit of this process, and a device that is always full."""
    cut = tmp_path / "cut"
    options = {"max_file_bytes": 60_000, "progress": False}
    shard(source, tmp_path / "whole", 1, **options)
    biggest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*.safetensors"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest - 5000, hard))
    try:
        refused(
            ShardError,
            f"{os.strerror(errno.EFBIG)}.*give the same command again",
            source,
            cut,
            1,
            **options,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        (cut / JOURNAL).is_file()
        and not list(cut.rglob("*.tmp"))
        and not (cut / "manifest.json").exists()
    )
    last = max(
        path.name for path in (tmp_path / "whole" / "part_model" / "0").glob("*.safetensors")
    )
    full = cut / "part_model" / "0" / f"{last}.tmp"
    full.symlink_to("/dev/full")
    refused(
        ShardError,
        f"{os.strerror(errno.ENOSPC)}.*give the same command again",
        source,
        cut,
        1,
        **options,
    )
    assert not list(cut.rglob("*.tmp"))
    with pytest.raises(WeightsError, match="not finished: run shard again to resume"):
        verify(cut)
    shard(source, cut, 1, **options)
    assert contents(cut) == contents(tmp_path / "whole")


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


def test_a_journal_outlives_kills_in_the_middle_of_a_line(tmp_path):
    entry = {"bytes": 1, "sha256": "ab"}
    request = {"world_size": 2}
    for n in range(3):
        journal = Journal(tmp_path / JOURNAL, request)
        assert journal.done == {str(i): entry for i in range(n)}
        journal.record(str(n), entry)
        journal.close()
        with (tmp_path / JOURNAL).open("a") as file:
            file.write('{"file": "part_mo')


def test_a_damaged_journal_is_an_error(source, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / JOURNAL).write_text("not json\n")
    refused(ShardError, "is damaged .* cut anew", source, cut, 2)


def test_verify_lists_all_that_is_wrong(source, tmp_path):
    cut = tmp_path / "cut"
    shard(source, cut, 4)
    part = [cut / "part_model" / str(rank) for rank in range(4)]
    data = bytearray((part[0] / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (part[0] / "model.safetensors").write_bytes(data)
    os.truncate(part[1] / "model.safetensors", 50)
    (part[2] / "model.safetensors").unlink()
    (part[3] / "pytorch_model.bin").write_bytes(b"")
    (part[3] / "config.json").write_text("{}")
    with pytest.raises(WeightsError) as error:
        verify(cut)
    for words in (
        "part_model/0/model.safetensors has another sha256",
        "part_model/1/model.safetensors has 50 bytes",
        "part_model/2/model.safetensors is missing",
        "part_model/3/pytorch_model.bin is not in the manifest",
        "part_model/3/config.json has 2 bytes",
    ):
        assert words in str(error.value)


def test_verify_compares_the_manifest_with_the_headers_and_the_config(source, tmp_path):
    cut = tmp_path / "cut"
    shard(source, cut, 2)
    manifest = json.loads((cut / "manifest.json").read_text())
    tensors = manifest["tensors"]
    lost = tensors.pop("embed_out.weight")
    tensors["gpt_neox.extra"] = lost
    tensors["gpt_neox.layers.0.attention.dense.weight"]["cut"] = 0
    tensors["gpt_neox.layers.0.attention.dense.bias"]["dtype"] = "BF16"
    tensors["gpt_neox.layers.2.attention.dense.bias"]["files"].pop()
    (cut / "manifest.json").write_bytes(manifest_bytes(seal(manifest)))
    with pytest.raises(WeightsError) as error:
        verify(cut)
    for words in (
        "embed_out.weight is in the config's model, not in the manifest",
        "gpt_neox.extra: the manifest says",
        "layers.0.attention.dense.weight: the manifest says [64, 64] cut along 0",
        "layers.0.attention.dense.bias in part_model/1/model.safetensors is F32 [64], not BF16 [64]",
        "layers.2.attention.dense.bias is in 1 files, the manifest is of 2 ranks",
    ):
        assert words in str(error.value)
    assert str(error.value).count("\n") == 6  # the bias in both ranks' files


def test_verify_of_what_is_no_cut_says_so(source, tmp_path):
    for folder in (source, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(WeightsError, match="holds no finished cut"):
            verify(folder)
    shard(source, tmp_path / "cut", 1)
    (tmp_path / "cut" / "manifest.json").write_text("{")
    with pytest.raises(WeightsError, match="not readable JSON"):
        verify(tmp_path / "cut")


MEASURE = """
import sys
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.verify import verify
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS") - status("RssFile")
shard(sys.argv[1], sys.argv[2], 2, progress=False)
verify(sys.argv[2], progress=False)
merge(sys.argv[2], sys.argv[2] + " merged", progress=False)
print(status("VmHWM") - status("RssFile") - before)
"""


def peak_of(folder: Path, cut: Path) -> int:
    """Bytes of peak resident memory above the imported modules, of a cut, a check and a merge.

    Pages of files are left out, the programs' own among them: how many are there at a time is the kernel's affair.
    """
    command = [sys.executable, "-c", MEASURE, str(folder), str(cut)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return int(output.split()[-1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_under_three_times_the_largest_tensor_however_many_layers(tmp_path):
    """The least of up to three runs: what an allocator keeps by chance only adds. Both fill all that is on its way."""
    sizes = []
    peaks = {5: math.inf, 15: math.inf}
    for layers in peaks:
        oracle = make_oracle(
            num_hidden_layers=layers, hidden_size=384, intermediate_size=1536, vocab_size=6000
        )
        largest = oracle.gpt_neox.embed_in.weight.nbytes
        oracle.save_pretrained(tmp_path / str(layers))
        sizes.append(sum(tensor.nbytes for tensor in oracle.parameters()))
    for run in range(3):
        for layers, peak in peaks.items():
            peaks[layers] = min(
                peak, peak_of(tmp_path / str(layers), tmp_path / f"{layers} cut {run}")
            )
        if max(peaks.values()) < 3 * largest and peaks[15] < peaks[5] + largest / 2:
            break
    assert sizes[1] > 2 * sizes[0]
    assert max(peaks.values()) < 3 * largest
    assert peaks[15] < peaks[5] + largest / 2, peaks
