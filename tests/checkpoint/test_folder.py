"""Read published folders: every byte, and every refusal by name. Oracles: safetensors, torch."""

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neoxlib.checkpoint.folder import fingerprint, may_be_one, open_checkpoint
from neoxlib.checkpoint.manifest import manifest_bytes, seal
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_file import read_pickle
from neoxlib.demo import MODEL_DIR
from neoxlib.errors import WeightsError
from tests.support.checkpoint_files import whole
from tests.support.oracle_models import make_oracle

DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int64,
    torch.uint8,
    torch.bool,
)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: whole(stored) for name, stored in open_checkpoint(folder).tensors.items()}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


def test_every_dtype_of_a_safetensors_file_is_read_as_safetensors_reads_it(tmp_path):
    state = {str(dtype): torch.arange(35).view(7, 5).to(dtype) for dtype in DTYPES}
    save_file(state, tmp_path / "model.safetensors")
    assert_same(tensors(tmp_path), load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_bin_is_read_as_torch_reads_it_whatever_its_tensors_share(tmp_path, zipped):
    base = torch.randn(6, 4)
    state = {
        "plain": torch.randn(7, 5).half(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "tied": base,
        "too": base,
        "view": base[2:5],
        "transposed": base.t(),
        "columns": base[:, 1:3],
        "mask": torch.tensor([True, False]),
    }
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_same(
        tensors(tmp_path),
        {name: t.detach() for name, t in torch.load(path, weights_only=True).items()},
    )
    if zipped:  # nothing was loaded for all but the strided two
        assert [key for key, piece in read_pickle(path).items() if piece.offset is None] == [
            "transposed",
            "columns",
        ]


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_code_is_refused_and_the_code_is_not_run(tmp_path, zipped):
    trace = tmp_path / "it ran"
    state = {"w": torch.ones(2), "x": Bomb(trace)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="asks to run code, which is never done"):
        open_checkpoint(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value", [{"w": torch.ones(2), "step": 3}, [torch.ones(2)], {"model": {"w": torch.ones(2)}}]
)
def test_a_bin_that_is_no_plain_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="no plain table of name and tensor"):
        open_checkpoint(tmp_path)


def test_a_bin_of_garbage_is_refused(tmp_path):
    for garbage in (b"", b"garbage", pickle.dumps([1])):
        (tmp_path / "pytorch_model.bin").write_bytes(garbage)
        with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
            open_checkpoint(tmp_path)


def test_a_truncated_file_is_an_error_wherever_it_was_cut(tmp_path):
    state = {"a": torch.randn(20, 7), "b": torch.randn(5)}
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "model.bin")
    for name, target in (
        ("model.safetensors", "model.safetensors"),
        ("model.bin", "pytorch_model.bin"),
    ):
        data = (tmp_path / name).read_bytes()
        folder = tmp_path / f"cut {name}"
        folder.mkdir()
        for length in [*range(0, 100, 9), len(data) // 2, len(data) - 30, len(data) - 1]:
            (folder / target).write_bytes(data[:length])
            with pytest.raises(WeightsError, match=f"{target}.*trunc"):
                open_checkpoint(folder)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    save_file({"w": torch.randn(20, 7)}, tmp_path / "model.safetensors")
    stored = open_checkpoint(tmp_path).tensors["w"]
    os.truncate(tmp_path / "model.safetensors", 300)
    with pytest.raises(WeightsError, match=r"ended \d+ bytes early inside w"):
        whole(stored)


def entry(**changes) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{no json", "corrupt"),
        (b"[]", "corrupt"),
        (b"\xff\xfe", "corrupt"),
        ({"w": 3}, "corrupt"),
        ({"w": {"dtype": "F32"}}, "corrupt"),
        ({"__metadata__": 3}, "corrupt"),
        ({"__metadata__": {"neoxlib_quant": []}}, "corrupt"),
        (entry(dtype="F6_E2M3"), "dtype F6_E2M3, which neoxlib does not read"),
        (entry(shape=[3]), "does not fill its 8 bytes"),
        (entry(shape=[-2]), "corrupt"),
        (entry(shape="2"), "corrupt"),
        (entry(data_offsets=[8, 0]), "corrupt"),
        (entry(data_offsets=[0]), "corrupt"),
        (entry() | {"v": entry()["w"]}, "begins at byte"),  # two tensors on the same bytes
        (entry(data_offsets=[4, 12]), "begins at byte"),  # a gap
        ({}, "too long"),
    ],
)
def test_a_corrupt_safetensors_header_is_refused(tmp_path, header, words):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    with pytest.raises(WeightsError, match=words):
        open_checkpoint(tmp_path)


