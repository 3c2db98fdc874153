"""Every rank loads its part of any form of checkpoint, once. Oracle: transformers."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neoxlib.checkpoint import load
from neoxlib.checkpoint.folder import Checkpoint, open_checkpoint
from neoxlib.checkpoint.load import load_into
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_file import FileTensor
from neoxlib.errors import WeightsError
from neoxlib.kernels.cpu import pack
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from tests.support.oracle_models import TINY, make_oracle
from tests.support.parts import CUT_COLUMNS, expected_part, group_of

SIZES = (1, 2, 4, 8)


def empty_model(
    folder: Path, rank: int = 0, size: int = 1, dtype: torch.dtype = torch.float32
) -> GPTNeoX:
    with torch.device("meta"):
        return GPTNeoX(ModelConfig.from_dir(folder), group_of(rank, size)).to(dtype)


def rank_state(
    folder: Path, source: Path | Checkpoint, rank: int, size: int
) -> dict[str, torch.Tensor]:
    model = empty_model(folder, rank, size)
    load_into(model, source)
    return dict(model.named_parameters())


@pytest.fixture(scope="module")
def oracle():
    return make_oracle()


@pytest.fixture(scope="module")
def state(oracle) -> dict[str, torch.Tensor]:
    """The unsplit tensors, under the names of the files."""
    state = dict(oracle.state_dict())
    return state | {"embed_out.weight": state.pop("lm_head.weight")}


@pytest.fixture(scope="module")
def folders(oracle, state, tmp_path_factory) -> dict[str, Path]:
    """The same model in every form that can be loaded."""
    root = tmp_path_factory.mktemp("forms")
    oracle.save_pretrained(root / "one file")
    oracle.save_pretrained(root / "many files", max_shard_size="50KB")
    for form, zipped in (("bin", True), ("old bin", False)):
        oracle.config.save_pretrained(root / form)
        torch.save(state, root / form / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    for size in (1, 2, 8):
        shard(root / "bin", root / f"cut for {size}", size, max_file_bytes=70_000, progress=False)
    return {path.name: path for path in root.iterdir()}


FORMS = ("one file", "many files", "bin", "old bin", "cut for 1", "cut for 2", "cut for 8")


@pytest.mark.parametrize("form", FORMS)
def test_each_rank_of_any_world_size_gets_its_part_of_any_form(folders, state, form):
    for size in SIZES:
        for rank in range(size):
            ours = rank_state(folders["one file"], folders[form], rank, size)
            assert ours.keys() == state.keys()
            for name, tensor in ours.items():
                assert torch.equal(tensor, expected_part(name, state[name], rank, size)), (
                    name,
                    rank,
                    size,
                )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_come_in_the_dtype_of_the_model(folders, state, dtype):
    model = empty_model(folders["bin"], 1, 2, dtype)
    load_into(model, folders["many files"])
    for name, tensor in model.named_parameters():
        assert tensor.dtype == dtype and torch.equal(
            tensor, expected_part(name, state[name], 1, 2).to(dtype)
        ), name


def test_a_loaded_model_gives_the_logits_of_transformers(folders, oracle):
    ids = torch.randint(0, TINY["vocab_size"], (2, 9))
    model = empty_model(folders["bin"])
    load_into(model, folders["cut for 8"])
    with torch.no_grad():
        ours = model(ids, KVCache(model.config, 2, 9))
        torch.testing.assert_close(ours, oracle(ids).logits, rtol=1e-5, atol=1e-4)


def test_parameters_that_have_memory_are_filled_where_they_are(folders, state):
    model = GPTNeoX(ModelConfig.from_dir(folders["bin"]))
    before = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    load_into(model, folders["bin"])
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.named_parameters())
    assert before == {name: tensor.data_ptr() for name, tensor in model.named_parameters()}


def test_a_rank_reads_only_its_own_rows_and_each_byte_once(folders, state, monkeypatch):
    """Except for cut columns: their whole rows are read, since one long read beats many short."""
    read: dict[str, int] = {}
    plain = FileTensor._read_rows

    def counted(piece: FileTensor, out: torch.Tensor, first: int) -> None:
        read[piece.key] = read.get(piece.key, 0) + out.nbytes
        plain(piece, out, first)

    monkeypatch.setattr(FileTensor, "_read_rows", counted)
    rank_state(folders["bin"], folders["many files"], 3, 4)
    for name, tensor in state.items():
        part = tensor if name.endswith(CUT_COLUMNS) else expected_part(name, tensor, 3, 4)
        assert read[name] == part.nbytes, name
    read.clear()
    rank_state(folders["bin"], folders["cut for 2"], 1, 2)
    assert all(
        read[name] == expected_part(name, tensor, 1, 2).nbytes for name, tensor in state.items()
    )


def test_the_part_of_a_rank_loads_for_that_rank_only(folders, state):
    part = folders["cut for 2"] / "part_model" / "1"
    ours = rank_state(part, part, 1, 2)
    assert all(
        torch.equal(ours[name], expected_part(name, full, 1, 2)) for name, full in state.items()
    )
    for rank, size in ((0, 1), (0, 2), (1, 4)):
        with pytest.raises(
            WeightsError,
            match=f"rank 1 of 2, this is rank {rank} of {size}; give .*cut for 2, which",
        ):
            rank_state(part, part, rank, size)


def test_the_folder_between_a_cut_and_its_parts_names_the_one_to_give(folders):
    with pytest.raises(WeightsError, match=r"is inside a cut; give .*cut for 2, which"):
        rank_state(folders["bin"], folders["cut for 2"] / "part_model", 0, 2)


def test_a_cut_that_lost_a_file_does_not_load(folders, tmp_path):
    shard(folders["bin"], tmp_path / "cut", 2, progress=False)
    os.remove(tmp_path / "cut" / "part_model" / "1" / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"lacks files of its manifest: part_model/1/model\.safetensors"
    ):
        rank_state(folders["bin"], tmp_path / "cut", 0, 2)


def test_a_manifest_that_names_files_outside_its_folder_is_refused(folders, tmp_path):
    shard(folders["bin"], tmp_path / "cut", 1, progress=False)
    manifest = tmp_path / "cut" / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace("part_model/0/model.safetensors", "../model.safetensors")
    )
    with pytest.raises(
        WeightsError, match=r'is "\.\./model\.safetensors", expected the path of a file inside'
    ):
        rank_state(folders["bin"], tmp_path / "cut", 0, 1)


def test_weights_of_another_config_fill_nothing(folders, tmp_path):
    make_oracle(num_hidden_layers=2).config.save_pretrained(tmp_path)
    model = empty_model(tmp_path)
    with pytest.raises(
        WeightsError, match=r"extra gpt_neox\.layers\.2\.mlp\.dense_h_to_4h\.weight"
    ):
        load_into(model, folders["bin"])
    assert all(parameter.is_meta for parameter in model.parameters())


def test_loading_says_nothing_unless_asked(folders, capsys):
    load_into(empty_model(folders["bin"]), folders["bin"])
    assert capsys.readouterr() == ("", "")
    load_into(empty_model(folders["bin"]), folders["bin"], progress=True)
    assert capsys.readouterr().err.startswith("load: 100 % of ")


def test_an_opened_checkpoint_is_loaded_without_opening_its_folder_again(
    folders, state, monkeypatch
):
    for form in FORMS:
        checkpoint = open_checkpoint(folders[form])
        with monkeypatch.context() as patch:
            patch.setattr(load, "open_checkpoint", lambda _: pytest.fail("opened again"))
            ours = rank_state(folders["one file"], checkpoint, 1, 2)
        assert ours.keys() == state.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, expected_part(name, state[name], 1, 2)), name


def test_a_load_in_many_runs_by_many_threads_is_the_load_in_one(tmp_path, monkeypatch):
    make_oracle().half().save_pretrained(tmp_path)
    expected = load_file(tmp_path / "model.safetensors")
    monkeypatch.setattr("neoxlib.checkpoint.pack.RUN", 500)
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(pack, "_library", lambda: None)
        for rank in range(2):
            model = GPTNeoX(ModelConfig.from_dir(tmp_path), group_of(rank, 2))
            load_into(model, tmp_path)
            for name, ours in model.named_parameters():
                full = expected[name if name in expected else "lm_head.weight"]
                assert torch.equal(ours, expected_part(name, full, rank, 2).float()), name


def test_an_error_in_one_of_the_threads_ends_the_load(tmp_path, monkeypatch):
    make_oracle().save_pretrained(tmp_path)
    read = FileTensor._read_rows

    def fails(self, out, first):
        if "layers.1.mlp" in self.key:
            raise WeightsError("a worn disk")
        read(self, out, first)

    monkeypatch.setattr(FileTensor, "_read_rows", fails)
    with pytest.raises(WeightsError, match="a worn disk"):
        load_into(GPTNeoX(ModelConfig.from_dir(tmp_path)), tmp_path)
