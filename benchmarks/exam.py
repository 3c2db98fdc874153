"""Questions per second of neoxlib and of lm-eval with transformers, on the same exams, model, dtype and machine.

By turns in fresh processes; then neoxlib with each of its savings switched off. Answers must be the same.
Writes outputs/bench/exam.json and exam.md.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic
from benchmarks.examinees import WITHOUT, Paper, read, tokenizer
from benchmarks.machine import Others, load_average, machine
from benchmarks.outside import ROOT, each, end_well, parser, run

DATA = Path(os.environ.get("NEOXLIB_TEST_DATA", ROOT.parent / "shared" / "data"))
SPLIT = {"ceval": "val", "mmlu": "test"}
OURS = "neoxlib"
THEIRS = "lm-eval, transformers"
TITLES = {"ceval": "C-Eval", "mmlu": "MMLU"}
NEAR = 2e-3  # two choices whose log-probabilities are nearer than twice 1e-3 may change places by rounding


def papers(data: Path, subjects: int, limit: int) -> list[Paper]:
    """Some subjects of each benchmark, evenly spread over those that are there. SystemExit where data are absent."""
    from neoxlib.exam import load_task

    found = []
    for task, split in SPLIT.items():
        folder = data / task
        if not folder.is_dir():
            sys.exit(
                f"no {folder}: put C-Eval's and MMLU's folders there, or name theirs with --data"
            )
        there = list(load_task(task, folder, split, shots=5).subjects)
        step = max(1, len(there) // subjects)
        found.append(
            Paper(task, str(folder), split, tuple(there[step // 2 :: step][:subjects]), limit)
        )
    return found


def prepare(folder: Path, shape: synthetic.Shape, asked: Sequence[Paper], ids: int) -> Path:
    """A checkpoint of random weights, with a tokenizer made from the exams' own texts."""
    model_dir = synthetic.write(folder, shape)
    if not (folder / "exam").exists():
        (folder / "tokenizer_config.json").unlink()
        exams = [read(paper) for paper in asked]
        rows = [row for exam in exams for row in exam.questions.to_dict("records")]
        rows += [row for exam in exams for examples in exam.examples.values() for row in examples]
        tokenizer(
            folder,
            [" ".join(str(row[name]) for name in ("question", *"ABCD")) for row in rows],
            ids,
        )
        (folder / "exam").touch()
    return model_dir


def measure(
    model_dir: Path, asked: Sequence[Paper], options: argparse.Namespace, before: Any
) -> dict[str, list]:
    """name -> results of the rounds, for lm-eval, neoxlib, and neoxlib without each of its savings."""
    common = {
        "model_dir": str(model_dir),
        "papers": [asdict(paper) for paper in asked],
        "threads": options.threads,
        "dtype": options.dtype,
    }

    def job(name: str, **more: Any) -> dict[str, Any]:
        return run([sys.executable, "-m", "benchmarks.examinees", name, json.dumps(common | more)])

    work = {THEIRS: lambda: job("harness", batch_size=options.their_batch)}
    for without in WITHOUT:
        name = f"{OURS}, without {without}" if without else OURS
        work[name] = lambda without=without: job("neoxlib", without=without)
    return each(work, options.rounds, before)


def same_answers(results: dict[str, list], task: str) -> dict[str, Any]:
    """How far neoxlib's answers are lm-eval's where both read the same prompt: nothing fell off to fit the window.

    Raises SystemExit where an answer differs that no rounding explains.
    """
    ours = results[OURS][0][task]
    theirs = results[THEIRS][0][task]
    whole = [n for n, shots in enumerate(ours["shots"]) if shots == max(ours["shots"])]
    pairs = [(ours["logprobs"][n], theirs["logprobs"][n]) for n in whole]
    apart = max(abs(a - b) for pair in pairs for a, b in zip(*pair, strict=True))
    other = [n for n in whole if ours["predicted"][n] != theirs["predicted"][n]]
    torn = [
        n
        for n in other
        if sorted(theirs["logprobs"][n])[-1] - sorted(theirs["logprobs"][n])[-2] > NEAR
    ]
    if torn:
        sys.exit(
            f"{task}: {len(torn)} of {len(whole)} answers differ, the first at question {torn[0]}"
        )
    return {"compared": len(whole), "differ": len(other), "largest_difference": apart}


