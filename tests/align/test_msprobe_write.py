"""What is written for msprobe has transformers' names and numbers, and comes back as it was."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import GPTNeoXForCausalLM

import neoxlib
from neoxlib.__main__ import cli
from neoxlib.align.capture import capture
from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.msprobe import read_msprobe
from neoxlib.align.msprobe_write import write_msprobe
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.study import take
from neoxlib.errors import SettingsError
from neoxlib.model.group import Group
from tests.support.align_runs import save_model
from tests.support.msprobe_dumps import dump
from tests.support.thread_ranks import on_ranks

EVEN = [list(range(60, 70)), list(range(228, 238))]
THEN = [[5, 6], [7, 8]]
ABSENT = ("Dropout", "GPTNeoXRotaryEmbedding")  # of transformers' modules: no step of ours


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("written"))


def taken(model: Path, folder: Path, size: int = 1, dtype: str = "float32", **how: bool) -> Capture:
    def work(group: Group) -> None:
        engine = neoxlib.load(model, dtype, group=group, **{"compile": False} | how)
        capture(engine, folder, EVEN, THEN)

    on_ranks(size, work)
    return read_capture(folder)


def said(folder: Path, step: int) -> dict:
    (path,) = folder.glob(f"step{step}/*/dump.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "changes", [{}, {"use_parallel_residual": False}, {"attention_bias": False}], ids=str
)
@pytest.mark.parametrize("size", [1, 2])
def test_every_module_of_transformers_has_its_name_shape_dtype_and_numbers(
    size: int, changes: dict, tmp_path: Path
):
    model = save_model(tmp_path / "model", **changes)
    ours = taken(model, tmp_path / "capture", size)
    mine = write_msprobe(ours, tmp_path / "mine")
    oracle = GPTNeoXForCausalLM.from_pretrained(model).eval()
    theirs = dump(oracle, tmp_path / "theirs", ours)
    for step in range(3):
        here, there = (said(folder, step)["data"] for folder in (mine, theirs))
        order = [name for name in there if not any(kind in name for kind in ABSENT)]
        assert [name for name in here if ".Step." not in name] == order
        for name in order:
            for side in ("input_args", "output"):
                one, other = here[name][side], there[name][side]
                if side == "output" and name.endswith("GPTNeoXModel.forward.0"):
                    one, other = ([x[0]["last_hidden_state"]] for x in (one, other))
                if not other:  # transformers hands it over by name
                    continue
                for key in ("dtype", "shape", "requires_grad", "data_name"):
                    assert one[0][key] == other[0][key], (name, side, key)
                for key in ("Max", "Min", "Mean", "Norm"):
                    figure, right = (
                        each[0][key] or 0.0 for each in (one, other)
                    )  # None of integers
                    assert figure == pytest.approx(right, rel=1e-4, abs=1e-5)


def test_every_tensor_file_is_the_tensor_that_dump_json_describes(model: Path, tmp_path: Path):
    folder = write_msprobe(taken(model, tmp_path / "capture"), tmp_path / "dump")
    for step in range(3):
        (place,) = folder.glob(f"step{step}/*")
        names = set()
        for call in said(folder, step)["data"].values():
            leaves = [*call["input_args"], *call["output"], *call["parameters"].values()]
            leaves += call["input_kwargs"].values()
            for leaf in leaves:
                leaf = leaf.get("last_hidden_state", leaf)
                value = torch.load(place / "dump_tensor_data" / leaf["data_name"])
                assert list(value.shape) == leaf["shape"] and str(value.dtype) == leaf["dtype"]
                assert value.max().item() == leaf["Max"] and value.min().item() == leaf["Min"]
                names.add(leaf["data_name"])
        assert names == set(os.listdir(place / "dump_tensor_data"))
        parents = json.loads((place / "construct.json").read_text())
        stack = json.loads((place / "stack.json").read_text())
        assert list(parents) == list(said(folder, step)["data"]) == stack["0"][0]
        block = "Module.gpt_neox.layers.1"
        dense = f"{block}.attention.dense.Linear.forward.0"
        assert parents[dense] == f"{block}.attention.GPTNeoXAttention.forward.0"
        assert parents[parents[dense]] == f"{block}.GPTNeoXLayer.forward.0"
        assert parents[parents[parents[dense]]] == "Module.gpt_neox.GPTNeoXModel.forward.0"
        assert parents["Module.lm_head.Linear.forward.0"] is None


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dump_that_is_read_again_is_the_capture(
    dtype: str, size: int, model: Path, tmp_path: Path
):
    ours = taken(model, tmp_path / "capture", size, dtype)
    again = read_msprobe(write_msprobe(ours, tmp_path / "dump", head="embed_out"))
    assert again.manifest["ids"] == ours.manifest["ids"] and again.passes == ours.passes
    drifts = against(ours, again)
    assert len(drifts) == (3 + (size > 1) + 15 * 3) * 3
    assert max(drift.distance.relative_l2 for drift in drifts) < {"float32": 1e-6}.get(dtype, 0.01)
    if size == 1:
        assert all(drift.distance.same_bits for drift in drifts)
        assert localize(again, model).first == []


def test_of_compiled_kernels_what_is_seen_is_written(model: Path, tmp_path: Path):
    ours = taken(model, tmp_path / "capture", compile=True)
    again = read_msprobe(write_msprobe(ours, tmp_path / "dump"))
    seen = {each.name for each in against(ours, again)}
    assert seen == {name for part in ("begin", "layer000", "layer001", "layer002", "end")
                    for name, _, _ in ours.part(part)}  # fmt: skip


def test_what_cannot_be_written_is_refused(model: Path, tmp_path: Path):
    engine = neoxlib.load(model, compile=False)
    ours = taken(model, tmp_path / "capture")
    with pytest.raises(SettingsError, match="capture is there already; name a new folder"):
        write_msprobe(ours, tmp_path / "capture")
    padded = take(engine, tmp_path / "padded", [[60, 61, 62], [70]])
    with pytest.raises(SettingsError, match="has rows of different lengths: msprobe compares"):
        write_msprobe(padded, tmp_path / "dump")
    few = read_capture(capture(engine, tmp_path / "few", EVEN, kind="statistics"))
    with pytest.raises(SettingsError, match="holds statistics; a comparison needs tensors"):
        write_msprobe(few, tmp_path / "dump")
    even = take(engine, tmp_path / "even", [[60, 61, 62], [70, 71]], even=True)
    assert even.passes == [(0, 2), (2, 3), (3, 4)] and even.mask.all()
    assert not (tmp_path / "dump").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("full")])
def test_a_full_disk_leaves_nothing(
    error: Exception, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = taken(model, tmp_path / "capture")
    real, left = torch.save, iter(range(30))

    def save(value: torch.Tensor, path: Path) -> None:
        if next(left, None) is None:
            raise error
        real(value, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SettingsError, match=r"full; nothing is left of it. Free space there"):
        write_msprobe(ours, tmp_path / "dump")
    assert os.listdir(tmp_path) == ["capture"]


def test_the_command_writes_a_dump_and_refuses_a_folder_before_it_runs(model: Path, tmp_path: Path):
    ours = taken(model, tmp_path / "capture")
    asked = ["align", "--target", str(ours.folder), "--msprobe", str(tmp_path / "dump")]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.output
    assert read_msprobe(tmp_path / "dump").manifest["ids"] == ours.manifest["ids"]
    done = CliRunner().invoke(cli, ["align", "no such model", *asked[3:]])
    assert done.exit_code == 1 and "dump is there already; name a new folder" in done.stderr
