"""Model folders, captures and dumps for `readers`, and their reading with one file spoilt."""

import io
import json
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

import neoxlib
from neoxlib.align.capture import capture
from neoxlib.align.msprobe import read_msprobe
from neoxlib.align.reader import read_capture
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.preflight import preflight
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import NeoXError
from neoxlib.model.config import ModelConfig
from tests.fuzz.mutate import Pick, spoil_bytes
from tests.support.msprobe_dumps import dump
from tests.support.oracle_models import make_oracle, save_tokenizer

SMALL = {"vocab_size": 260, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"num_hidden_layers": 2, "max_position_embeddings": 32}


def lay_model(folder: Path) -> Path:
    make_oracle(**SMALL).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def config(folder: Path) -> list[bytes]:
    model = lay_model(folder / "model")
    old = {"rotary_pct": 0.25, "rotary_emb_base": 10000, "torch_dtype": "float16"}
    plain = json.loads((model / "config.json").read_bytes())
    del plain["rope_parameters"]
    published = json.dumps(plain | old | {"eos_token_id": [0, 2]}).encode()
    return [(model / "config.json").read_bytes(), published]


def read_config(folder: Path, data: bytes) -> None:
    (folder / "model" / "config.json").write_bytes(data)
    read_model(folder / "model")


def read_model(folder: Path) -> None:
    """Read as a session and a load do, whichever fails: both must say so."""
    for read in (
        lambda: ModelConfig.from_dir(folder),
        lambda: preflight(folder, 2, device="cpu"),
        lambda: open_checkpoint(folder),
    ):
        with suppress(NeoXError):
            read()
    neoxlib.load(folder, device="cpu")


def generation(folder: Path) -> list[bytes]:
    lay_model(folder / "model")
    return [b'{"eos_token_id": [0, 2], "bos_token_id": 0, "transformers_version": "5"}']


def read_generation(folder: Path, data: bytes) -> None:
    (folder / "model" / "generation_config.json").write_bytes(data)
    neoxlib.load(folder / "model", device="cpu").generate(["a"], max_new_tokens=1)


def index(folder: Path) -> list[bytes]:
    model = lay_model(folder / "model")
    make_oracle(**SMALL).save_pretrained(model, max_shard_size="8KB")
    (model / "model.safetensors").unlink()
    return [(model / "model.safetensors.index.json").read_bytes()]


def read_index(folder: Path, data: bytes) -> None:
    (folder / "model" / "model.safetensors.index.json").write_bytes(data)
    read_model(folder / "model")


def manifest(folder: Path) -> list[bytes]:
    shard(lay_model(folder / "model"), folder / "cut", 2)
    written = json.loads((folder / "cut" / "manifest.json").read_bytes())
    unsealed = {key: value for key, value in written.items() if key != "seal"}
    return [json.dumps(unsealed | {"version": 1}).encode()]


def read_manifest(folder: Path, data: bytes) -> None:
    (folder / "cut" / "manifest.json").write_bytes(data)
    with suppress(NeoXError):
        verify(folder / "cut", progress=False)
    read_model(folder / "cut")


