"""A changed manifest is refused, and so is a file of a cut at the wrong place."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import manifest_bytes, read_manifest, seal
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import WeightsError
from tests.support.oracle_models import make_oracle

SMALL = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_oracle(**SMALL, vocab_size=32).save_pretrained(folder / "source")
    shard(folder / "source", folder / "cut", 2, progress=False)
    return folder / "cut"


@pytest.fixture
def cut(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "cut")


def refused(cut: Path, words: str) -> None:
    """By every function that reads a cut."""
    for reads in (
        open_checkpoint,
        verify,
        lambda folder: merge(folder, cut / "out"),
        lambda f: shard(f, cut / "o", 1),
    ):
        with pytest.raises(WeightsError, match=words):
            reads(cut)


def assert_noticed(folder: Path, data: bytes, changes: Iterator[tuple[int, int]]) -> None:
    for n, byte in changes:
        (folder / "manifest.json").write_bytes(data[:n] + bytes([byte]) + data[n + 1 :])
        try:
            found = read_manifest(folder)
        except WeightsError:
            continue
        assert found is None and n < data.index(b'"version"'), (
            n,
            data[n],
            byte,
        )  # another format is no manifest


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(cut, tmp_path):
    """Each bit of a small manifest; in a cut's, one bit of every third byte, and white space."""
    entry = {"cut": 0, "shape": [4, 2], "dtype": "F32", "files": ["part_model/0/m.safetensors"]}
    files = {entry["files"][0]: {"bytes": 1, "sha256": "0a"}}
    small = {
        "kind": "shard",
        "source_fingerprint": "é",
        "world_size": 1,
        "files": files,
        "tensors": {"w": entry},
    }
    data = manifest_bytes(seal(small))
    assert_noticed(
        tmp_path, data, ((n, data[n] ^ 1 << bit) for n in range(len(data)) for bit in range(8))
    )
    data = (cut / "manifest.json").read_bytes()
    assert_noticed(cut, data, ((n, data[n] ^ 1 << n % 8) for n in range(0, len(data), 3)))
    assert_noticed(
        cut, data, ((n, 0x09) for n, byte in enumerate(data) if byte in b" \n" and n % 4 == 0)
    )
    (cut / "manifest.json").write_bytes(data)
    assert read_manifest(cut) and verify(cut, progress=False)


def test_a_manifest_whose_format_was_changed_is_no_cut_to_anyone(cut):
    path = cut / "manifest.json"
    path.write_text(path.read_text().replace("neoxlib-shards", "neoxlib-sharps"))
    with pytest.raises(WeightsError, match="holds no finished cut"):
        verify(cut)
    with pytest.raises(WeightsError, match=r"part_model/ but no manifest\.json"):
        open_checkpoint(cut)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: json.dumps(json.loads(text)),
        lambda text: text.replace('"kind"', '"quant": null,\n  "kind"'),
        lambda text: text.replace("  ", " "),
        lambda text: text.replace('"version": 2', '"version": 1'),
        lambda text: text.replace('"seal"', '"sear"'),
    ],
)
def test_a_manifest_that_was_written_by_another_hand_is_refused(cut, change):
    path = cut / "manifest.json"
    path.write_bytes(change(path.read_text()).encode())
    refused(cut, "not as it was written")


