"""Every .bin that torch reads has the same bits here, or is refused. Oracle: torch.load."""

import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.serialization import config

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.tensor_file import read_header, read_pickle
from neoxlib.errors import WeightsError
from tests.support.checkpoint_files import whole
from tests.support.oracle_models import make_oracle

BASE = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
STATE = {
    "a": BASE[:7, :5].clone(),
    "half": BASE[0].half(),
    "tied": BASE,
    "view": BASE[2:5],
    "transposed": BASE.t(),
    "columns": BASE[:, 1:3],
    "empty": torch.zeros(0, 3),
    "wide": torch.arange(6000.0).view(300, 20).bfloat16(),
    "negative": torch._neg_view(BASE[1].clone()),
    "imaginary": torch.view_as_complex(BASE.view(256, 2)).clone().conj().imag,
    "expanded": torch.arange(4.0).expand(3, 4),
    "whole numbers": torch.arange(5),
} | {f"alike {n}": torch.full((40,), n + 0.5) for n in range(4)}
Edit = Callable[[str, bytes], bytes | None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def zip_anew(path: Path, edit: Edit = lambda _, data: data, **options) -> None:
    """Write a .bin of torch.save as another zip; `edit` returns a record's bytes, or None."""
    packed = options.get("packed", lambda _: False)
    order = options.get("order", list)
    source = _saved()
    with zipfile.ZipFile(path, "w") as target:
        for name in order(source.namelist()):
            method = zipfile.ZIP_DEFLATED if packed(name) else zipfile.ZIP_STORED
            if (data := edit(name, source.read(name))) is not None:
                target.writestr(options.get("rename", str)(name), data, compress_type=method)


def _saved() -> zipfile.ZipFile:
    torch.save(STATE, buffer := io.BytesIO())
    return zipfile.ZipFile(buffer)


def assert_as_torch(path: Path) -> None:
    theirs = torch.load(path, weights_only=True)
    ours = open_checkpoint(path.parent).tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        expected = tensor.resolve_neg().contiguous()
        found = whole(ours[name])
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert torch.equal(
            found.flatten().view(torch.uint8), expected.flatten().view(torch.uint8)
        ), name


def in_order(word: bytes | None) -> Edit:
    return lambda name, data: word if name.endswith("/byteorder") else data


def without(*endings: str) -> Edit:
    return lambda name, data: None if name.endswith(endings) else data


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": lambda names: names[::-1]},
        {"packed": lambda _: True},
        {"packed": lambda name: name.endswith("data/3")},
        {"packed": lambda name: name.endswith(".pkl")},
        {"edit": without(".format_version")},
        {"edit": without(".format_version", ".storage_alignment")},
        {"edit": in_order(b"big")},
        {"edit": in_order(b"big"), "packed": lambda _: True},
        {"edit": in_order(None)},
        {"rename": lambda name: "a much longer name 模型/" + name.partition("/")[2]},
        *(
            {"order": lambda names, n=n: random.Random(n).sample(names, len(names))}
            for n in range(4)
        ),
    ],
)
def test_a_bin_that_was_zipped_anew_is_read_as_torch_reads_it(path, options):
    zip_anew(path, **options)
    assert_as_torch(path)


class Stream(io.RawIOBase):
    """A file without seek: the zip then states sizes after the records."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.write = file.write

    def writable(self) -> bool:
        return True


def test_sizes_that_come_later_or_are_long_or_junk_behind_change_nothing(path):
    source = _saved()
    with path.open("wb") as file, zipfile.ZipFile(Stream(file), "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert_as_torch(path)
    path.write_bytes(path.read_bytes() + b"junk" * 9)
    assert_as_torch(path)
    with zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            with target.open(zipfile.ZipInfo(name), "w", force_zip64=True) as record:
                record.write(source.read(name))
    assert_as_torch(path)
    path.write_bytes(path.read_bytes() * 2)
    assert_as_torch(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice_is_the_one_that_torch_takes(path):
    source = _saved()
    with zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            for data in (source.read(name), bytes(len(source.read(name))))[
                : 1 + name.endswith("data/0")
            ]:
                target.writestr(name, data)
    assert_as_torch(path)


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_storages_may_be_aligned_as_they_like_and_are_not_loaded_whole(path, alignment):
    with config.patch("save.storage_alignment", alignment):
        torch.save(STATE, path)
    assert_as_torch(path)
    strided = {"transposed", "columns", "negative", "imaginary", "expanded"}
    assert {name for name, piece in read_pickle(path).items() if piece.offset is None} == strided


def test_the_order_of_bytes_that_torch_is_told_to_expect_is_kept(path):
    zip_anew(path, in_order(None))
    torch.serialization.set_default_load_endianness(torch.serialization.LoadEndianness.BIG)
    try:
        assert_as_torch(path)
    finally:
        torch.serialization.set_default_load_endianness(None)


@pytest.mark.parametrize(
    "edit",
    [
        lambda name, data: data[:-4] if name.endswith("data/0") else data,
        lambda name, data: data + b"1234" if name.endswith("data/0") else data,
        without("data/1"),
        in_order(b"middle"),
    ],
)
def test_a_zip_that_torch_refuses_is_refused(path, edit):
    zip_anew(path, edit)
    with pytest.raises(RuntimeError if edit(".../byteorder", b"") != b"middle" else ValueError):
        torch.load(path, weights_only=True)
    with pytest.raises(WeightsError, match="truncated or corrupt"):
        [whole(stored) for stored in open_checkpoint(path.parent).tensors.values()]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.empty(3, device="meta"), "no numbers for w: they were saved from the meta device"),
        (torch.eye(3).to_sparse(), "no plain table"),
        ({"w": BASE}, "no plain table"),
    ],
)
def test_a_tensor_that_is_no_plain_one_is_refused(path, value, words):
    torch.save({"w": value}, path)
    with pytest.raises(WeightsError, match=words):
        whole(open_checkpoint(path.parent).tensors["w"])


def test_a_file_that_took_the_place_of_another_is_the_one_that_is_read(tmp_path):
    """Also its mapped pages, which the first load may still hold."""
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path / "new")
    piece = read_header(tmp_path / "new" / "model.safetensors")[0]["gpt_neox.embed_in.weight"]
    before = piece.mapped(slice(0, 211), slice(0, 64)).clone()
    oracle.gpt_neox.embed_in.weight.data += 1
    oracle.save_pretrained(tmp_path / "newer")
    os.replace(tmp_path / "newer" / "model.safetensors", piece.path)
    assert torch.equal(piece.mapped(slice(0, 211), slice(0, 64)), before + 1)


def test_a_folder_whose_name_is_no_utf8_is_mapped_and_read(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff"))
    folder.mkdir()
    save_file({"w": BASE}, tmp_path / "model.safetensors")
    os.replace(tmp_path / "model.safetensors", folder / "model.safetensors")
    stored = open_checkpoint(folder).tensors["w"]
    assert torch.equal(stored.mapped((slice(0, 64), slice(0, 8))), BASE) and torch.equal(
        whole(stored), BASE
    )


def test_a_negated_view_keeps_its_sign_in_another_dtype(path):
    torch.save({"a": torch._neg_view(BASE[:4].half())}, path)
    found = torch.empty(4, 8)
    open_checkpoint(path.parent).tensors["a"].read_into(found, (slice(0, 4), slice(0, 8)))
    assert torch.equal(found, -BASE[:4].half().float())
