"""Cutting beside `cp`, and loading beside transformers: in turns, in fresh processes, paired.

Writes outputs/bench/load.json and load.md.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic
from benchmarks.machine import Others, load_average, machine
from benchmarks.outside import ROOT, each, end_well, forget, job, parser, remember, run, sync

STATES = {"cold": forget, "warm": remember}
STORED = "float16"
WIDE = "float32"  # the files' dtype; what is loaded as it is stored, and widened
SETTLE = 4  # seconds: a virtual machine gives freed memory back, and its next user pays for that
DISK = "cp, on the disk"
# Each piece of work, the peer it is measured against in each round, and the time compared.
AGAINST = {
    DISK: (("cp",), "own_s"),
    "shard, 1 rank": ((DISK, "cp"), "own_s"),
    "shard, 4 ranks": ((DISK, "cp"), "own_s"),
    f"load, {WIDE}": ((f"from_pretrained, {WIDE}",), "ready_s"),
    f"load, {STORED}": ((f"from_pretrained, {STORED}",), "ready_s"),
}


def measure(
    src: Path, dst: Path, state: str, threads: int, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Do all work `rounds` times, in turns, the source out of or in the page cache each time."""

    def before() -> None:
        shutil.rmtree(dst, ignore_errors=True)
        sync()
        time.sleep(SETTLE)
        STATES[state](src)

    results = each(_work(src, dst, threads), rounds, before)
    for found in (found for runs in results.values() for found in runs):
        times = (found[key] for key in ("load_s", "shard_s", "seconds") if key in found)
        found["own_s"] = next(times)  # without Python's start
    return results


def _work(src: Path, dst: Path, threads: int) -> dict[str, Callable[[], dict[str, Any]]]:
    common = {"model_dir": str(src), "threads": threads}
    copy = f"cp -r {src} {dst}"
    return {
        "cp": lambda: run(["sh", "-c", copy]),
        DISK: lambda: run(["sh", "-c", f"{copy} && sync {dst}/*"]),
        "shard, 1 rank": lambda: job("shard", src=str(src), dst=str(dst), world_size=1),
        "shard, 4 ranks": lambda: job("shard", src=str(src), dst=str(dst), world_size=4),
        f"from_pretrained, {WIDE}": lambda: job("from_pretrained", **common, dtype=WIDE),
        f"load, {WIDE}": lambda: job("load", **common, dtype=WIDE),
        f"from_pretrained, {STORED}": lambda: job("from_pretrained", **common, dtype=STORED),
        f"load, {STORED}": lambda: job("load", **common, dtype=STORED),
        "load, int4": lambda: job("load", **common, dtype="bfloat16", quant="int4"),
    }


def ratios(results: dict[str, list[dict[str, Any]]]) -> dict[str, list[list[float]]]:
    """Return how many times as fast as each of its peers each piece of work was, by round."""
    return {
        name: [
            [
                theirs[key] / ours[key]
                for ours, theirs in zip(results[name], results[peer], strict=True)
            ]
            for peer in peers
        ]
        for name, (peers, key) in AGAINST.items()
    }


def markdown(result: dict[str, Any]) -> str:
    """A line for each piece of work, a column for each model and state of the page cache."""
    m = result["machine"]
    runs = result["runs"]
    sizes = [f"{run['bytes'] / 1e9:.1f} GB" for run in runs]
    head = [f"{size}, {run['state']}" for size, run in zip(sizes, runs, strict=True)]
    peaks = ", ".join(dict.fromkeys(sizes))
    rounds = len(runs[0]["results"]["cp"])
    lines = [
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, {m['memory_gb']:.0f} GB of "
        f"memory, neoxlib {m['git']}: medians of {rounds} rounds, "
        f"the files ({STORED}) out of the page cache (cold) or in it (warm); × is how many times "
        "as fast as its peer, with the span of the rounds. `shard` returns when its files are on "
        "the "
        "disk, with their sha256 taken; `cp` while they are in memory, unless `sync` follows (on "
        "the disk). Loads are timed to a first token, when every weight was read; settled: when "
        "all are in memory of the model's own, in its dtype and in large pages, which goes on in "
        "the background. Peak memory is the part that is no file's. "
        f"{load_average(result['others'])}",
        "",
        _line(["", "beside", *head, f"peak, GB, of {peaks}"]),
        _line(["---"] * 2 + ["---:"] * (len(head) + 1)),
    ]
    for name in runs[0]["results"]:
        cells = [_cell(run["results"][name], run["ratios"].get(name)) for run in runs]
        lines.append(
            _line([name, "; ".join(AGAINST.get(name, ((),))[0]), *cells, _peaks(name, sizes, runs)])
        )
    return "\n".join(lines) + "\n"


def _cell(found: Sequence[dict[str, Any]], faster: Sequence[Sequence[float]] | None) -> str:
    words = [f"{median(one.get('ready_s', one['own_s']) for one in found):.2f} s"]
    words += [f"{median(times):.2f}× ({min(times):.2f}–{max(times):.2f})" for times in faster or ()]
    words += (
        [f"settled after {median(one['settled_s'] for one in found):.1f} s"]
        if "settled_s" in found[0]
        else []
    )
    return "; ".join(words)


def _peaks(name: str, sizes: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    most: dict[str, float] = {}
    for size, entry in zip(sizes, runs, strict=True):
        most[size] = max(
            [most.get(size, 0), *(found["own_gb"] for found in entry["results"][name])]
        )
    return ", ".join(f"{peak:.2f}" for peak in most.values())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    options = parser("benchmarks.load", __doc__.splitlines()[0], ROOT / "outputs" / "bench")
    shapes = ["410m", "24x2048x16"]  # 0.8 and 2.8 GB
    options.add_argument(
        "--shapes", nargs="+", default=shapes, help="as for the peers; two show what grows"
    )
    options.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    end_well()
    others = Others()
    runs = []
    for text in asked.shapes:
        shape = synthetic.shape_of(text)
        folder = asked.out.absolute() / "load"
        try:
            src = synthetic.write(folder / "src", shape, STORED)
            size = sum(path.stat().st_size for path in src.iterdir())
            for state in asked.states:
                results = measure(src, folder / "dst", state, asked.threads, asked.rounds)
                about = {"shape": text, "bytes": size, "state": state}
                runs.append(about | {"results": results, "ratios": ratios(results)})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    result = {"machine": machine(), "others": others.about(), "runs": runs}
    (asked.out / "load.json").write_text(json.dumps(result, indent=1))
    (asked.out / "load.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
