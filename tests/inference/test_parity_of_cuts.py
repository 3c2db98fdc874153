"""A rank's file that was edited, its hash made to fit: the source or the other ranks' copies tell.

`verify` and parity read the edited cut only. Here every tensor is edited in turn.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from neoxlib.checkpoint.folder import fingerprint, open_checkpoint
from neoxlib.checkpoint.manifest import MANIFEST, manifest_bytes, seal
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_file import FileTensor, read_header
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import WeightsError
from neoxlib.inference import parity
from tests.support.oracle_models import make_oracle

FILE = "part_model/1/model.safetensors"


class Run:
    """A run's checks."""

    def __init__(self) -> None:
        self.results = {"checks": []}

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.results["checks"].append({"name": name, "passed": passed, "detail": detail})


def checks(cut: Path) -> list[tuple[str, bool, str]]:
    run = Run()
    parity.check_origin(cut, run)
    return [tuple(check.values()) for check in run.results["checks"]]


def edit(cut: Path, tensor: FileTensor, share: float) -> bytes:
    """Turn over a bit at a share of a tensor's bytes, and fit hash and seal; returns the file."""
    path = cut / FILE
    before = path.read_bytes()
    data = bytearray(before)
    size = tensor.dtype.itemsize
    for length in tensor.shape:
        size *= length
    data[tensor.offset + int(share * (size - 1))] ^= 1
    put(cut, bytes(data))
    return before


def put(cut: Path, data: bytes, file: str = FILE, **facts: str) -> None:
    """Replace a file and facts of the manifest, and fit hash and seal."""
    (cut / file).write_bytes(data)
    manifest = json.loads((cut / MANIFEST).read_bytes()) | facts
    digest = hashlib.sha256(data).hexdigest()
    manifest["files"][file] = {"bytes": len(data), "sha256": digest}
    (cut / MANIFEST).write_bytes(manifest_bytes(seal(manifest)))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_oracle(num_hidden_layers=2).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("asked", [{}, {"dtype": "float16"}, {"quant": "int8"}], ids=str)
def test_a_cut_is_compared_with_its_source_as_it_was_cut(model, tmp_path, asked):
    shard(model, tmp_path / "cut", 2, progress=False, **asked)
    ((name, passed, detail),) = checks(tmp_path / "cut")
    assert (name, passed) == (parity.ORIGIN, True) and "tensors compared, 0 differ" in detail


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_an_edit_of_any_tensor_of_a_rank_is_told_by_its_source(model, tmp_path, share):
    cut = tmp_path / "cut"
    manifest = shard(model, cut, 2, progress=False)
    tensors, _ = read_header(cut / FILE)
    for name, tensor in tensors.items():
        before = edit(cut, tensor, share)
        if manifest["tensors"][name]["cut"] is None:
            with pytest.raises(WeightsError, match=f"{name} of {FILE} is another than that of"):
                verify(cut, progress=False)
        else:
            verify(cut, progress=False)
        ((said, passed, detail),) = checks(cut)
        assert said == parity.ORIGIN and not passed and name in detail
        put(cut, before)
    assert len(tensors) > 25 and checks(cut)[0][1]


def test_without_the_source_the_copies_are_compared_and_the_rest_is_said_not_to_be(model, tmp_path):
    source = shutil.copytree(model, tmp_path / "source")
    cut = tmp_path / "cut"
    shard(source, cut, 2, progress=False)
    shutil.move(source, tmp_path / "elsewhere")
    ((name, passed, detail),) = checks(cut)
    assert (name, passed) == (parity.COPIES, True)
    assert (
        f"the source, {source}, is not here; so tensors that are cut were compared with nothing"
        in detail
    )
    tensors, _ = read_header(cut / FILE)
    edit(cut, tensors["gpt_neox.layers.1.attention.dense.bias"], 0.5)
    ((_, passed, detail),) = checks(cut)
    assert not passed and "gpt_neox.layers.1.attention.dense.bias of" in detail


def test_a_source_that_was_trained_on_since_is_not_taken_for_the_one_that_was_cut(model, tmp_path):
    source = shutil.copytree(model, tmp_path / "source")
    cut = tmp_path / "cut"
    shard(source, cut, 2, progress=False)
    make_oracle(num_hidden_layers=2, hidden_act="relu").save_pretrained(source)
    assert "has changed since; so tensors that are cut" in checks(cut)[0][2]


def test_what_is_no_cut_and_what_was_compared_before_is_not_compared(model, tmp_path):
    assert checks(model) == []
    shard(model, tmp_path / "cut", 2, progress=False)
    run = Run()
    run.metrics = lambda **_: None
    parity.check_weights(model, tmp_path / "cut", run)
    parity.check_origin(tmp_path / "cut", run)
    assert [check["name"] for check in run.results["checks"]] == [parity.CUT]


def test_an_edit_of_a_ranks_config_is_told_by_the_other_ranks_and_by_the_source(model, tmp_path):
    cut = tmp_path / "cut"
    shard(model, cut, 2, progress=False)
    config = json.loads((cut / "part_model/0/config.json").read_bytes())
    edited = json.dumps(config | {"layer_norm_eps": 0.1}).encode()
    put(cut, edited, "part_model/1/config.json")
    with pytest.raises(WeightsError, match=r"part_model/1/config\.json is another"):
        verify(cut, progress=False)
    put(cut, edited, "part_model/0/config.json")
    verify(cut, progress=False)
    ((name, passed, detail),) = checks(cut)
    assert name == parity.ORIGIN and not passed
    assert "config.json of part_model/0 is another than the source's" in detail


def test_a_cut_that_names_itself_as_its_source_is_compared_with_nothing(model, tmp_path):
    cut = tmp_path / "cut"
    shard(model, cut, 2, progress=False)
    facts = {"source_folder": str(cut), "source_fingerprint": fingerprint(open_checkpoint(cut))}
    put(cut, (cut / FILE).read_bytes(), **facts)
    ((name, passed, detail),) = checks(cut)
    assert (name, passed) == (parity.COPIES, True)
    assert f"the manifest names the cut itself, {cut}, as its source" in detail
