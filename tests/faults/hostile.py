"""Folders of weights that are damaged or hostile: refused or read, in little time and memory.

Everything is opened, loaded and cut in a fork; no hang, no code, no death of the process.
"""

import io
import json
import os
import pickle
import shutil
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import neoxlib
from neoxlib.checkpoint.manifest import MANIFEST
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_file import read_header
from neoxlib.errors import NeoXError
from tests.faults.rows import Row, inject
from tests.faults.weights import flip
from tests.fuzz.bounds import bounded
from tests.support.kill_points import in_a_fork
from tests.support.special_files import KINDS, special_file

HANGS = 120  # seconds, on a busy machine
HUGE = 8 << 30  # bytes of a file without content
MARK = "code of the checkpoint ran"
WEIGHTS = "model.safetensors"
FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "LICENSE", "README.md", WEIGHTS, f"{WEIGHTS}.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", MANIFEST, "shard.progress.jsonl"),
)
CODE = f"""
open({MARK!r}, "w").close()
class Mine:
    pass
"""


def used(folder: Path) -> str:
    """Load and cut a folder, as a user does; returns what was refused."""
    said = []
    for use in (
        lambda: neoxlib.load(folder, device="cpu").generate(["a"], max_new_tokens=1),
        lambda: shard(folder, folder.parent / "cut", 2, progress=False),
    ):
        try:
            with bounded(seconds=60):
                use()
        except NeoXError as error:
            said.append(f"{error}")
    shutil.rmtree(folder.parent / "cut", ignore_errors=True)
    return "\n".join(said)


def safely(folder: Path) -> str:
    """What was refused. Raises AssertionError for a hang, a foreign error, or code that ran."""
    os.chdir(folder.parent)

    def call() -> str:
        signal.alarm(HANGS)
        return used(folder)

    code, said = in_a_fork(call)
    assert code == 0, (code, said[-2000:])
    assert not list(folder.parent.rglob(MARK)), said
    return said


def spoilt(model: Path, edits: dict[str, Callable[[Path], Any]], must: bool = True) -> str:
    """Use a copy of the model after each edit; with `must` every one must be refused."""
    here = Path.cwd()
    told = []
    for what, edit in edits.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(shutil.copytree(model, Path(name, "model")))
            edit(folder)
            try:
                said = safely(folder).replace(name, "…")
            except AssertionError as error:
                raise AssertionError(f"{what}: {error}") from error
            finally:
                os.chdir(here)
            assert said or not must, f"{what} was taken"
            told += [said] * bool(said)
    others = "" if len(told) == len(edits) else ", the others read"
    refused = f"{len(edits)} tried, {len(told)} refused{others}"
    return f"{refused}: {told[0].splitlines()[0][:150]}" if told else refused


def header_edits(model: Path) -> dict[str, Callable[[Path], Any]]:
    """Headers that overlap, leave gaps, lead out of the file, or are no headers."""
    data = (model / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name, entry = next((n, e) for n, e in header.items() if n != "__metadata__")
    start, end = entry["data_offsets"]
    entries = {
        "overlapping": {"data_offsets": [start + 4, end + 4]},
        "beyond the end": {"data_offsets": [2**40, 2**40 + end - start]},
        "backwards": {"data_offsets": [end, start]},
        "negative": {"data_offsets": [-8, end - start - 8]},
        "of 2^62 values": {"shape": [2**31, 2**31], "data_offsets": [0, 2**63 - 1]},
        "without values": {"shape": [0], "data_offsets": [start, start]},
        "of a million dimensions": {"shape": [1] * 10**6},
    }
    edits: dict[str, Callable[[Path], Any]] = {
        what: partial(_with_header, header=header | {name: entry | change}, rest=data[8 + length :])
        for what, change in entries.items()
    }
    for number in (0, 7, length - 1, 2**31, 2**63, 2**64 - 1):
        whole = struct.pack("<Q", number) + data[8:]
        edits[f"header of {number} bytes"] = partial(_put, name=WEIGHTS, data=whole)
    return edits | {"a byte too many": partial(_put, name=WEIGHTS, data=data + b"\0")}


def _with_header(folder: Path, header: dict[str, Any], rest: bytes) -> None:
    raw = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + rest)


def _put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def headers(model: Path) -> str:
    return spoilt(model, header_edits(model))


def lengths(model: Path, count: int = 40) -> str:
    size = (model / WEIGHTS).stat().st_size
    places = {int(size * n / count) for n in range(count)} | {7, 8, 9, size - 1}
    return spoilt(
        model,
        {f"{n} bytes": lambda folder, n=n: os.truncate(folder / WEIGHTS, n) for n in places},
    )


