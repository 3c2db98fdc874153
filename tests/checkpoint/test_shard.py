"""Cut, verify and merge: bit for bit and in little memory. Oracles: safetensors, torch."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GPTNeoXForCausalLM

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import JOURNAL
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import ConfigError, SettingsError, ShardError, WeightsError
from tests.support.checkpoint_files import (
    ROOT,
    assert_same_bits,
    contents,
    read_folder,
)
from tests.support.oracle_models import make_oracle
from tests.support.parts import expected_part
from tests.support.shard_calls import refused

SAVED = "Tensor parallelism weights have been successfully saved.\n"


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
    refused(
        SettingsError, r"quant is 'int88'; did you mean 'int8'\?", source, new, 2, quant="int88"
    )
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

    Pages of files, also of the program itself, are not counted: the kernel decides how many stay.
    """
    command = [sys.executable, "-c", MEASURE, str(folder), str(cut)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return int(output.split()[-1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_under_three_times_the_largest_tensor_however_many_layers(tmp_path):
    """The least of up to three runs: what an allocator keeps by chance only adds.

    Both models are large enough to fill every buffer.
    """
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
