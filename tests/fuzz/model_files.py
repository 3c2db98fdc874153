"""Model folders, captures and dumps for `readers`, and their reading with one file spoilt."""

import json
import struct
from contextlib import suppress
from pathlib import Path

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