def header(folder: Path) -> list[bytes]:
    data = (lay_model(folder / "model") / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    (folder / "data").write_bytes(data[8 + length :])
    return [data[8 : 8 + length]]


def read_header(folder: Path, data: bytes) -> None:
    rest = (folder / "data").read_bytes()
    whole = struct.pack("<Q", len(data)) + data + rest
    (folder / "model" / "model.safetensors").write_bytes(whole)
    read_model(folder / "model")


def beginning(folder: Path) -> list[bytes]:
    """The start of a file of safetensors, with the length of the header."""
    data = (lay_model(folder / "model") / "model.safetensors").read_bytes()
    (folder / "data").write_bytes(data[600:])
    return [data[:600]]


def read_beginning(folder: Path, data: bytes) -> None:
    whole = data + (folder / "data").read_bytes()
    (folder / "model" / "model.safetensors").write_bytes(whole)
    read_model(folder / "model")


def tensors() -> dict[str, Tensor]:
    state = make_oracle(**SMALL).state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def pickled(folder: Path) -> list[bytes]:
    """A .bin as torch writes it now, and as it did before torch 1.6."""
    model = lay_model(folder / "model")
    (model / "model.safetensors").unlink()
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(tensors(), new)
    torch.save(tensors(), old, _use_new_zipfile_serialization=False)
    return [new.getvalue(), old.getvalue()]


def spoil_pickle(data: bytes, pick: Pick) -> bytes:
    """Spoil the pickle inside the archive more often than the archive, whose sums would tell."""
    if not data.startswith(b"PK") or pick(4) == 0:
        return spoil_bytes(data[:4000], pick) + data[4000:]
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as spoilt:
        for name in archive.namelist():
            content = archive.read(name)
            is_pickle = name.endswith("data.pkl")
            spoilt.writestr(name, spoil_bytes(content, pick) if is_pickle else content)
    return out.getvalue()


def read_pickled(folder: Path, data: bytes) -> None:
    (folder / "model" / "pytorch_model.bin").write_bytes(data)
    read_model(folder / "model")


def tokenizer(folder: Path, file: str) -> list[bytes]:
    return [(lay_model(folder / "model") / file).read_bytes()]


def read_tokenizer(folder: Path, data: bytes, file: str) -> None:
    (folder / "model" / file).write_bytes(data)
    engine = neoxlib.load(folder / "model", device="cpu")
    engine.generate(["a b", "\0<|endoftext|>"], max_new_tokens=2)
    engine.score(["a"], ["b"])


def merges(folder: Path, file: str) -> list[bytes]:
    """A tokenizer in two files, of which `file` is spoilt."""
    model = lay_model(folder / "model")
    vocabulary = json.loads((model / "tokenizer.json").read_bytes())["model"]["vocab"]
    (model / "tokenizer.json").unlink()
    first, second = sorted(vocabulary, key=vocabulary.get)[66:68]
    texts = {
        "vocab.json": json.dumps(vocabulary | {first + second: 257}),
        "merges.txt": f"#version: 0.2\n{first} {second}\n",
    }
    settings = {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": "<|endoftext|>"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, text in texts.items():
        (model / name).write_text(text)
    return [texts[file].encode()]


def journal(folder: Path) -> list[bytes]:
    """The journal of a cut, as after a kill: all files are there, the manifest is not."""
    shard(lay_model(folder / "model"), folder / "cut", 2, progress=False)
    written = json.loads((folder / "cut" / "manifest.json").read_bytes())
    entries = ("kind", "source_fingerprint", "source_files", "world_size")
    request = {key: written[key] for key in (*entries, "quant", "cast_to", "max_file_bytes")}
    done = [{"file": name, **written["files"][name]} for name in written["files"]]
    lines = [request, *(line for line in done if line["file"].endswith(".safetensors"))]
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


def read_journal(folder: Path, data: bytes) -> None:
    (folder / "cut" / "manifest.json").unlink(missing_ok=True)
    (folder / "cut" / "shard.progress.jsonl").write_bytes(data)
    shard(folder / "model", folder / "cut", 2, progress=False)


def lay_dump(folder: Path, task: str) -> list[bytes]:
    model = lay_model(folder / "model")
    engine = neoxlib.load(model, device="cpu")
    capture(engine, folder / "capture", [[5, 6, 7]])
    like = read_capture(folder / "capture")
    dump(make_oracle(**SMALL), folder / "dump", like, task)
    (path,) = (folder / "dump").glob("step0/*/dump.json")
    return [path.read_bytes()]


def read_dump(folder: Path, data: bytes) -> None:
    (path,) = (folder / "dump").glob("step0/*/dump.json")
    path.write_bytes(data)
    like = read_capture(folder / "capture")
    found = read_msprobe(folder / "dump", like, folder / "model")
    found.distances_from(like)
    if not any(path.parent.rglob("*.pt")):  # of statistics
        return
    for part in ("begin", "layer000", "layer001", "end"):
        found.part(part)


def lay_capture(folder: Path) -> list[bytes]:
    model = lay_model(folder / "model")
    capture(neoxlib.load(model, device="cpu"), folder / "capture", [[5, 6, 7]])
    return [(folder / "capture" / "capture.json").read_bytes()]


def read_capture_json(folder: Path, data: bytes) -> None:
    (folder / "capture" / "capture.json").write_bytes(data)
    read_capture(folder / "capture").part("layer000")
