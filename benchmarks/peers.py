"""neoxlib beside transformers, CTranslate2 and llama.cpp: the same work, in one run, turn by turn.

Each contender has its own process and the same number of threads. All those of a precision are
loaded at once and take turns: one generation each, then the next round in another order. A
disturbance of the machine then hits all of them.
Writes outputs/bench/peers.json, peers.md and peers.svg.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import picture, synthetic, table
from benchmarks.machine import Others, machine, read_bandwidth
from benchmarks.pool import ROOT, Contender, Failed, Pool

OUT = ROOT / "outputs" / "bench"
PYTHONS = {"own": Path(sys.executable), "peers": ROOT / ".venv-peers" / "bin" / "python"}
PATIENCE = 900  # seconds for one answer

CONTENDERS = (
    Contender("transformers", "fp32", "Transformers", {"dtype": "float32"}),
    Contender("CTranslate2", "fp32", "CTranslate2", {"kind": "float32"}),
    Contender("llama.cpp", "fp32", "LlamaCpp", {"kind": "f32"}),
    Contender("neoxlib", "fp32", "Neoxlib", {"dtype": "float32"}),
    Contender(
        "transformers, 2 ranks", "fp32", "TransformersRanks", {"dtype": "float32", "ranks": 2}
    ),
    Contender("neoxlib, 2 ranks", "fp32", "NeoxlibRanks", {"dtype": "float32", "ranks": 2}),
    Contender("transformers", "bf16", "Transformers", {"dtype": "bfloat16"}),
    Contender("CTranslate2", "bf16", "CTranslate2", {"kind": "bfloat16"}),
    Contender("llama.cpp", "bf16", "LlamaCpp", {"kind": "bf16"}),
    Contender("neoxlib", "bf16", "Neoxlib", {"dtype": "bfloat16"}),
    Contender(
        "transformers, 2 ranks", "bf16", "TransformersRanks", {"dtype": "bfloat16", "ranks": 2}
    ),
    Contender("neoxlib, 2 ranks", "bf16", "NeoxlibRanks", {"dtype": "bfloat16", "ranks": 2}),
    Contender("CTranslate2", "8 bit", "CTranslate2", {"kind": "int8"}),
    Contender("llama.cpp", "8 bit", "LlamaCpp", {"kind": "q8_0"}),
    Contender("neoxlib", "8 bit", "Neoxlib", {"dtype": "bfloat16", "quant": "int8"}),
    Contender(
        "neoxlib, 2 ranks",
        "8 bit",
        "NeoxlibRanks",
        {"dtype": "bfloat16", "quant": "int8", "ranks": 2},
    ),
    Contender("llama.cpp", "4 bit", "LlamaCpp", {"kind": "q4_0"}),
    Contender("neoxlib", "4 bit", "Neoxlib", {"dtype": "bfloat16", "quant": "int4"}),
    Contender(
        "neoxlib, 2 ranks",
        "4 bit",
        "NeoxlibRanks",
        {"dtype": "bfloat16", "quant": "int4", "ranks": 2},
    ),
)


@dataclass(frozen=True)
class Case:
    """`batch` prompts of `prompt` tokens, each continued by `tokens`; measured `rounds` times."""

    batch: int
    prompt: int
    tokens: int
    rounds: int

    @property
    def key(self) -> str:
        return table.case_key(self.batch, self.prompt)


CASES = (Case(1, 128, 64, 9), Case(1, 1024, 32, 3), Case(8, 128, 32, 3), Case(32, 128, 16, 3))
WARM_UP = {"batch": 1, "prompt": 128, "tokens": 4}
SLOW = 60  # seconds: who takes longer for a turn has only one


class Bench:
    """A run in progress: the measurements so far, and the first answers, for comparison."""

    def __init__(self, shape: synthetic.Shape, pool: Pool, threads: int, out: Path) -> None:
        self.shape = shape
        self.pool = pool
        self.threads = threads
        self.out = out
        self.others = Others()
        self.bandwidths = [read_bandwidth(threads)]
        self.records: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        self.reference: dict[str, list[list[int]]] = {}
        self.machine = machine()

    def precision(self, contenders: Sequence[Contender], cases: Sequence[Case]) -> None:
        """All cases of the contenders of one precision, which stay loaded meanwhile."""
        for contender in contenders:
            self._ask(contender, WARM_UP, "load and warm-up")
        for case in cases:
            for number in range(case.rounds):
                turn = number % len(contenders)
                for contender in (*contenders[turn:], *contenders[:turn]):
                    self._turn(contender, case, number)
            self.save()
        self.bandwidths.append(read_bandwidth(self.threads))

    def _turn(self, contender: Contender, case: Case, number: int) -> None:
        if (contender.options.get("ranks") and case.batch > 1) or self._slow(contender, case):
            return
        self.others.wait()
        answer = self._ask(contender, asdict(case), case.key)
        if answer is None:
            return
        same = table.agreement(
            self.reference.setdefault(case.key, answer["tokens"]), answer["tokens"]
        )
        steps = [round(ms, 4) for ms in answer["steps_ms"]]
        self.records.append(
            {
                "name": contender.name,
                "precision": contender.precision,
                "case": case.key,
                "round": number,
                "batch": case.batch,
                "steps_ms": steps,
                "same_tokens": same,
                "tokens": case.tokens,
            }
        )
        line = f"first {steps[0]:.1f} ms, next {table.median(steps[1:]):.2f} ms"
        print(
            f"{contender.key}, {case.key}: {line}, as the reference: {same} of {case.tokens}",
            flush=True,
        )

    def _slow(self, contender: Contender, case: Case) -> bool:
        who = (contender.name, contender.precision, case.key)
        turns = [r for r in self.records if (r["name"], r["precision"], r["case"]) == who]
        return any(sum(turn["steps_ms"]) > 1e3 * SLOW for turn in turns)

    def _ask(self, contender: Contender, case: dict[str, int], what: str) -> dict[str, Any] | None:
        prompts = synthetic.prompts(case, self.shape.vocab)
        try:
            answer = self.pool.run(contender, PATIENCE, prompts=prompts, tokens=case["tokens"])
        except Failed as failure:
            row = {
                "name": contender.name,
                "precision": contender.precision,
                "case": what,
                "reason": str(failure),
            }
            if row["reason"] not in [
                known["reason"] for known in self.failures if known["name"] == contender.name
            ]:
                print(f"{contender.key}, {what}: failed: {failure}", flush=True)
            self.failures.append(row)
            return None
        return answer

    def save(self) -> dict[str, Any]:
        """Everything so far as JSON, table and picture."""
        about = [
            {"name": contender.name, "precision": contender.precision, **about}
            for contender, about in self.pool.about.items()
        ]
        result = {
            "machine": self.machine,
            "shape": asdict(self.shape) | {"parameters": self.shape.parameters},
            "threads": self.threads,
            "read_gb_s": self.bandwidths,
            "others": self.others.about(),
            "contenders": about,
            "failures": self.failures,
            "records": self.records,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "peers.json").write_text(json.dumps(result))
        (self.out / "peers.md").write_text(table.markdown(result))
        picture.picture(result, self.out / "peers.svg")
        return result


def main() -> None:
    asked = _arguments()
    shape = synthetic.shape_of(asked.shape)
    contenders = [c for c in CONTENDERS if all(word in c.key for word in asked.only)]
    rounds = asked.rounds or [case.rounds for case in CASES]
    rounds = rounds * len(CASES) if len(rounds) == 1 else rounds
    cases = [
        Case(c.batch, c.prompt, asked.tokens or c.tokens, n)
        for c, n in zip(CASES, rounds, strict=True)
    ]
    cases = [case for case in cases if case.key in asked.cases] if asked.cases else cases
    model_dir = asked.models / shape.name
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    try:
        synthetic.write(model_dir, shape)
        logs = asked.out / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        with Pool(PYTHONS, model_dir, shape.parameters, asked.threads, logs) as pool:
            bench = Bench(shape, pool, asked.threads, asked.out)
            for precision in dict.fromkeys(contender.precision for contender in contenders):
                bench.precision([c for c in contenders if c.precision == precision], cases)
                pool.close()
            bench.save()
    finally:
        if not asked.keep:
            shutil.rmtree(model_dir, ignore_errors=True)
    print((asked.out / "peers.md").read_text())
    print(asked.out / "peers.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--shape", default="410m", help="a name of synthetic.SHAPES, or LAYERSxHIDDENxHEADS[xVOCAB]"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--only", action="append", default=[], help="contenders with this in their name; repeatable"
    )
    parser.add_argument(
        "--cases", nargs="*", help="of these: " + ", ".join(case.key for case in CASES)
    )
    parser.add_argument(
        "--rounds",
        type=int,
        nargs="+",
        help="instead of each case's own number: one, or one for each",
    )
    parser.add_argument("--tokens", type=int, help="new tokens, instead of each case's own number")
    parser.add_argument("--keep", action="store_true", help="keep the models for the next time")
    parser.add_argument("--models", type=Path, default=OUT / "models", help="folder for them")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
