"""Every kind of damage to a cut is found and named."""

import json
import os

import pytest

from neoxlib.checkpoint.manifest import manifest_bytes, seal
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import WeightsError


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
        "layers.0.attention.dense.bias in part_model/1/model.safetensors is F32 [64], not BF16",
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
