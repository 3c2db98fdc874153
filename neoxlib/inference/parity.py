"""Does the parallel model compute what the model should? Its logits against two references.

The references are the same layers at world size 1, and a forward pass written independently.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.inference.contract import Inference
from neoxlib.inference.decode import left_pad
from neoxlib.inference.reference import reference_logits, solo_logits, weight_readers
from neoxlib.inference.rows import Answered

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

TEXTS = (
    "The model that runs on many devices must say what it says on one.",
    "分布在多个设备上的模型，必须与单个设备上的模型给出相同的结果。",
    "1, 2, 4, 8",
)
# Of each text: rounding errors show after a few, and the model is read once whatever the length.
MAX_TOKENS = 48

# Largest logit error that rounding explains, in standard deviations of the reference's logits.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-1}
# Share of positions whose most likely token must agree.
TOP1 = {"float32": 1.0, "float16": 0.98, "bfloat16": 0.9}


Where = Callable[[Inference, Sequence[Sequence[int]]], str]


@dataclass(frozen=True)
class Verdict:
    """One comparison: largest error, also in standard deviations of the logits, and agreement.

    Errors are those of logits or, where answers are judged as they were given, of log-probabilities
    per token. The other tokens are then unknown, and `top1_agreement` is None.
    """

    compared: str
    with_: str
    positions: int
    max_error: float
    relative_error: float
    tolerance: float
    top1_agreement: float | None
    passed: bool

    @property
    def detail(self) -> str:
        """The verdict in words, for a check."""
        of = "logit" if self.top1_agreement is not None else "log-probability"
        said = f"largest {of} error {self.max_error:.2e}, {self.relative_error:.1e} of the spread "
        said += f"(limit {self.tolerance:.0e})"
        return (
            said
            if self.top1_agreement is None
            else f"{said}, top-1 agreement {self.top1_agreement:.1%}"
        )


def check_parity(
    engine: Inference, run: "Run", texts: Sequence[str] = TEXTS, where: Where | None = None
) -> pd.DataFrame:
    """Compare `engine` with both references on `texts`; record the checks in `run`.

    Its first answers are judged as they were given, too: this shows errors that were there only at
    first. Where a comparison fails, `where(engine, ids)` names the step in which the numbers part;
    it is `neoxlib.align.where`. Returns the table.
    """
    about = engine.describe()
    rows = [list(engine.tokenizer(text)["input_ids"])[:MAX_TOKENS] for text in texts]
    verdicts = compare(engine, about, rows, engine.first_answers)
    failed = not all(verdict.passed for verdict in verdicts)
    place = f". {where(engine, rows)}" if failed and where else ""
    for verdict in verdicts:
        detail = verdict.detail + ("" if verdict.passed else place)
        run.check(f"parity with {verdict.with_}", verdict.passed, detail)
    table = pd.DataFrame([asdict(v) for v in verdicts]).rename(columns={"with_": "with"})
    return run.save("parity", table)


def check_weights(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], run: "Run", quant: str | None = None
) -> pd.DataFrame:
    """Record in `run` whether every tensor of the cut `dst` equals that of `src` bit for bit.

    Both are read one tensor at a time; those of `src` are quantized by `quant`, if `dst` was.
    Returns the table.
    """
    left, right = (weight_readers(open_checkpoint(folder), quant)[1] for folder in (src, dst))
    rows = [(name, _same_bits(left[name](), right[name]())) for name in left]
    table = pd.DataFrame(rows, columns=["tensor", "equal"])
    wrong = table.loc[~table["equal"], "tensor"].tolist()
    detail = f"{len(rows)} tensors compared, {len(wrong)} differ {', '.join(wrong[:5])}".strip()
    run.check("cut equals source bit for bit", not wrong, detail)
    return table.groupby("equal").count().rename(columns={"tensor": "tensors"})


def _same_bits(left: Tensor, right: Tensor) -> bool:
    as_bytes = [t.contiguous().view(torch.uint8) for t in (left, right)]
    return left.dtype == right.dtype and torch.equal(*as_bytes)


def compare(
    engine: Inference,
    about: dict[str, Any],
    rows: Sequence[list[int]],
    answered: Sequence[Answered] = (),
) -> list[Verdict]:
    """Judge the ragged batch `rows`, left-padded, and what the engine has `answered` before.

    `rows` are compared with the same layers on one rank and with plain float32, `answered` with
    plain float32.
    """
    ids, mask = left_pad(rows)  # [B, S]
    found = engine.logits(ids, mask)  # [B, S, vocab]
    found = [row[kept] for row, kept in zip(found, mask, strict=True)]
    name = ", ".join(
        filter(None, (f"world size {about['world_size']}", about["dtype"], about["quant"]))
    )
    # on_cpu.py may round what is multiplied with quantized weights to bfloat16.
    numbers = "bfloat16" if about["quant"] else about["dtype"]
    limits = TOLERANCE[numbers], TOP1[numbers]
    alone = solo_logits(about["model_dir"], rows, getattr(torch, about["dtype"]), about["quant"])
    read = [[*each.context, *each.continuation[:-1]] for each in answered]
    truth = reference_logits(about["model_dir"], [*rows, *read], about["quant"])
    verdicts = [
        _judge(name, f"world size 1, {about['dtype']}, CPU", found, alone, *limits),
        _judge(name, "an independent float32 forward", found, truth[: len(rows)], *limits),
    ]
    if answered:
        verdicts.append(_judge_answers(name, answered, truth[len(rows) :], limits[0]))
    return verdicts


def _judge(
    name: str, other: str, found: list[Tensor], truth: list[Tensor], tolerance: float, least: float
) -> Verdict:
    ours = torch.cat(found)
    theirs = torch.cat(truth)  # [positions, vocab]
    error = (ours - theirs).abs().max().item()
    relative = error / theirs.std().item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    passed = relative <= tolerance and agreement >= least  # False for NaN, too
    return Verdict(name, other, len(ours), error, relative, tolerance, agreement, passed)


def _judge_answers(
    name: str, answered: Sequence[Answered], truth: Sequence[Tensor], tolerance: float
) -> Verdict:
    """Judge the log-probabilities given with the answers.

    The error of a log-probability is at most twice that of the logits.
    """
    errors = []
    for each, logits in zip(answered, truth, strict=True):  # logits [S, vocab]
        count = len(each.continuation)
        known = logits[-count:, : each.tokenizer_size].clone()
        known[:, list(each.holes)] = -torch.inf
        logprobs = known.log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(each.continuation)[:, None]).sum().item()
        errors.append(abs(each.logprob - expected) / count)
    error = max(errors, key=lambda e: math.inf if math.isnan(e) else e)
    relative = error / 2 / torch.cat(list(truth)).std().item()
    positions = sum(len(each.continuation) for each in answered)
    compared = f"{name}, the first {len(answered)} answers"
    with_ = "an independent float32 forward, answers as they were given"
    return Verdict(
        compared, with_, positions, error, relative, tolerance, None, relative <= tolerance
    )
