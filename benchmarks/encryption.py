"""What the encryption between driver and ranks costs: the start of a session, calls, large answers.

Each session is in a fresh process; by turns, its controller is told to encrypt, as it always is,
or not to, which is done here only. Writes outputs/bench/encryption.json and encryption.md.
"""

import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic
from benchmarks.machine import Others, load_average, machine
from benchmarks.outside import ROOT, each, end_well, job, parser, remember

SHAPE = synthetic.Shape(2, 256, 4, 50432)  # GPT-NeoX-20B's vocabulary; all else is small
STATES = {"encrypted": True, "not encrypted": False}
FIGURES = {  # key -> what was timed
    "start_s": "a session starts and loads, s",
    "call_ms": "a call without work, ms",
    "logits_ms": "`logits` of {mb:.0f} MB, ms",
}


def measure(src: Path, world_size: int, length: int, rounds: int) -> dict[str, list[Any]]:
    """Both kinds of session, by turns."""
    rows = synthetic.prompts({"batch": 1, "prompt": length}, SHAPE.vocab)
    given = {"model_dir": str(src), "world_size": world_size, "rows": rows}
    work = {
        name: lambda encrypted=encrypted: job("session", **given, encrypted=encrypted)
        for name, encrypted in STATES.items()
    }
    return each(work, rounds, lambda: remember(src))


def markdown(result: dict[str, Any]) -> str:
    """A line for each figure: its medians, and the ratio of the rounds with their span."""
    m = result["machine"]
    found = result["rounds"]
    rounds = len(found["encrypted"])
    lines = [
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, neoxlib {m['git']}, with "
        f"{result['world_size']} ranks on CPUs of one host: medians of {rounds} sessions of each "
        "kind by turns; the ratio is that of a session to the other one of its round, with the "
        f"span of the rounds. {load_average(result['others'])}",
        "",
        "| | encrypted | not encrypted | ratio |",
        "| --- | ---: | ---: | ---: |",
        *(_line(key, title.format(mb=result["mb"]), found) for key, title in FIGURES.items()),
    ]
    return "\n".join(lines) + "\n"


def _line(key: str, title: str, found: dict[str, list[dict[str, float]]]) -> str:
    sides = [[one[key] for one in found[name]] for name in STATES]
    ratios = [mine / theirs for mine, theirs in zip(*sides, strict=True)]
    span = f"{median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
    return f"| {title} | {median(sides[0]):.2f} | {median(sides[1]):.2f} | {span} |"


def main() -> None:
    options = parser("benchmarks.encryption", __doc__.splitlines()[0], ROOT / "outputs" / "bench")
    options.add_argument("--world-size", type=int, default=2)
    options.add_argument("--length", type=int, default=512, help="tokens whose logits are asked")
    options.add_argument("--rounds", type=int, default=11)
    asked = options.parse_args()
    end_well()
    asked.out.mkdir(parents=True, exist_ok=True)
    folder = asked.out.absolute() / "encryption"
    others = Others()
    try:
        src = synthetic.write(folder, SHAPE)
        others.wait()
        rounds = measure(src, asked.world_size, asked.length, asked.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    about = {"world_size": asked.world_size, "mb": asked.length * SHAPE.vocab * 4 / 1e6}
    result = about | {"rounds": rounds, "machine": machine(), "others": others.about()}
    (asked.out / "encryption.json").write_text(json.dumps(result, indent=1))
    (asked.out / "encryption.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