def rewrite(cut: Path, change, sealed: bool = True) -> None:
    """Change the manifest as its maker could: with the files' present sha256, and a new seal."""
    manifest = json.loads((cut / "manifest.json").read_text())
    change(manifest)
    for file in manifest["files"]:
        data = (cut / file).read_bytes()
        manifest["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if sealed:
        (cut / "manifest.json").write_bytes(manifest_bytes(seal(manifest)))
    else:
        (cut / "manifest.json").write_text(json.dumps({**manifest, "version": 1}))


def unsealed(manifest: dict) -> None:
    """Rewrite the manifest as version 1 wrote it."""
    del manifest["seal"], manifest["source_files"]


@pytest.mark.parametrize("sealed", [True, False])
def test_ranks_in_another_order_are_refused_whoever_sealed_them(cut, sealed):
    parts = cut / "part_model"
    (parts / "0").rename(parts / "x")
    (parts / "1").rename(parts / "0")
    (parts / "x").rename(parts / "1")
    rewrite(cut, (lambda m: None) if sealed else unsealed, sealed)
    refused(
        cut,
        r"(?s)0/model.safetensors is marked as part 1/2, expected part 0/2.*0/2, expected part 1/2",
    )


def test_files_listed_for_other_ranks_are_refused(cut):
    rewrite(cut, lambda m: m["tensors"]["embed_out.weight"]["files"].reverse())
    refused(
        cut,
        r"embed_out.weight: part_model/1/model.safetensors stands where the file of rank 0 belongs",
    )


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ({}, "part None"),
        ({"neoxlib_part": "0/4"}, "part 0/4"),
        ({"neoxlib_part": "0/2", "neoxlib_quant": "int8"}, "packed as int8"),
    ],
)
def test_a_file_that_does_not_say_whose_it_is_or_says_another_is_refused(cut, marks, words):
    path = cut / "part_model" / "0" / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", **marks})
    rewrite(cut, lambda m: None)
    refused(cut, f"part_model/0/model.safetensors is marked as .*{words}.*, expected part 0/2")


@pytest.mark.parametrize("mark", ["2/2", "x/2", "1", "-1/2"])
def test_a_part_with_a_mark_that_is_none_is_refused(cut, mark):
    path = cut / "part_model" / "1" / "model.safetensors"
    save_file(load_file(path), path, metadata={"neoxlib_part": mark})
    with pytest.raises(WeightsError, match=f"is marked as part '{mark}', expected rank/world size"):
        open_checkpoint(path.parent)


def test_each_file_of_a_cut_says_whose_it_is(made, tmp_path):
    shard(made, tmp_path / "one", 1, progress=False)
    assert open_checkpoint(tmp_path / "one" / "part_model" / "0").part == (0, 1)
    header = (tmp_path / "one" / "part_model" / "0" / "model.safetensors").read_bytes()[:200]
    assert b'"neoxlib_part":"0/1"' in header
    merge(made, tmp_path / "merged", progress=False)
    assert b"neoxlib_part" not in (tmp_path / "merged" / "model.safetensors").read_bytes()


def test_a_cut_of_before_seals_loads_and_verify_says_that_it_has_none(cut, tmp_path, caplog):
    expected = load_file(cut.parent / "cut" / "part_model" / "1" / "model.safetensors")
    verify(cut)
    assert "sealed" not in caplog.text
    rewrite(cut, unsealed, sealed=False)
    assert verify(cut) and "sealed: no" in caplog.text
    merge(cut, tmp_path / "merged", progress=False)
    shard(cut, tmp_path / "again", 2, progress=False)
    again = load_file(tmp_path / "again" / "part_model" / "1" / "model.safetensors")
    assert again.keys() == expected.keys() and all(
        torch.equal(again[name], expected[name]) for name in again
    )


def test_a_manifest_of_another_version_or_shape_is_refused(cut):
    for change, words in (
        (lambda m: m.update(version=3), "version 3; this neoxlib reads versions 1 and 2"),
        (lambda m: m.pop("files"), "files is missing"),
        (lambda m: m.update(files=[]), r"files is \[\], expected an object"),
        (lambda m: m.update(tensors={"w": {"shape": 3}}), "w.shape is 3, expected a list"),
    ):
        manifest = json.loads((cut / "manifest.json").read_text()) | {"version": 1}
        del manifest["seal"]
        change(manifest)
        path = cut.parent / "changed"
        path.mkdir(exist_ok=True)
        (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(WeightsError, match=words):
            read_manifest(path)
