"""Every foreign file or folder is named with its cure, also those that transformers ignores."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXForCausalLM

import neoxlib
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.match import match, match_names
from neoxlib.errors import WeightsError
from neoxlib.model.config import ModelConfig
from neoxlib.setup.model_checks import model_rows
from tests.support.checkpoint_files import config_of, whole
from tests.support.oracle_models import TINY, make_oracle

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 571000000\n"
)
PAGE = b"\n <!DOCTYPE html>\n<html><body>Not found</body></html>"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    make_oracle().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(source, tmp_path) -> Path:
    return shutil.copytree(source, tmp_path / "model")


def refused(folder: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "git-lfs pointer.*git lfs pull"),
        (PAGE, "web page.*download the file itself"),
        (b"\xef\xbb\xbf<!-- saved --><HTML>" + b"x" * 999, "web page"),
        (b"Entry not found", "begins 'Entry not found'"),
        (b"../../blobs/0a", r"begins '\.\./\.\./blobs"),
        (b"version https://hawser.github.com/spec/v1\noid sha256:0", "git-lfs"),
        ("模型不存在".encode() * 99, "begins '模型不存在"),
        (b"BZh91AY" + bytes(99), "bzip2"),
        (b'{"error": "Repository not found"}', "JSON text.*server's error"),
        (b"", "is empty"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b"GGUF\3\0\0\0" + bytes(99), "GGUF"),
        (b"\x1f\x8b\x08" + bytes(99), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (bytes(999), "broken off"),
    ],
)
def test_a_file_that_is_no_weights_says_what_it_is(folder, name, content, words):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    refused(folder, f"(?s){name}.*{words}")


def test_weights_under_the_name_of_another_format_are_told_their_own(folder):
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    refused(folder, "seems to be safetensors: if it is, its name is model.safetensors")
    for zipped, words in ((True, "is a zip, as torch.save"), (False, "is a pickle")):
        torch.save(
            make_oracle().state_dict(),
            folder / "model.safetensors",
            _use_new_zipfile_serialization=zipped,
        )
        refused(folder, words + ".*pytorch_model.bin")


def test_a_link_to_nothing_is_called_so(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / name).symlink_to("../../blobs/gone")
        refused(folder, rf"{name} is a link to \.\./\.\./blobs/gone, which is not there")
        (folder / name).unlink()
    index = {name: f"model-0000{n % 2 + 1}-of-00002.safetensors" for n, name in enumerate(state)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    save_file(state, folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").symlink_to("../../blobs/gone")
    refused(folder, r"(?s)lacks 1 of 2 weight files.*is a link to \.\./\.\./blobs/gone")
    (tmp_path / "link").symlink_to("nowhere")
    refused(tmp_path / "link", "is a link to nowhere, which is not there")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            "adapter of PEFT alone.*merge_and_unload",
        ),
        (["model.Q4_K_M.gguf"], "GGUF"),
        (["quantize_config.json", "gptq_model-4bit-128g.safetensors"], "GPTQ"),
        (["quant_config.json", "awq_model_w4_g128.pt"], "AWQ"),
        (
            ["latest", "zero_to_fp32.py", "global_step9/zero_pp_rank_0_mp_rank_00_optim_states.pt"],
            "python zero_to_fp32",
        ),
        (["latest", "global_step9/layer_00-model_00-model_states.pt"], "convert_neox_to_hf"),
        (
            ["latest_checkpointed_iteration.txt", "iter_0000009/mp_rank_00/model_optim_rng.pt"],
            "Megatron",
        ),
        ([".metadata", "__0_0.distcp"], "dcp_to_torch"),
        (["tf_model.h5"], "TensorFlow"),
        (["refs/main", "snapshots/0a/config.json"], "snapshots/"),
        (["model-00001-of-00002.safetensors"], "without their index"),
        (["consolidated.00.pth"], "under another name"),
        (["checkpoint-500/config.json"], "give one of its checkpoints"),
    ],
)
def test_a_folder_of_another_program_is_named_with_the_way_on(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    refused(tmp_path, words)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_an_adapter_beside_a_model_is_refused_and_the_doctor_says_so(folder, name):
    assert [row.status for row in model_rows(folder)][:2] == ["OK", "OK"]
    (folder / name).write_text("{}")
    refused(folder, rf"a model and an adapter \({name}\), which would not be applied")
    row = next(row for row in model_rows(folder) if row.name == "model weights")
    assert row.status == "FAIL" and name in row.found


def test_all_pointers_of_an_index_are_listed(folder):
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {name: files[n % 3] for n, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for file in files:
        (folder / file).write_bytes(POINTER)
    with pytest.raises(WeightsError) as error:
        open_checkpoint(folder)
    assert all(
        f"{file} should hold weights, but is a git-lfs pointer" in str(error.value)
        for file in files
    )


def test_a_file_in_place_of_a_folder_is_called_so(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    refused(tmp_path / "model.gguf", "is a file, but is GGUF.*; a model is a folder")


PREFIXES = (
    "module.",
    "_orig_mod.",
    "base_model.model.",
    "module._orig_mod.",
    "student.",
    "gpt_neox.module.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("bare", [False, True], ids=["", "base model"])
def test_a_prefix_of_all_names_is_one_line(prefix, bare):
    names = [
        prefix + name.removeprefix("gpt_neox." if bare else "")
        for name in make_oracle().state_dict()
    ]
    with pytest.raises(WeightsError, match=f"under the prefix '{prefix}'") as error:
        match_names(names, config_of())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "word", ["_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module.", "module."]
)
def test_a_wrapper_inside_the_names_is_one_line(word):
    names = [re.sub(r"(layers\.\d+\.)", rf"\1{word}", name) for name in make_oracle().state_dict()]
    with pytest.raises(
        WeightsError, match=f"36 of 40 tensors under the prefix '{word}', as"
    ) as error:
        match_names(names, config_of())
    assert "\n" not in str(error.value)


def test_tensors_that_zero_3_emptied_are_one_line(folder):
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor[:0] for name, tensor in state.items()}, folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"holds 40 tensors without a number.*zero_to_fp32"
    ) as error:
        match(open_checkpoint(folder), ModelConfig.from_dir(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["base_layer.weight", "lora_A.weight", "lora_B.default.weight"], "adapter"),
        (["qweight", "qzeros", "scales", "g_idx"], "GPTQ or AWQ"),
        (["weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"], "bitsandbytes"),
        (["weight", "SCB"], "bitsandbytes"),
        (["weight_packed", "weight_scale"], "compressed"),
    ],
)
def test_tensors_of_other_programs_are_one_line(names, words):
    plain = [name for name in make_oracle().state_dict() if "query_key_value.weight" not in name]
    theirs = [
        f"gpt_neox.layers.{n}.attention.query_key_value.{name}" for n in range(3) for name in names
    ]
    with pytest.raises(WeightsError, match=words) as error:
        match_names(plain + theirs, config_of())
    assert "\n" not in str(error.value)


TABLES = {
    "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint16),
    "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9).to(torch.float8_e5m2),
    "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(4, dtype=torch.complex64),
    "gpt_neox.layers.2.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint64),
}


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tables_of_any_dtype_are_passed_over_as_transformers_does(folder, form):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "bin":
        torch.save({**state, **TABLES}, folder / "pytorch_model.bin")
    else:
        save_file({**state, **TABLES}, folder / "model.safetensors", metadata={"format": "pt"})
    found = match(open_checkpoint(folder), ModelConfig.from_dir(folder))
    theirs = GPTNeoXForCausalLM.from_pretrained(folder).state_dict()
    for ours, (name, stored) in found.items():
        assert torch.equal(whole(stored), theirs[ours.replace("embed_out", "lm_head")]), name


def test_a_weight_of_such_a_dtype_is_refused_by_name(folder):
    state = load_file(folder / "model.safetensors")
    name = "gpt_neox.layers.0.attention.dense.weight"
    save_file({**state, name: state[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=f"{name} is torch.float8_e4m3fn"):
        match(open_checkpoint(folder), ModelConfig.from_dir(folder))


def test_an_index_may_list_tables_that_no_file_holds(folder):
    names = load_file(folder / "model.safetensors").keys()
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    listed = dict.fromkeys([*names, *TABLES], "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": listed})
    )
    assert open_checkpoint(folder).tensors.keys() == names
    listed["gpt_neox.layers.9.attention.dense.bias"] = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    refused(folder, r"do not hold:\n  gpt_neox\.layers\.9\.attention\.dense\.bias in \S+$")


def test_metadata_may_be_null(folder):
    data = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({**json.loads(data[8:end]), "__metadata__": None}).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + data[end:]
    )
    assert GPTNeoXForCausalLM.from_pretrained(folder).config.vocab_size == TINY["vocab_size"]
    assert len(open_checkpoint(folder).tensors) == len(make_oracle().state_dict())


@pytest.mark.parametrize("indexed", [True, False])
def test_an_index_without_any_of_its_files_does_not_hide_the_weights_that_are_there(
    folder, caplog, indexed
):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = "pytorch_model-00001-of-00001.bin" if indexed else "pytorch_model.bin"
    torch.save(state, folder / file)
    stray = {"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(stray))
    if indexed:
        (folder / "pytorch_model.bin.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(state, file)})
        )
    assert open_checkpoint(folder).files == (folder / file,)
    assert "names weight files of which none is here; pytorch_model.bin" in caplog.text
    (folder / file).unlink()
    if indexed:
        (folder / "pytorch_model.bin.index.json").unlink()
    refused(folder, "lacks 1 of 1 weight files")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_whose_name_is_no_utf8_loads_with_its_tokenizer(checkpoint, tmp_path, dtype):
    odd = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff"))
    shutil.copytree(checkpoint, odd)
    ours, theirs = (
        neoxlib.load(folder, dtype).generate(["Hello"], max_new_tokens=4)
        for folder in (odd, checkpoint)
    )
    assert ours[0].token_ids == theirs[0].token_ids
    assert [row.status for row in model_rows(odd)] == ["OK"] * 3


@pytest.mark.parametrize("change", [{"torch_dtype": "torch.float16"}, {"dtype": "torch.bfloat16"}])
def test_a_dtype_with_its_module_is_a_dtype(checkpoint, tmp_path, change):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    raw = {key: value for key, value in raw.items() if key != "dtype"}
    (folder / "config.json").write_text(json.dumps(raw | change))
    expected = neoxlib.load(checkpoint).generate(["Hello"], max_new_tokens=4)[0].token_ids
    assert neoxlib.load(folder).generate(["Hello"], max_new_tokens=4)[0].token_ids == expected
