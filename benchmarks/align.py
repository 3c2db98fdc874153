"""What looking inside costs: decode with taps off, captures, and the reference that judges them.

Every piece of work is in a fresh process, by turns. Writes outputs/bench/align.json and align.md.
The checkpoints, of random weights, are removed at the end.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import big, synthetic
from benchmarks.machine import Others, load_average, machine
from benchmarks.outside import ROOT, each, end_well, job, parser, remember, sync

STATES = ("never set", "set and removed", "align imported")
KINDS = {"taps off": "", "statistics": "statistics", "tensors": "tensors"}
ROWS, LENGTH = 2, 72  # of the captures; the last eight tokens are decode steps
LAYERS = 2  # of GPT-NeoX-20B's shape


def off(src: Path, threads: int, dtype: str, tokens: int, rounds: int) -> dict[str, list[Any]]:
    """Decode in each state, by turns."""
    given = {"model_dir": str(src), "threads": threads, "dtype": dtype}
    work = {
        state: lambda state=state: job("decode_off", **given, state=state, prompt=32, tokens=tokens)
        for state in STATES
    }
    return each(work, rounds, lambda: remember(src))


def on(src: Path, threads: int, dtype: str, vocab: int, rounds: int) -> dict[str, Any]:
    """The same passes without and with each kind of capture, by turns, and the reference once."""
    rows = synthetic.prompts({"batch": ROWS, "prompt": LENGTH}, vocab)
    given = {"model_dir": str(src), "threads": threads, "dtype": dtype, "rows": rows}
    folder = src.with_name("capture")

    def work(kind: str) -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        found = job("look", **given, kind=kind, folder=str(folder))
        files = [path for path in folder.rglob("*.safetensors") if path.is_file()]
        sizes = [path.stat().st_size for path in files]
        return found | {"bytes": sum(sizes), "largest": max(sizes, default=0)}

    pieces = {name: lambda kind=kind: work(kind) for name, kind in KINDS.items()}
    results = each(pieces, rounds, lambda: remember(src))
    work("tensors")  # the last round may have ended with another kind
    sync()
    return {"captures": results, "reference": job("hold", threads=threads, folder=str(folder))}


def markdown(result: dict[str, Any]) -> str:
    """Two tables: decode with taps off, and what captures and the reference take."""
    m = result["machine"]
    rounds = len(result["off"][STATES[0]])
    head = (
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, neoxlib {m['git']}, "
        f"{result['dtype']}, every piece of work in a fresh process and by turns. "
        f"{load_average(result['others'])}"
    )
    lines = [
        head,
        "",
        f"Decode of one row of the {result['shape']} shape, medians of {rounds} rounds of "
        f"{result['tokens']} tokens; the ratio is that of each round to taps that were never set, "
        "with the span of the rounds:",
        "",
        "| taps | tokens/s | as fast as never set |",
        "| --- | ---: | ---: |",
        *(_off_line(state, result["off"]) for state in STATES),
        "",
        f"Captures of {ROWS} rows of {LENGTH - 8} tokens and 8 forced decode steps, in compiled "
        "kernels. Memory is the peak of a process that is no file's, and what it is more than "
        "with taps off; a file holds one layer of one pass. The reference computes every step in "
        "float64, one layer of the checkpoint at a time:",
        "",
        "| shape | work | seconds | written | largest file | peak memory |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(line for shape, found in result["on"].items() for line in _on_lines(shape, found)),
    ]
    return "\n".join(lines) + "\n"


def _off_line(state: str, found: dict[str, list[dict[str, float]]]) -> str:
    speeds = [one["tokens_per_s"] for one in found[state]]
    usual = [one["tokens_per_s"] for one in found[STATES[0]]]
    ratios = [mine / theirs for mine, theirs in zip(speeds, usual, strict=True)]
    span = f"{median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
    return f"| {state} | {median(speeds):.1f} | {'–' if state == STATES[0] else span} |"


def _on_lines(shape: str, found: dict[str, Any]) -> list[str]:
    base = found["captures"]["taps off"]
    usual = median(one["own_gb"] for one in base)
    lines = []
    for name, runs in found["captures"].items():
        pairs = zip(runs, base, strict=True)
        times = [mine["passes_s"] / theirs["passes_s"] for mine, theirs in pairs]
        peak = median(one["own_gb"] for one in runs)
        seconds = f"{median(one['passes_s'] for one in runs):.2f}"
        if name != "taps off":
            seconds += f"; {median(times):.2f} × off ({min(times):.2f}–{max(times):.2f})"
        more = "" if name == "taps off" else f", {peak - usual:+.2f}"
        written, largest = (f"{runs[-1][key] / 1e6:.1f} MB" for key in ("bytes", "largest"))
        lines.append(
            f"| {shape} | {name} | {seconds} | {written} | {largest} | {peak:.2f} GB{more} |"
        )
    last = found["reference"]
    seconds = f"{last['hold_s']:.1f}"
    lines.append(f"| {shape} | the reference | {seconds} | – | – | {last['own_gb']:.2f} GB |")
    return lines


def measure(folder: Path, asked: Any, keep: Callable[[dict[str, Any]], None]) -> None:
    """All of it, kept after each part; checkpoints are written into `folder`."""
    shape = synthetic.shape_of(asked.shape)
    src = synthetic.write(folder / "off", shape, asked.dtype)
    result = {"off": off(src, asked.threads, asked.dtype, asked.tokens, asked.rounds), "on": {}}
    keep(result)
    rounds = max(1, asked.rounds // 2)
    result["on"][asked.shape] = on(src, asked.threads, asked.dtype, shape.vocab, rounds)
    keep(result)
    shutil.rmtree(src)
    wide = synthetic.Shape(asked.layers, asked.hidden, big.SHAPE.heads, big.SHAPE.vocab)
    src = folder / "neox-20b"
    big.write(src, wide)
    name = f"GPT-NeoX-20B's, {wide.layers} layers"
    result["on"][name] = on(src, asked.threads, "float16", wide.vocab, 1)
    keep(result)


def main() -> None:
    options = parser("benchmarks.align", __doc__.splitlines()[0], ROOT / "outputs" / "bench")
    options.add_argument("--shape", default="410m", help="as for the peers")
    options.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32", "float16"))
    options.add_argument("--tokens", type=int, default=96)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--layers", type=int, default=LAYERS, help="of GPT-NeoX-20B's shape")
    options.add_argument("--hidden", type=int, default=big.SHAPE.hidden, help="smaller, to try it")
    asked = options.parse_args()
    end_well()
    asked.out.mkdir(parents=True, exist_ok=True)
    folder = asked.out.absolute() / "align"
    shutil.rmtree(folder, ignore_errors=True)  # what a kill left
    others = Others()
    about = {"shape": asked.shape, "dtype": asked.dtype, "tokens": asked.tokens}

    def keep(result: dict[str, Any]) -> None:
        whole = result | about | {"machine": machine(), "others": others.about()}
        (asked.out / "align.json").write_text(json.dumps(whole, indent=1))
        (asked.out / "align.md").write_text(markdown(whole))

    try:
        measure(folder, asked, keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print((asked.out / "align.md").read_text())


if __name__ == "__main__":
    main()
