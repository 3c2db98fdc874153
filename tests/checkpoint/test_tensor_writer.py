"""Files written front to back: whole, hashed and durable. Oracle: safetensors."""

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from neoxlib.checkpoint import tensor_writer
from neoxlib.checkpoint.durable import header_of
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_writer import TensorFile
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import ShardError
from tests.support.checkpoint_files import (
    assert_same_bits,
)
from tests.support.oracle_models import make_oracle


class Trickle:
    """A file that takes seven bytes at a time, as a nearly full disk or a network may."""

    def __init__(self, raw):
        self.raw = raw
        self.name = raw.name
        self.flush = raw.flush
        self.fileno = raw.fileno
        self.tell = raw.tell
        self.close = raw.close

    def write(self, view):
        return self.raw.write(view[:7])


def test_a_file_is_whole_however_few_bytes_a_write_takes(tmp_path):
    tensor = torch.randn(9, 5)
    header = header_of({"w": (tensor.dtype, (9, 5))}, {})
    file = TensorFile(tmp_path / "w.safetensors", header, ThreadPoolExecutor(1))
    file.file = Trickle(file.file)
    file.room(9, 5, tensor.dtype).copy_(tensor)
    entry = file.finish()
    data = (tmp_path / "w.safetensors").read_bytes()
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert_same_bits(load_file(tmp_path / "w.safetensors"), {"w": tensor})


@pytest.mark.parametrize("slot", [1, 999, 1 << 20])
def test_a_file_is_the_same_wherever_its_slots_begin(tmp_path, monkeypatch, slot):
    """Widths 4, 2 and 1; rows that underfill, overfill and exceed a slot."""
    state = {
        "a": torch.randn(100, 31),
        "b": torch.randn(7, 3).half(),
        "c": torch.arange(77, dtype=torch.int8)[:, None],
    }
    monkeypatch.setattr(tensor_writer, "SLOT", slot)
    path = tmp_path / "w.safetensors"
    header = header_of({name: (tensor.dtype, tensor.shape) for name, tensor in state.items()}, {})
    file = TensorFile(path, header, ThreadPoolExecutor(1))
    for tensor in state.values():
        for rows in tensor.split([1, 0, 4, len(tensor) - 5]):
            file.room(*rows.shape, rows.dtype).copy_(rows)
    entry = file.finish()
    assert entry == {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert_same_bits(load_file(path), state)


def test_a_failure_that_the_disk_tells_of_once_in_mid_file_is_not_lost(tmp_path, monkeypatch):
    make_oracle(hidden_size=128, intermediate_size=256).save_pretrained(tmp_path / "source")
    told = []
    fsync = os.fsync

    def fail_once(number: int) -> None:
        if os.readlink(f"/proc/self/fd/{number}").endswith(".safetensors.tmp"):
            told.append(threading.current_thread())
            if len(told) == 1:
                raise OSError(errno.EIO, "a worn disk")
        fsync(number)

    monkeypatch.setattr(os, "fsync", fail_once)
    monkeypatch.setattr(tensor_writer, "SYNC", 1)
    with pytest.raises(ShardError, match=r"a worn disk.*the same command again to resume"):
        shard(tmp_path / "source", tmp_path / "cut", 1)
    assert told[0] is not threading.main_thread()
    assert not list((tmp_path / "cut").rglob("*.safetensors*"))
    shard(tmp_path / "source", tmp_path / "cut", 1)
    verify(tmp_path / "cut")
