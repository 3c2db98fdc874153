"""Weights on their way to a device that copies late. Oracle: what the files hold."""

from threading import get_ident
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from neoxlib.checkpoint import staging
from neoxlib.checkpoint.load import load_into
from neoxlib.checkpoint.tensor_file import FileTensor
from neoxlib.errors import WeightsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from tests.support.oracle_models import make_oracle
from tests.support.parts import CUT_COLUMNS, expected_part, group_of


class LateTensor:
    """A device's tensor: a copy is made as late as the device may, when its event is waited for."""

    begun: ClassVar[list] = []

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.shape = tensor.shape
        self.dtype = tensor.dtype

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> None:
        assert non_blocking
        LateTensor.begun.append((self.tensor, source))


class LateEvent:
    def record(self) -> None:
        self.mine, LateTensor.begun = LateTensor.begun, []

    def synchronize(self) -> None:
        while self.mine:
            target, source = self.mine.pop(0)
            target.copy_(source)


def portion(out: dict, due: dict) -> SimpleNamespace:
    def read_into(staged: dict) -> None:
        for name, tensor in due.items():
            assert staged[name].is_contiguous() and staged[name].shape == tensor.shape
            staged[name].copy_(tensor)

    return SimpleNamespace(
        out={name: LateTensor(tensor) for name, tensor in out.items()}, read_into=read_into
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17])
def test_no_block_is_filled_again_before_its_copy_has_ended(count: int):
    due = [{"weight": torch.randn(5, 3), "weight_scale": torch.randn(7)} for _ in range(count)]
    found = [{name: torch.zeros_like(tensor) for name, tensor in one.items()} for one in due]
    portions = [portion(out, tensors) for out, tensors in zip(found, due, strict=True)]
    told = list(staging._in_turns(portions, LateEvent))
    assert told == [(15 + 7) * 4] * count
    for ours, theirs in zip(found, due, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_larger_than_a_block_gets_a_larger_one(monkeypatch):
    monkeypatch.setattr(staging, "BLOCK_BYTES", 16)
    due = [{"weight": torch.randn(n, 3)} for n in (1, 50, 2, 90)]
    found = [{"weight": torch.zeros_like(one["weight"])} for one in due]
    portions = [portion(out, tensors) for out, tensors in zip(found, due, strict=True)]
    list(staging._in_turns(portions, LateEvent))
    assert all(torch.equal(a["weight"], b["weight"]) for a, b in zip(found, due, strict=True))


def test_pinned_memory_is_taken_by_the_thread_that_has_the_device(monkeypatch):
    """A thread of one's own has device 0, whatever the rank's is."""
    threads = {"pinned": set(), "read": set()}
    monkeypatch.setattr(
        staging,
        "pinned",
        lambda size: threads["pinned"].add(get_ident()) or torch.empty(size, dtype=torch.uint8),
    )
    portions = [portion({"weight": torch.zeros(2, 2)}, {"weight": torch.ones(2, 2)})] * 3
    for one in portions:
        read = one.read_into
        one.read_into = lambda out, read=read: threads["read"].add(get_ident()) or read(out)
    list(staging._in_turns(portions, LateEvent))
    assert threads["pinned"] == {get_ident()} and get_ident() not in threads["read"]


def test_an_error_of_the_reading_thread_ends_the_load():
    def fails(staged: dict) -> None:
        raise WeightsError("a worn disk")

    bad = SimpleNamespace(out={"weight": LateTensor(torch.zeros(1, 1))}, read_into=fails)
    good = portion({"weight": torch.zeros(2, 2)}, {"weight": torch.ones(2, 2)})
    with pytest.raises(WeightsError, match="a worn disk"):
        list(staging._in_turns([good, good, bad, good], LateEvent))


def as_on_a_device(monkeypatch) -> None:
    """Take the way of a device, with tensors of the CPU that are copied at once."""
    now = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    monkeypatch.setattr(
        "neoxlib.checkpoint.load.run_in_threads",
        lambda tasks: staging._in_turns(tasks, lambda: now),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_a_device_gets_the_bits_of_a_cpus_load(tmp_path, monkeypatch, dtype, quant):
    make_oracle(hidden_size=128, intermediate_size=320).half().save_pretrained(tmp_path)
    config = ModelConfig.from_dir(tmp_path)
    monkeypatch.setattr("neoxlib.checkpoint.pack.RUN", 3000)
    for rank in range(2):
        models = [GPTNeoX(config, group_of(rank, 2), quant=quant).to(dtype) for _ in range(2)]
        load_into(models[0], tmp_path)
        with monkeypatch.context() as patch:
            as_on_a_device(patch)
            load_into(models[1], tmp_path)
        ours = dict(models[1].named_parameters())
        for name, tensor in models[0].named_parameters():
            assert torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_device_reads_no_byte_of_another_ranks_columns(tmp_path, monkeypatch, dtype):
    make_oracle().save_pretrained(tmp_path)
    model = GPTNeoX(ModelConfig.from_dir(tmp_path), group_of(3, 4)).to(dtype)
    read: dict[str, int] = {}
    plain = FileTensor._fill

    def counted(piece: FileTensor, file: object, view: memoryview) -> None:
        read[piece.key] = read.get(piece.key, 0) + len(view)
        plain(piece, file, view)

    monkeypatch.setattr(FileTensor, "_fill", counted)
    as_on_a_device(monkeypatch)
    load_into(model, tmp_path)
    cut = [name for name in read if name.endswith(CUT_COLUMNS)]
    whole = {name: tensor for name, tensor in make_oracle().state_dict().items() if name in cut}
    assert whole.keys() == set(cut) and cut
    for name, tensor in whole.items():
        assert read[name] == expected_part(name, tensor, 3, 4).numel() * 4, name


def test_without_pinned_memory_the_blocks_are_pageable(monkeypatch, caplog):
    def refuse(*_: object, **options: object) -> torch.Tensor:
        if options.get("pin_memory"):
            raise RuntimeError("no pinned memory")
        return torch.zeros(3, dtype=torch.uint8)

    monkeypatch.setattr(staging.torch, "empty", refuse)
    with caplog.at_level("INFO", logger="neoxlib"):
        assert len(staging.pinned(3)) == 3
    assert "pageable" in caplog.text
