"""GPT-NeoX-20B's full shape on this machine: write, load packed, decode; cut and check a quarter.

The checkpoint has the real config and the real 46 files, 41 GB of float16, and random numbers.
It is removed at the
end, however that comes. Writes outputs/bench/big.json and big.md.
"""

import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.machine import Others, load_average, machine, read_bandwidth
from benchmarks.outside import ROOT, end_well, forget, job, parser, remember, sync
from neoxlib.checkpoint.durable import Layout, data_bytes, header_of

SHAPE = synthetic.Shape(44, 6144, 64, 50432)
MARGIN = 4 * 10**9
BLOCK = 1 << 22  # random numbers, used again and again: what a cache holds is written faster
RANKS = 4
READINGS = 4  # of the memory, which other guests of the machine read, too
SAMPLE = 4  # files that are read to see how fast the disk is


def layouts(shape: synthetic.Shape) -> dict[str, Layout]:
    """Return file -> tensors as GPT-NeoX-20B was published.

    A file holds the attention of a layer and the MLP of the layer before it.

    The last file is the head's. Beside its parameters each layer has three buffers that an older
    transformers wrote.
    """
    count = shape.layers + 2
    found: dict[str, dict[str, Any]] = {
        f"model-{n:05}-of-{count:05}.safetensors": {} for n in range(1, count + 1)
    }
    files = list(found)
    for name, size in synthetic.sizes(shape).items():
        found[files[place(name, shape.layers)]][name] = torch.float16, size
    rotary = shape.hidden // shape.heads // 4
    positions = shape.config()["max_position_embeddings"]
    for n in range(shape.layers):
        attention = f"gpt_neox.layers.{n}.attention"
        found[files[n]] |= {
            f"{attention}.bias": (torch.bool, (1, 1, positions, positions)),
            f"{attention}.masked_bias": (torch.float16, ()),
            f"{attention}.rotary_emb.inv_freq": (torch.float16, (rotary // 2,)),
        }
    return found


def place(name: str, layers: int) -> int:
    """In which of the files a parameter is, from 0."""
    if ".layers." in name:
        return int(name.split(".")[2]) + (".mlp." in name)
    return {"gpt_neox.embed_in.weight": 0, "embed_out.weight": layers + 1}.get(name, layers)


def write(folder: Path, shape: synthetic.Shape) -> dict[str, float]:
    """The checkpoint, its files on the disk before the clock stops: {"bytes", "seconds"}."""
    start = time.perf_counter()
    total = 0
    index = {}
    folder.mkdir(parents=True)
    for file, layout in layouts(shape).items():
        index |= dict.fromkeys(layout, file)
        total += data_bytes(layout)
        with (folder / file).open("wb", buffering=0) as out:
            out.write(header_of(layout, {}))
            for name, (dtype, size) in layout.items():
                for piece in numbers(name, dtype, size, shape.layers):
                    out.write(piece)
        print(f"{file}, {total / 1e9 / (time.perf_counter() - start):.2f} GB/s", flush=True)
    about = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(about))
    config = shape.config() | {"torch_dtype": "float16", "bos_token_id": 0, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    sync()
    return {"bytes": total, "seconds": time.perf_counter() - start}


def numbers(
    name: str, dtype: torch.dtype, size: tuple[int, ...], layers: int
) -> Iterator[memoryview]:
    """Yield a tensor's bytes in pieces: the random block, repeated from an offset of its own."""
    count = torch.Size(size).numel()
    if not name.endswith(("weight", "bias")) or len(size) in (0, 4):  # buffers, which are not read
        yield memoryview(torch.zeros(count, dtype=dtype).view(torch.uint8).numpy())
        return
    block = random_block(*synthetic.scale(name, size, layers))
    first = zlib.crc32(name.encode()) % BLOCK
    while count:
        piece = block[first : first + count]
        yield memoryview(piece.view(torch.uint8).numpy())
        count = count - len(piece)
        first = 0


@lru_cache
def random_block(mean: float, spread: float) -> torch.Tensor:
    """BLOCK normal numbers."""
    generator = torch.Generator().manual_seed(synthetic.SEED)
    return torch.randn(BLOCK, generator=generator).mul_(spread).add_(mean).half()


def check_disk(folder: Path, needed: int) -> None:
    """Ends the program where the disk has no room, and says how much it has."""
    free = shutil.disk_usage(folder).free
    print(
        f"{folder}: {free / 1e9:.0f} GB free; {needed / 1e9:.0f} GB are needed, "
        f"{MARGIN / 1e9:.0f} of them to spare"
    )
    if free < needed:
        sys.exit("too little: free some, or give a folder on another disk with --folder")


def measure(folder: Path, shape: synthetic.Shape, threads: int) -> dict[str, Any]:
    """Each part in a fresh process, the files out of the page cache before it."""
    result: dict[str, Any] = {
        "bandwidth": [read_bandwidth(threads)],
        "write": write(folder / "whole", shape),
    }
    common = {"model_dir": str(folder / "whole"), "threads": threads}
    result["disk"] = [disk_rate(folder / "whole")]
    result["decode"] = job(
        "decode", **common, dtype="bfloat16", quant="int4", prompt=128, tokens=17
    )
    result["bandwidth"] += [read_bandwidth(threads) for _ in range(READINGS)]
    result["disk"].append(disk_rate(folder / "whole"))
    result["part"] = job("part", **common, dtype="float16", rank=0, size=RANKS)
    shutil.rmtree(folder / "whole")
    quarter = synthetic.Shape(shape.layers // RANKS, shape.hidden, shape.heads, shape.vocab)
    result["quarter"] = write(folder / "quarter", quarter)
    forget(folder)
    result["shard"] = job(
        "shard", src=str(folder / "quarter"), dst=str(folder / "cut"), world_size=RANKS
    )
    forget(folder)
    result["origin"] = job("origin", model_dir=str(folder / "cut"))
    return result


def disk_rate(folder: Path) -> float:
    """Return the GB/s at which weight files outside the page cache are read.

    They are not in it afterwards.
    """
    forget(folder)
    files = sorted(folder.glob("*.safetensors"))[:SAMPLE]
    start = time.perf_counter()
    remember(*files)
    seconds = time.perf_counter() - start
    forget(folder)
    return sum(file.stat().st_size for file in files) / seconds / 1e9


def markdown(result: dict[str, Any]) -> str:
    """The figures as a table."""
    m = result["machine"]
    setting = (
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, {m['memory_gb']:.0f} GB of "
        "memory, each part in a fresh process with the files out of the page cache. "
        f"{load_average(result['others'])}"
    )
    head = [setting, "", "| GPT-NeoX-20B's shape | |", "|---|---|"]
    rows = (f"| {what} | {figures} |" for what, figures in _figures(result).items())
    return "\n".join([*head, *rows, ""])


def _figures(result: dict[str, Any]) -> dict[str, str]:
    decode = result["decode"]
    part = result["part"]
    shard = result["shard"]
    origin = result["origin"]
    disk = result["disk"]
    size = result["write"]["bytes"]
    read = f"its files alone are read at {min(disk):.2f} to {max(disk):.2f} GB/s"
    loaded = f"{_rate(size, decode['load_s'])}; {read}; {_peak(decode)}"
    cut = _rate(result["quarter"]["bytes"], shard["shard_s"])
    compared = _rate(2 * result["quarter"]["bytes"], origin["origin_s"])  # both are read
    return {
        "checkpoint written": _rate(size, result["write"]["seconds"]),
        "loaded packed to int4": loaded,
        "first token after a prompt of 128": f"{decode['first_ms'] / 1e3:.2f} s",
        "next token": _next_token(decode, max(result["bandwidth"])),
        f"rank 0's part of {RANKS} in float16": (
            f"{_rate(part['bytes'], part['load_s'])}; {_peak(part)}"
        ),
        f"a quarter of the layers cut for {RANKS} ranks": f"{cut}; {_peak(shard)}",
        "every tensor of that cut compared with the source": f"{compared}; {_peak(origin)}",
    }


def _next_token(decode: dict[str, Any], bandwidth: float) -> str:
    limit = decode["bytes"] / bandwidth / 1e6  # ms
    return (
        f"{decode['next_ms'] / 1e3:.3f} s, {limit / decode['next_ms']:.0%} of what memory allows: "
        f"{decode['bytes'] / 1e9:.1f} GB of weights at {bandwidth:.0f} GB/s are "
        f"{limit / 1e3:.3f} s"
    )


def _peak(about: dict[str, Any]) -> str:
    return (
        f"peak of resident memory {about['rss_gb']:.1f} GB, "
        f"{about['own_gb']:.1f} GB of it no file's"
    )


def _rate(count: float, seconds: float) -> str:
    return f"{count / 1e9:.1f} GB in {seconds:.0f} s, {count / 1e9 / seconds:.2f} GB/s"


def main() -> None:
    out = ROOT / "outputs" / "bench"
    options = parser("benchmarks.big", __doc__.splitlines()[0], out)
    options.add_argument("--folder", type=Path, help="where to write, else a folder of --out")
    options.add_argument(
        "--layers", type=int, default=SHAPE.layers, help="fewer, to try the program"
    )
    options.add_argument(
        "--hidden", type=int, default=SHAPE.hidden, help="smaller, to try the program"
    )
    asked = options.parse_args()
    shape = synthetic.Shape(asked.layers, asked.hidden, SHAPE.heads, SHAPE.vocab)
    asked.out.mkdir(parents=True, exist_ok=True)
    folder = (asked.folder or asked.out).absolute() / "neox-20b"
    shutil.rmtree(folder, ignore_errors=True)  # what a kill left
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_disk(folder.parent, sum(map(data_bytes, layouts(shape).values())) + MARGIN)
    end_well()
    others = Others()
    try:
        result = measure(folder, shape, asked.threads) | {
            "machine": machine(),
            "others": others.about(),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (asked.out / "big.json").write_text(json.dumps(result, indent=1))
    (asked.out / "big.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