def rates(results: dict[str, list], task: str) -> dict[str, list[float]]:
    """Questions per second of each contender, round by round."""
    return {
        name: [r[task]["questions"] / r[task]["seconds"] for r in rounds]
        for name, rounds in results.items()
    }


def markdown(result: dict[str, Any]) -> str:
    """Where, what, the table, and whose answers were the same."""
    m = result["machine"]
    shape = result["shape"]
    lines = [
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, {result['threads']} threads, {result['dtype']}, "
        f"with a GPT-NeoX of random weights: {shape['layers']} layers, hidden {shape['hidden']}, {shape['heads']} "
        f"heads, {shape['parameters'] / 1e6:.0f} M parameters, and a tokenizer of {result['ids']} ids made from the "
        f"exams. lm-eval {result['lm_eval']} with transformers {m['transformers']}, {result['their_batch']} rows at a "
        "time. Reading files and loading are not timed; prompts, tokens and scores are. "
        f"{result['rounds']} round(s) by turns, medians with spans. {load_average(result['others'])}",
        "",
        "| exam | | questions/s (span) | times lm-eval (span) |",
        "|---|---|---:|---:|",
    ]
    for task, about in result["exams"].items():
        for name, measured in about["rates"].items():
            times = [
                ours / theirs for ours, theirs in zip(measured, about["rates"][THEIRS], strict=True)
            ]
            lines.append(f"| {TITLES[task]} | {name} | {_span(measured)} | {_span(times)} |")
    for task, about in result["exams"].items():
        same = about["same"]
        tokens = about["tokens"]
        lines += [
            "",
            (
                f"{TITLES[task]}: {about['questions']} questions of {', '.join(about['subjects'])}, five examples, "
                f"{min(tokens)} to {max(tokens)} tokens a prompt. Of {same['compared']} prompts that fit whole, "
                f"{same['differ']} were answered otherwise than by lm-eval; log-likelihoods differ by "
                f"{same['largest_difference']:.1e} at most."
            ),
        ]
    return "\n".join(lines) + "\n"


def _span(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    options = parser("benchmarks.exam", __doc__.splitlines()[0], ROOT / "outputs" / "bench")
    options.add_argument(
        "--data", type=Path, default=DATA, help="folder that holds ceval/ and mmlu/"
    )
    options.add_argument("--shape", default="160m", help="as for the peers")
    options.add_argument(
        "--ids",
        type=int,
        default=1500,
        help="of the tokenizer: 1500 make 1.2 of a Chinese character",
    )
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--subjects", type=int, default=4, help="of each benchmark")
    options.add_argument("--limit", type=int, default=25, help="questions of each subject")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--their-batch", type=int, default=1, help="rows at a time of lm-eval; try several"
    )
    asked = options.parse_args()
    end_well()
    import lm_eval

    others = Others()
    shape = synthetic.shape_of(asked.shape)
    exams = papers(asked.data, asked.subjects, asked.limit)
    model_dir = prepare(
        asked.out.absolute() / f"exam-{shape.name}-{asked.ids}", shape, exams, asked.ids
    )
    results = measure(model_dir, exams, asked, others.wait)
    result = {
        "machine": machine(),
        "others": others.about(),
        "shape": vars(shape) | {"parameters": shape.parameters},
        "threads": asked.threads,
        "dtype": asked.dtype,
        "ids": asked.ids,
        "lm_eval": lm_eval.__version__,
        "their_batch": asked.their_batch,
        "rounds": asked.rounds,
        "exams": {
            paper.task: {
                "subjects": paper.subjects,
                "questions": results[OURS][0][paper.task]["questions"],
                "tokens": results[OURS][0][paper.task]["tokens"],
                "rates": rates(results, paper.task),
                "same": same_answers(results, paper.task),
            }
            for paper in exams
        },
    }
    (asked.out / "exam.json").write_text(json.dumps(result, indent=1))
    (asked.out / "exam.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
