"""A capture is whole or not there, holds what the ranks computed, and refuses what does not fit."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import neoxlib
from neoxlib.align import capture as module
from neoxlib.align.capture import capture
from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.reader import Capture, read_capture
from neoxlib.align.statistics import NAMES, statistics
from neoxlib.align.verdict import sentence
from neoxlib.errors import SettingsError
from neoxlib.model.group import Group
from neoxlib.model.steps import all_steps, part_of
from tests.support.thread_ranks import on_ranks

ROWS = [[66, 67, 68, 69], [70, 71]]
THEN = [[5, 6], [7, 8]]
ENDS = ("gpt_neox.embed_in", "embed_out")


def taken(checkpoint: Path, folder: Path, size: int = 1, **options: object) -> Path:
    def work(group: Group) -> None:
        capture(neoxlib.load(checkpoint, group=group, compile=False), folder, ROWS, THEN, **options)

    on_ranks(size, work)
    return folder


def test_every_step_of_every_pass_and_rank_is_there(checkpoint: Path, tmp_path: Path):
    found = read_capture(taken(checkpoint, tmp_path / "one", 2))
    config = neoxlib.load(checkpoint).config
    parts = dict.fromkeys(map(part_of, all_steps(config)))
    keys = {key for part in parts for key in found.part(part)}
    assert keys == {(n, p, r) for n in all_steps(config) for p in range(3) for r in range(2)}
    assert found.passes == [(0, 4), (4, 5), (5, 6)] and found.size == 2
    about = found.manifest
    assert about["fingerprint"] and about["dtype"] == "float32"
    assert about["ids"][1][2:] == [70, 71, 7, 8] and about["mask"][1][:2] == [False, False]


def test_a_capture_is_the_same_bits_twice_and_over_ranks_nearly(checkpoint: Path, tmp_path: Path):
    one, again, two = (
        read_capture(taken(checkpoint, tmp_path / str(n), size)) for n, size in enumerate((1, 1, 2))
    )
    assert all(drift.distance.same_bits for drift in against(one, again))
    split = against(two, one)
    assert len(split) > 100 and max(drift.distance.relative_l2 for drift in split) < 1e-5


def test_statistics_are_those_of_the_tensors(checkpoint: Path, tmp_path: Path):
    names = ["*.mlp.activation"]
    few = read_capture(taken(checkpoint, tmp_path / "few", names=names, kind="statistics"))
    all_ = read_capture(taken(checkpoint, tmp_path / "all", names=names))
    key = ("gpt_neox.layers.1.mlp.activation", 1, 0)
    value = all_.part("layer001")[key].double()
    expected = [value.min(), value.max(), value.mean(), value.norm(), 0, 0]
    assert few.part("layer001")[key].tolist() == pytest.approx([float(x) for x in expected])
    assert len(NAMES) == 6 and not all_.part("begin")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_statistics_are_of_the_finite_values_and_count_the_others(dtype: torch.dtype):
    values = torch.tensor([[3.0, -4.0], [0.5, 1.0]], dtype=dtype)
    plain = [-4.0, 3.0, 0.125, values.double().norm().item(), 0.0, 0.0]
    assert statistics(values).tolist() == pytest.approx(plain)
    values[1] = values.new_tensor([torch.nan, torch.inf])
    assert statistics(values).tolist() == pytest.approx([-4.0, 3.0, -0.5, 5.0, 1.0, 1.0])
    assert statistics(values[1:]).tolist()[4:] == [1.0, 1.0]
    largest = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
    assert statistics(largest).isfinite().all() and statistics(largest)[5] == 0


@pytest.mark.parametrize("size", [1, 2])
def test_a_disk_that_fills_leaves_nothing_and_all_ranks_say_so(
    size: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = module.save_file

    def full(tensors: dict, path: Path) -> None:
        if "layer002" in str(path) and path.name == f"rank{size - 1}.safetensors":
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(module, "save_file", full)

    def work(group: Group) -> str:
        engine = neoxlib.load(checkpoint, group=group, compile=False)
        with pytest.raises(SettingsError, match="nothing is left of it") as error:
            capture(engine, tmp_path / "one", ROWS)
        return str(error.value)

    said = on_ranks(size, work)
    assert "No space left on device" in said[-1]
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit_is_refused(checkpoint: Path, tmp_path: Path):
    engine = neoxlib.load(checkpoint, compile=False)
    with pytest.raises(SettingsError, match="'nope' is no step"):
        capture(engine, tmp_path / "one", ROWS, names=["nope"])
    with pytest.raises(SettingsError, match="kind is 'mean'; it is one of tensors, statistics"):
        capture(engine, tmp_path / "one", ROWS, kind="mean")
    with pytest.raises(SettingsError, match="must be as many for every prompt"):
        capture(engine, tmp_path / "one", ROWS, [[1], [1, 2]])
    with pytest.raises(SettingsError, match="there already"):
        capture(engine, tmp_path, ROWS)
    with pytest.raises(SettingsError, match=r"is no capture: it has no capture\.json"):
        read_capture(tmp_path)
    assert os.listdir(tmp_path) == []


def test_captures_that_cannot_be_compared_are_refused(checkpoint: Path, tmp_path: Path):
    one = read_capture(taken(checkpoint, tmp_path / "one"))
    engine = neoxlib.load(checkpoint, compile=False)
    other = read_capture(capture(engine, tmp_path / "other", [[1, 2, 3, 4], [1, 2]], THEN))
    with pytest.raises(SettingsError, match="different token ids"):
        against(one, other)
    two = read_capture(taken(checkpoint, tmp_path / "two", 2))
    (tmp_path / "two/pass1/layer001/rank1.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"layer001 of pass 1 not from ranks \[1\]"):
        two.part("layer001")
    path = tmp_path / "one/capture.json"
    path.write_text(json.dumps(one.manifest | {"format": 0}))
    with pytest.raises(SettingsError, match="has format 0, expected 1"):
        read_capture(tmp_path / "one")
    path.write_text("{")
    with pytest.raises(SettingsError, match=r"capture\.json cannot be read"):
        read_capture(tmp_path / "one")
    assert torch.equal(one.ids[0], torch.tensor([*ROWS[0], *THEN[0]]))


def test_a_capture_that_has_lost_a_file_is_refused_and_names_not_asked_for_are_none(
    checkpoint: Path, tmp_path: Path
):
    few = taken(checkpoint, tmp_path / "few", names=["*.mlp.activation"])
    assert localize(read_capture(few)).first == []
    one = taken(checkpoint, tmp_path / "one", 2)
    for path in one.glob("pass*/layer*/*"):
        path.unlink()
    with pytest.raises(SettingsError, match=r"has lost pass0/layer000/rank0\.safetensors"):
        read_capture(one)


def test_a_tensor_that_is_lost_from_its_file_is_missed(checkpoint: Path, tmp_path: Path):
    found = read_capture(taken(checkpoint, tmp_path / "one"))
    path = tmp_path / "one/pass1/end/rank0.safetensors"
    save_file({"embed_out": load_file(path)["embed_out"]}, path)
    with pytest.raises(SettingsError, match=r"holds 1 tensors, capture\.json says 2"):
        localize(found)


def test_a_capture_of_before_is_read_and_the_verdict_says_that_lost_files_cannot_be_told(
    checkpoint: Path, tmp_path: Path
):
    one = taken(checkpoint, tmp_path / "one")
    assert "lost" not in sentence(read_capture(one), localize(read_capture(one)))
    path = one / "capture.json"
    about = json.loads(path.read_text())
    assert about["files"]["pass2/begin/rank0.safetensors"] == 1
    path.write_text(json.dumps({key: about[key] for key in about if key != "files"}))
    shutil.rmtree(one / "pass0/end")
    said = sentence(read_capture(one), localize(read_capture(one)))
    assert said.startswith("every step that was seen is right") and said.endswith(
        "whether some are lost cannot be told"
    )
    path.write_text(json.dumps(about | {"files": {"../pass0/begin/rank0.safetensors": 1}}))
    with pytest.raises(SettingsError, match=r"files names '\.\./pass0.* no file of a capture"):
        read_capture(one)


def test_a_manifest_without_passes_and_one_without_an_end_are_refused(
    checkpoint: Path, tmp_path: Path
):
    path = taken(checkpoint, tmp_path / "one") / "capture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passes": []}))
    with pytest.raises(SettingsError, match="passes is empty, expected one or more"):
        read_capture(tmp_path / "one")
    with path.open("r+b") as file:
        file.truncate(8 * 2**30)  # a hole: takes no room on the disk
    with pytest.raises(
        SettingsError, match=r"8,589,934,592 bytes, and at most 67,108,864 are read"
    ):
        read_capture(tmp_path / "one")


BROKEN = {  # what the tensors of a file are -> how, and what is said of it
    "complex": (lambda x: torch.complex(x, x + 1e6), "in complex64 "),
    "of another dtype": (lambda x: x.half(), r"in float16 \[2, 4, .*, expected float32 "),
    "whole numbers": (lambda x: x.int(), "in int32 "),
    "flags": (lambda x: x > 0, "in bool "),
    "flat": (lambda x: x.flatten(), "expected float32 "),
    "of no prompt": (lambda x: x[:0], r"\[0, 4, "),
    "of no width": (lambda x: x[..., :0], r"\[2, 4, .*0\], expected float32 \[2, 4, "),
    "of fewer tokens": (lambda x: x[:, 1:], r"\[2, 3, "),
}


def test_tensors_that_no_step_gives_are_refused_with_file_and_name(
    checkpoint: Path, tmp_path: Path
):
    found = read_capture(taken(checkpoint, tmp_path / "one"))
    path = tmp_path / "one/pass0/layer001/rank0.safetensors"
    values = load_file(path)
    for edit, said in BROKEN.values():
        save_file({name: edit(value).contiguous() for name, value in values.items()}, path)
        with pytest.raises(SettingsError, match=rf"rank0\.safetensors has gpt_neox.* {said}"):
            localize(found)
    for name in ("gpt_neox.layers", "gpt_neox.layers.x.mlp", "gpt_neox.layers.2", "evil"):
        save_file(values | {name: values["gpt_neox.layers.1"].clone()}, path)
        with pytest.raises(SettingsError, match=f"has '{name}', no step of layer001"):
            localize(found)


def test_statistics_of_another_form_are_refused(checkpoint: Path, tmp_path: Path):
    found = read_capture(taken(checkpoint, tmp_path / "few", names=["*.1"], kind="statistics"))
    path = tmp_path / "few/pass0/layer001/rank0.safetensors"
    save_file({name: value[:5].clone() for name, value in load_file(path).items()}, path)
    with pytest.raises(SettingsError, match=r"float64 \[5\], expected float64 \[6\]"):
        found.part("layer001")


def test_kernels_that_keep_float32_between_the_steps_may_have_it_in_a_capture(
    checkpoint: Path, tmp_path: Path
):
    found = read_capture(taken(checkpoint, tmp_path / "one"))
    about = found.manifest | {"dtype": "bfloat16", "compile": "compiled kernels"}
    assert Capture(found.folder, about).part("end")
    with pytest.raises(SettingsError, match=r"in float32 .*, expected bfloat16 "):
        Capture(found.folder, about | {"compile": "plain: compile is False"}).part("end")


def test_a_model_folder_that_was_changed_since_is_refused(checkpoint: Path, tmp_path: Path):
    shutil.copytree(checkpoint, tmp_path / "model")
    found = read_capture(taken(tmp_path / "model", tmp_path / "one"))
    assert localize(found).first == []
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace("gelu_fast", "relu"))
    with pytest.raises(SettingsError, match=r"is not the model that .* was made of"):
        localize(found)
    assert "mlp.activation" in localize(found, tmp_path / "model").first[0].name


def test_captures_without_a_step_in_common_are_refused(checkpoint: Path, tmp_path: Path):
    one, other = (read_capture(taken(checkpoint, tmp_path / name, names=[name])) for name in ENDS)
    with pytest.raises(SettingsError, match="no step of one shape in common"):
        against(one, other)