def test_files_of_an_index_join_and_links_out_of_the_folder_are_followed(tmp_path):
    """As in the cache of a hub: the folder holds links to blobs beside it."""
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path / "real", max_shard_size="50KB")
    (tmp_path / "links").mkdir()
    for file in (tmp_path / "real").iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    checkpoint = open_checkpoint(tmp_path / "links")
    assert len(checkpoint.files) > 3
    state = oracle.state_dict()
    state["embed_out.weight"] = state.pop(
        "lm_head.weight"
    )  # in files transformers keeps the old name
    assert_same(tensors(tmp_path / "links"), state)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/m.safetensors", "a\\b.bin", ".."]
)
def test_an_index_that_names_a_file_outside_its_folder_is_refused(tmp_path, name):
    save_file({"w": torch.ones(2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(WeightsError, match="not beside it, which is refused"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"w": 3}}', b"\xff"]
)
def test_an_index_that_is_no_index_is_refused(tmp_path, text):
    (tmp_path / "pytorch_model.bin.index.json").write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )
    with pytest.raises(WeightsError, match="copy it anew"):
        open_checkpoint(tmp_path)


def test_all_missing_files_and_all_missing_tensors_of_an_index_are_listed(tmp_path):
    index = {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors", "d": "1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    save_file({"x": torch.ones(2)}, tmp_path / "1.safetensors")
    with pytest.raises(
        WeightsError, match=r"lacks 2 of 3 weight files: 2\.safetensors, 3\.safetensors"
    ):
        open_checkpoint(tmp_path)
    for name in "23":
        save_file({"b": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        WeightsError, match=r"(?s)a in 1\.safe.*c in 3\.safe.*d in 1\.safe"
    ) as error:
        open_checkpoint(tmp_path)
    assert "b in" not in str(error.value)


def test_safetensors_win_over_bin_and_one_file_over_an_index(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert tensors(tmp_path)["w"].tolist() == [0, 0]
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert tensors(tmp_path)["w"].tolist() == [1, 1]


def test_a_folder_without_weights_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="found nothing"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "manifest.json").write_text('{"of": "another program"}')
    with pytest.raises(
        WeightsError, match=r"looked for model\.safetensors.*found config\.json, manifest\.json"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "part_model").mkdir()
    with pytest.raises(WeightsError, match=r"part_model/ but no manifest\.json"):
        open_checkpoint(tmp_path)


def test_the_fingerprint_tells_two_training_steps_of_one_model_apart(tmp_path):
    prints = []
    for step in range(3):
        folder = tmp_path / str(step)
        oracle = make_oracle()
        if step == 2:
            oracle.gpt_neox.embed_in.weight.data += 1e-3
        oracle.save_pretrained(folder)
        prints.append(fingerprint(open_checkpoint(folder)))
    assert prints[0] == prints[1] != prints[2]
    (tmp_path / "1" / "config.json").write_text((tmp_path / "1" / "config.json").read_text() + "\n")
    assert fingerprint(open_checkpoint(tmp_path / "1")) != prints[0]


def test_the_fingerprint_tells_an_edit_of_any_one_tensor(tmp_path):
    shutil.copytree(MODEL_DIR, tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    before = fingerprint(checkpoint)
    for name, tensor in checkpoint.tensors.items():
        (piece,) = tensor.pieces
        with piece.path.open("r+b") as file:
            file.seek(piece.offset)
            values = file.read(piece.nbytes)
            for changed in (bytes(255 - value for value in values), values):
                file.seek(piece.offset)
                file.write(changed)
                file.flush()
                assert (fingerprint(checkpoint) == before) == (changed == values), name


def test_the_fingerprint_tells_an_edit_of_a_file_that_only_torch_reads(tmp_path):
    shutil.copytree(MODEL_DIR, tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    prints = set()
    for n in range(2):
        state["embed_out.weight"][700, 3] += n
        torch.save({name: values.t() for name, values in state.items()},
                   tmp_path / "model" / "pytorch_model.bin")  # fmt: skip
        prints.add(fingerprint(open_checkpoint(tmp_path / "model")))
    assert len(prints) == 2


def test_the_fingerprint_of_a_cut_has_the_hashes_of_its_files(tmp_path):
    shard(MODEL_DIR, tmp_path / "cut", 2, progress=False)
    before = fingerprint(open_checkpoint(tmp_path / "cut"))
    path = tmp_path / "cut" / "manifest.json"
    manifest = json.loads(path.read_text())
    name = next(name for name in manifest["files"] if name.endswith(".safetensors"))
    manifest["files"][name]["sha256"] = "0" * 64
    path.write_bytes(manifest_bytes(seal(manifest)))
    assert fingerprint(open_checkpoint(tmp_path / "cut")) != before


def test_fingerprints_of_other_forms_are_not_taken_for_those_of_other_models():
    assert may_be_one("2:a", "b") and may_be_one("2:a", "2:a")
    assert not may_be_one("2:a", "2:b") and not may_be_one("a", "b")


def test_reading_a_bin_warns_of_nothing(tmp_path):
    torch.save(make_oracle().state_dict(), tmp_path / "pytorch_model.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(tensors(tmp_path), make_oracle().state_dict())
