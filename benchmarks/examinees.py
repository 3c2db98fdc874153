"""Answer an exam with neoxlib, any of its savings off, or with lm-eval. One job per process.

The last line of output is a JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

LETTERS = "ABCD"


@dataclass(frozen=True)
class Paper:
    """The questions to ask: the first `limit` questions of some subjects of a benchmark."""

    task: str  # ceval or mmlu
    data_dir: str
    split: str
    subjects: tuple[str, ...]
    limit: int
    shots: int = 5

    def first(self) -> "Paper":
        """Its first question, to warm up with."""
        return replace(self, subjects=self.subjects[:1], limit=1)


# The parts that are switched off. The first entry is neoxlib as it is.
WITHOUT = {
    "": {},
    "shared beginnings": {"MIN_SHARED_TOKENS": 10**12},
    "batches": {"BATCH_TOKENS": 1},
    "one row for all choices": {},
    "compiled kernels": {},
}


def neoxlib(
    model_dir: str, papers: list[dict], threads: int, dtype: str, without: str
) -> dict[str, Any]:
    """Run `exam.evaluate` under the profile lm_eval, after one question of each paper."""
    import torch

    from neoxlib import exam as exam_exam
    from neoxlib import load
    from neoxlib.inference import score

    torch.set_num_threads(threads)
    engine = load(model_dir, dtype=dtype, compile=without != "compiled kernels")
    engine.wait_until_resident()
    if without == "one row for all choices":
        engine.score_ids = choice_by_choice(engine.score_ids)
    with ExitStack() as stack:
        for name, value in WITHOUT[without].items():
            stack.enter_context(patch.object(score, name, value))
        return sit(
            papers,
            lambda exam: exam_exam.evaluate(
                engine, exam, exam_exam.get_profile("lm_eval", exam.name)
            ),
        )


def choice_by_choice(ask: Any) -> Any:
    """`score_ids` that reads each prompt once for each of its four letters."""

    def score_ids(requests: list, **options: Any) -> list:
        parts = [ask(requests[n :: len(LETTERS)], **options) for n in range(len(LETTERS))]
        return [score for row in zip(*parts, strict=True) for score in row]

    return score_ids


def sit(papers: list[dict], evaluate: Callable[[Any], Any]) -> dict[str, Any]:
    """Questions, seconds, and what was answered, paper by paper; reading the files is not timed."""
    found = {}
    for paper in [Paper(**entry) for entry in papers]:
        evaluate(read(paper.first()))
        exam = read(paper)
        start = time.perf_counter()
        results = evaluate(exam)
        seconds = time.perf_counter() - start
        logprobs = results[[f"logprob_{letter}" for letter in LETTERS]].to_numpy().tolist()
        found[paper.task] = {
            "seconds": seconds,
            "questions": len(results),
            "predicted": results["predicted"].tolist(),
            "logprobs": logprobs,
            "shots": results["shots_used"].tolist(),
            "tokens": results["prompt_tokens"].tolist(),
        }
    return found


def read(paper: Paper) -> Any:
    """The questions and examples, as neoxlib reads them for both."""
    from neoxlib import exam as exam_exam

    exam = exam_exam.load_task(
        paper.task, paper.data_dir, paper.split, list(paper.subjects), paper.shots
    )
    few = exam.questions.groupby("subject", sort=False).head(paper.limit).reset_index(drop=True)
    return replace(exam, questions=few)


def harness(
    model_dir: str, papers: list[dict], threads: int, dtype: str, batch_size: int
) -> dict[str, Any]:
    """lm-evaluation-harness with `--model hf` on the same rows, by its own tasks."""
    import torch
    from lm_eval.api.registry import get_model

    torch.set_num_threads(threads)
    model = get_model("hf")(pretrained=model_dir, device="cpu", dtype=dtype, batch_size=batch_size)
    found = {}
    for paper in [Paper(**entry) for entry in papers]:
        answer(model, read(paper.first()))
        exam = read(paper)
        start = time.perf_counter()
        samples = answer(model, exam)
        seconds = time.perf_counter() - start
        logprobs = [[logprob for logprob, _ in sample["filtered_resps"]] for sample in samples]
        predicted = [LETTERS[row.index(max(row))] for row in logprobs]
        found[paper.task] = {
            "seconds": seconds,
            "questions": len(samples),
            "predicted": predicted,
            "logprobs": logprobs,
        }
    return found


def answer(model: Any, exam: Any) -> list[dict[str, Any]]:
    """lm-eval's samples in the order of the exam's questions."""
    from tests.support.lm_eval_tasks import run

    rows = exam.questions.to_dict("records")
    splits = {
        subject: {
            "dev": [as_doc(exam.name, row, row["answer"]) for row in exam.examples[subject]],
            exam.split: [
                as_doc(exam.name, row, row["expected"]) for row in rows if row["subject"] == subject
            ],
        }
        for subject in exam.subjects
    }
    name = {"ceval": "ceval-valid_{}", "mmlu": "mmlu_{}"}[exam.name]
    samples = run(
        model, {name.format(subject): several for subject, several in splits.items()}, exam.shots
    )
    return [
        s
        for subject in exam.subjects
        for s in sorted(samples[name.format(subject)], key=lambda s: s["doc_id"])
    ]


def as_doc(task: str, row: dict[str, str], expected: str) -> dict[str, Any]:
    """A row as the hub's data sets have it."""
    if task == "mmlu":
        choices = [row[letter] for letter in LETTERS]
        return {"question": row["question"], "choices": choices, "answer": LETTERS.index(expected)}
    return {
        "question": row["question"],
        **{letter: row[letter] for letter in LETTERS},
        "answer": expected,
    }


def tokenizer(folder: Path, texts: list[str], size: int) -> None:
    """A byte-level BPE tokenizer of `size` ids, made from `texts`, into a model's folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {
        "special_tokens": ["<|endoftext|>"],
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, **settings))
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained(
        folder
    )


if __name__ == "__main__":
    print(
        json.dumps({"neoxlib": neoxlib, "harness": harness}[sys.argv[1]](**json.loads(sys.argv[2])))
    )
