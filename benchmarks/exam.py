"""Questions per second of neoxlib and of lm-eval with transformers, on the same exams and model.

They take turns in fresh processes; then neoxlib runs with each of its savings switched off. Answers
must be the same.
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
NEAR = 2e-3  # choices whose log-probabilities are nearer than twice 1e-3 may swap by rounding


def papers(data: Path, subjects: int, limit: int) -> list[Paper]:
    """Return some subjects of each benchmark, evenly spaced over those that are there.

    Raises SystemExit if data are absent.
    """
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
    """Return name -> results of the rounds: lm-eval, neoxlib, and neoxlib without each saving."""
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
    """Compare the answers of neoxlib and lm-eval to prompts that fit the window whole.

    Raises SystemExit if an answer differs by more than rounding explains.
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
    lines = [
        _setting(result),
        "",
        "| exam | | questions/s (span) | times lm-eval (span) |",
        "|---|---|---:|---:|",
    ]
    for task, about in result["exams"].items():
        lines += [_row(task, name, about["rates"]) for name in about["rates"]]
    for task, about in result["exams"].items():
        lines += ["", _sameness(task, about)]
    return "\n".join(lines) + "\n"


def _setting(result: dict[str, Any]) -> str:
    m = result["machine"]
    shape = result["shape"]
    return (
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, {result['threads']} "
        f"threads, {result['dtype']}, with a GPT-NeoX of random weights: {shape['layers']} layers, "
        f"hidden {shape['hidden']}, {shape['heads']} heads, {shape['parameters'] / 1e6:.0f} M "
        f"parameters, and a tokenizer of {result['ids']} ids made from the exams. lm-eval "
        f"{result['lm_eval']} with transformers {m['transformers']}, {result['their_batch']} rows "
        "at a time. Reading files and loading are not timed; prompts, tokens and scores are. "
        f"{result['rounds']} round(s) by turns, medians with spans. "
        f"{load_average(result['others'])}"
    )


def _row(task: str, name: str, rates: dict[str, list[float]]) -> str:
    pairs = zip(rates[name], rates[THEIRS], strict=True)
    times = [ours / theirs for ours, theirs in pairs]
    return f"| {TITLES[task]} | {name} | {_span(rates[name])} | {_span(times)} |"


def _sameness(task: str, about: dict[str, Any]) -> str:
    same = about["same"]
    tokens = about["tokens"]
    return (
        f"{TITLES[task]}: {about['questions']} questions of {', '.join(about['subjects'])}, five "
        f"examples, {min(tokens)} to {max(tokens)} tokens a prompt. Of {same['compared']} prompts "
        f"that fit whole, {same['differ']} were answered otherwise than by lm-eval; "
        f"log-likelihoods differ by {same['largest_difference']:.1e} at most."
    )


def _span(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    asked = _options().parse_args()
    end_well()
    others = Others()
    shape = synthetic.shape_of(asked.shape)
    exams = papers(asked.data, asked.subjects, asked.limit)
    folder = asked.out.absolute() / f"exam-{shape.name}-{asked.ids}"
    model_dir = prepare(folder, shape, exams, asked.ids)
    results = measure(model_dir, exams, asked, others.wait)
    result = _about(asked, shape) | {
        "others": others.about(),
        "exams": {paper.task: _exam(paper, results) for paper in exams},
    }
    (asked.out / "exam.json").write_text(json.dumps(result, indent=1))
    (asked.out / "exam.md").write_text(markdown(result))
    print(markdown(result))


def _options() -> argparse.ArgumentParser:
    options = parser("benchmarks.exam", __doc__.splitlines()[0], ROOT / "outputs" / "bench")
    add = options.add_argument
    add("--data", type=Path, default=DATA, help="folder that holds ceval/ and mmlu/")
    add("--shape", default="160m", help="as for the peers")
    ids = "of the tokenizer: 1500 make 1.2 of a Chinese character"
    add("--ids", type=int, default=1500, help=ids)
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--subjects", type=int, default=4, help="of each benchmark")
    add("--limit", type=int, default=25, help="questions of each subject")
    add("--rounds", type=int, default=3)
    rows = "rows at a time of lm-eval; try several"
    add("--their-batch", type=int, default=1, help=rows)
    return options


def _about(asked: argparse.Namespace, shape: synthetic.Shape) -> dict[str, Any]:
    import lm_eval

    return {
        "machine": machine(),
        "shape": vars(shape) | {"parameters": shape.parameters},
        "threads": asked.threads,
        "dtype": asked.dtype,
        "ids": asked.ids,
        "lm_eval": lm_eval.__version__,
        "their_batch": asked.their_batch,
        "rounds": asked.rounds,
    }


def _exam(paper: Paper, results: dict[str, list]) -> dict[str, Any]:
    first = results[OURS][0][paper.task]
    return {
        "subjects": paper.subjects,
        "questions": first["questions"],
        "tokens": first["tokens"],
        "rates": rates(results, paper.task),
        "same": same_answers(results, paper.task),
    }


if __name__ == "__main__":
    main()
