"""Checkpoint folders, and what a test reads of them."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from neoxlib.checkpoint.folder import StoredTensor
from neoxlib.model.config import ModelConfig
from tests.support.oracle_models import TINY


def whole(stored: StoredTensor) -> torch.Tensor:
    out = torch.empty(stored.shape, dtype=stored.dtype)
    stored.read_into(out, tuple(slice(0, n) for n in stored.shape))
    return out


def config_of(**changes) -> ModelConfig:
    return ModelConfig.from_dict(TINY | changes)


ROOT = Path(__file__).parents[2]


def read_folder(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(ours[name]) == bits(tensor), name


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


STALL = """
import time
from neoxlib.checkpoint.shard import merge, shard
from neoxlib.checkpoint.tensor_writer import TensorFile
room, count = TensorFile.room, 0
def stall(self, *shape):
    global count
    count += 1
    if count == {blocks}:
        print("stalled", flush=True)
        time.sleep(300)
    return room(self, *shape)
TensorFile.room = stall
{call}
"""


SMALL = {"max_file_bytes": 40_000, "progress": False}


def kill_in_the_middle(call: str, blocks: int) -> None:
    """Run `call` in another process and kill it in the middle of a file, some files after the
    first.
    """
    code = STALL.format(call=call, blocks=blocks)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "stalled\n"
        finally:
            process.send_signal(signal.SIGKILL)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Take the right to read a file from this thread, also from root's, for the time of a block."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of capabilities, this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, the lower bits first
    assert libc.capget(header, held) == 0
    fewer = type(held)(*held)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    path.chmod(0)
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
        path.chmod(0o644)