def bits(model: Path, step: int = 97) -> str:
    """A bit of the header turned over: refused, or another name in it is read."""
    (length,) = struct.unpack("<Q", (model / WEIGHTS).read_bytes()[:8])
    return spoilt(
        model,
        {f"byte {n}": partial(_flipped, at=n) for n in range(0, 8 + length, step)},
        must=False,
    )


def _flipped(folder: Path, at: int) -> None:
    flip(folder / WEIGHTS, at)


class Runs:
    """What asks for code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, (CODE,))


def _with_bin(folder: Path, data: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(data)


def pickles(model: Path) -> str:
    """A .bin that asks for code, in both formats of torch and as a plain pickle."""
    import torch

    new, old = io.BytesIO(), io.BytesIO()
    torch.save({"a": Runs()}, new)
    torch.save({"a": Runs()}, old, _use_new_zipfile_serialization=False)
    forms = {"zip": new.getvalue(), "old": old.getvalue(), "pickle": pickle.dumps(Runs())}
    return spoilt(model, {name: partial(_with_bin, data=data) for name, data in forms.items()})


def _names(folder: Path, target: str) -> None:
    """An index whose every tensor is in `target`."""
    tensors, _ = read_header(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, target)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _loop(folder: Path) -> None:
    _names(folder, "a.safetensors")
    (folder / "a.safetensors").symlink_to("b.safetensors")
    (folder / "b.safetensors").symlink_to("a.safetensors")


def index(model: Path) -> str:
    names = (
        f"../{WEIGHTS}",
        f"a/../../{WEIGHTS}",
        "/etc/passwd",
        "/dev/zero",
        ".",
        "..",
        "",
        "a\0b",
        "x" * 5000,
        "\ud800",
    )
    edits: dict[str, Callable[[Path], Any]] = {name: partial(_names, target=name) for name in names}
    return spoilt(model, edits | {"a loop of links": _loop})


def special(model: Path, kinds: tuple[str, ...] = (*KINDS, "loop", "folder")) -> str:
    """Every file of a model, also those that it may lack, as what is no file."""
    edits = {
        f"{file} as {kind}": partial(_special, file=file, kind=kind)
        for file in FILES
        for kind in kinds
    }
    return spoilt(model, edits, must=False)


def _special(folder: Path, file: str, kind: str) -> None:
    (folder / file).unlink(missing_ok=True)
    if kind == "loop":
        (folder / file).symlink_to(file)
    elif kind == "folder":
        (folder / file).mkdir()
    else:
        special_file(folder / file, kind)


def bombs(model: Path) -> str:
    """Files of 8 GB without content, and numbers that ask for memory without end."""
    edits: dict[str, Callable[[Path], Any]] = {
        f"{file} of 8 GB": partial(_huge, file=file) for file in FILES
    }
    return spoilt(model, edits | dict(_numbers(model)), must=False)


def _huge(folder: Path, file: str) -> None:
    with (folder / file).open("ab") as sparse:
        sparse.truncate(HUGE)


def _numbers(model: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    config = json.loads((model / "config.json").read_text())
    for key, value in config.items():
        if type(value) is int:
            for number in (2**31, 2**62, -1):
                text = json.dumps(config | {key: number}).encode()
                yield f"{key} {number}", partial(_put, name="config.json", data=text)
    tokens = json.loads((model / "tokenizer.json").read_text())
    for number in (2**31, 2**32 - 1):
        token = tokens["added_tokens"][0] | {"content": "<x>", "id": number}
        text = json.dumps(tokens | {"added_tokens": [token]}).encode()
        yield f"token {number}", partial(_put, name="tokenizer.json", data=text)


def remote(model: Path) -> str:
    """Keys that ask transformers for code of the folder; the model is read as a GPT-NeoX or not."""
    return spoilt(
        model, {key: partial(_remote, key=key) for key in ("config", "tokenizer")}, must=False
    )


def _remote(folder: Path, key: str) -> None:
    (folder / "mine.py").write_text(CODE)
    kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    names = dict.fromkeys(kinds, "mine.Mine") | {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}
    more = {"auto_map": names, "trust_remote_code": True}
    for name in ("config.json", "tokenizer_config.json")[: 1 + (key == "tokenizer")]:
        path = folder / name
        more |= {"tokenizer_class": "Mine"} if name.startswith("tokenizer") else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))


ROWS = (
    Row("safetensors cut at any length", lengths),
    Row("safetensors with a hostile header", headers),
    Row("safetensors with a bit of the header turned over", bits),
    Row("a .bin that asks for code", pickles),
    Row("an index that leads out of the folder or in a loop", index),
    Row("FIFOs, sockets, devices, loops and folders as files of a model", special),
    Row("files of 8 GB and numbers that ask for memory", bombs),
    Row("keys that ask for remote code", remote),
)

if __name__ == "__main__":
    inject(ROWS)
