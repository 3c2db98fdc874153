"""Does cutting run at the speed of `cp`, and loading faster than transformers? Paired, in turns, in fresh processes.

Writes outputs/bench/load.json and load.md.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic
from benchmarks.machine import Others, load_average, machine
from benchmarks.outside import ROOT, each, end_well, forget, job, parser, remember, run, sync

STATES = {"cold": forget, "warm": remember}


def measure(src: Path, dst: Path, state: str, threads: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Every piece of work `rounds` times, in turns; the source's files out of, or in, the page cache each time."""

    def before() -> None:
        shutil.rmtree(dst, ignore_errors=True)
        sync()
        STATES[state](src)

    common = {"model_dir": str(src), "threads": threads, "dtype": "bfloat16"}
    copy = f"cp -r {src} {dst}"
    work = {
        "cp": lambda: run(["sh", "-c", copy]),
        "cp, on the disk": lambda: run(["sh", "-c", f"{copy} && sync {dst}/*"]),
        "shard, 1 rank": lambda: job("shard", src=str(src), dst=str(dst), world_size=1),
        "shard, 4 ranks": lambda: job("shard", src=str(src), dst=str(dst), world_size=4),
        "load": lambda: job("load", **common),
        "from_pretrained": lambda: job("from_pretrained", **common),
    }
    return each(work, rounds, before)


def markdown(result: dict[str, Any]) -> str:
    """Medians, and the span of the rounds, by shape and state of the page cache."""
    m = result["machine"]
    head = ("model", "page cache", "", "s (span)", "GB/s", "ready, s", "peak memory, GB", "no file's")
    lines = [
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, {m['memory_gb']:.0f} GB of memory; bfloat16. "
        "`shard` returns when its files are on the disk, with their sha256 taken; `cp` returns before that. Ready is "
        f"a first token computed, when every weight was read. {load_average(result['others'])}",
        "", _line(head), _line(["---"] * 3 + ["---:"] * 5),
    ]  # fmt: skip
    for entry in result["runs"]:
        size = entry["bytes"] / 1e9
        for name, runs in entry["results"].items():
            lines.append(_line([f"{size:.1f} GB", entry["state"], name, *_cells(size, runs)]))
    return "\n".join(lines) + "\n"


def _cells(size: float, runs: list[dict[str, Any]]) -> list[str]:
    """A piece's own time where it took one, which leaves the start of Python out."""
    key = next(key for key in ("load_s", "shard_s", "seconds") if key in runs[0])
    times = [run[key] for run in runs]
    ready = f"{median(run['ready_s'] for run in runs):.2f}" if "ready_s" in runs[0] else ""
    peaks = [f"{max(run[key] for run in runs):.2f}" for key in ("rss_gb", "own_gb")]
    span = f"{median(times):.2f} ({min(times):.2f}–{max(times):.2f})"
    return [span, f"{size / median(times):.2f}", ready, *peaks]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    options = parser("benchmarks.load", __doc__.splitlines()[0], ROOT / "outputs" / "bench")
    options.add_argument("--shapes", nargs="+", default=["410m", "1b"], help="as for the peers; two show what grows")
    options.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    end_well()
    others, runs = Others(), []
    for text in asked.shapes:
        shape, folder = synthetic.shape_of(text), asked.out.absolute() / "load"
        try:
            src = synthetic.write(folder / "src", shape, "bfloat16")
            size = sum(path.stat().st_size for path in src.iterdir())
            for state in asked.states:
                results = measure(src, folder / "dst", state, asked.threads, asked.rounds)
                runs.append({"shape": text, "bytes": size, "state": state, "results": results})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    result = {"machine": machine(), "others": others.about(), "runs": runs}
    (asked.out / "load.json").write_text(json.dumps(result, indent=1))
    (asked.out / "load.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
