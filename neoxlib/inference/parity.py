"""Does the parallel model compute what the model should? Its logits against two references.

The references are the same layers at world size 1, and a forward pass written independently.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.checkpoint.manifest import PARTS, read_manifest
from neoxlib.checkpoint.source import source_of
from neoxlib.checkpoint.verify import require_manifest, unlike_copies
from neoxlib.inference.contract import Inference
from neoxlib.inference.decode import left_pad
from neoxlib.inference.load import small_files
from neoxlib.inference.reference import compared_bits, reference_logits, solo_logits
from neoxlib.inference.rows import Answered
from neoxlib.inference.text import encode
from neoxlib.workbook import metrics
from neoxlib.workbook.progress import Progress
from neoxlib.workbook.results import failed

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
OUTLIER = 32  # times the usual largest logit of a token
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
    def of_limit(self) -> float:
        """The error as a share of what rounding explains."""
        return self.relative_error / self.tolerance

    @property
    def detail(self) -> str:
        """The verdict for a check: first for everybody, after "; " for who looks closer."""
        of = "logit" if self.top1_agreement is not None else "log-probability"
        said = f"error {times_the_limit(self.of_limit)}; largest {of} error {self.max_error:.2e}, "
        said += f"{self.relative_error:.1e} of the spread (limit {self.tolerance:.0e})"
        if self.top1_agreement is None:
            return said
        return f"{said}, top-1 agreement {self.top1_agreement:.1%}"


def times_the_limit(share: float) -> str:
    """A share of a limit in words: 1/20 of the limit, or 3 times the limit."""
    if math.isnan(share):
        return "cannot be judged: logits are NaN, infinite or all the same"
    if share > 0.5:
        return f"{share:.2g} times the limit"
    return f"1/{1 / share:,.0f} of the limit" if share > 0 else "none"


UNSPLIT = "same as the unsplit model"
FLOAT32 = "same as an independent float32 forward pass"
FIRST = "first answers, as given, equal those of that float32 pass"
CUT = "cut equals source bit for bit"
ORIGIN = "weights are those of the source"
COPIES = "all ranks have the same of what is not cut"


def same(results: Mapping[str, Any]) -> str:
    """Say what a run's parity checks found, as the end of a sentence; "" for none."""
    names = (UNSPLIT, FLOAT32, FIRST, ORIGIN, COPIES)
    checks = [check for check in results["checks"] if check["name"] in names]
    if not checks:
        return ""
    if wrong := [check["name"] for check in checks if not check["passed"]]:
        return f"it is not the model it should be (not {'; not '.join(wrong)})"
    share = results["metrics"].get("parity_of_limit")
    error = "" if share is None else f" (error {times_the_limit(share)})"
    split = (results["model"].get("world_size") or 1) > 1
    what = "the split model equals the unsplit one" if split else "it equals its references"
    return what + error


def whole(results: Mapping[str, Any]) -> str:
    """Answer 01_shard from its run's checks and figures: is the cut whole?"""
    if wrong := failed(results):
        return f"No. {wrong}."
    ranks = results["model"].get("world_size") or 1
    count = metrics.shown("tensors_equal", results["metrics"].get("tensors_equal"))
    bits = f"all {count} tensors equal the source bit for bit"
    loaded = f", and loaded from it {said}" if (said := same(results)) else ""
    size = results["metrics"].get("bytes_per_rank")
    each = "" if size is None else f", {metrics.shown('bytes_per_rank', size)} each"
    return f"Yes, the cut is whole: {bits}{loaded}. It is for {ranks} ranks{each}."


def check_parity(
    engine: Inference, run: "Run", texts: Sequence[str] = TEXTS, where: Where | None = None
) -> pd.DataFrame:
    """Compare `engine` with both references on `texts`; record the checks in `run`.

    Its first answers are judged as they were given, too: this shows errors that were there only at
    first. Where a comparison fails, `where(engine, ids)` names the step in which the numbers part;
    it is `neoxlib.align.where`. Returns the table.
    """
    about = engine.describe()
    rows = [ids[:MAX_TOKENS] for ids in encode(engine.tokenizer, texts)]
    layers = 2 * engine.config.num_hidden_layers  # of both references
    with Progress(layers, layers, "layers compared") as bar:
        verdicts = compare(engine, about, rows, engine.first_answers, bar)
    wrong = not all(verdict.passed for verdict in verdicts)
    place = f". {where(engine, rows)}" if wrong and where else ""
    names = (UNSPLIT, FLOAT32, FIRST)
    for name, verdict in zip(names, verdicts, strict=False):  # there may be no first answers
        run.check(name, verdict.passed, verdict.detail + ("" if verdict.passed else place))
    run.metrics(parity_of_limit=max((v.of_limit for v in verdicts), key=_nan_last))
    check_origin(about["model_dir"], run)
    table = pd.DataFrame([asdict(v) for v in verdicts]).rename(columns={"with_": "with"})
    return run.save("parity", table)


def check_weights(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], run: "Run", quant: str | None = None
) -> pd.DataFrame:
    """Record in `run` whether every tensor of the cut `dst` equals that of `src` bit for bit.

    Both are read one tensor at a time; those of `src` are quantized by `quant`, if `dst` was. All
    ranks must have the same of a tensor that is not cut. Returns the table.
    """
    table = compared_bits(open_checkpoint(src), open_checkpoint(dst), quant)
    run.check(CUT, *_whole(table, unlike_copies(Path(dst), require_manifest(Path(dst)))))
    run.metrics(tensors_compared=len(table), tensors_equal=int(table["equal"].sum()))
    return table.groupby("equal").count().rename(columns={"tensor": "tensors"})


def check_origin(folder: str | os.PathLike[str], run: "Run") -> None:
    """Record in `run` whether the cut `folder` still has the weights of its source.

    The hash of an edited file may have been made to fit. The source can tell, and of tensors that
    are not cut the other ranks' copies. Does nothing for no cut, or if the run has compared both.
    """
    manifest = read_manifest(Path(folder))
    if manifest is None or any(check["name"] == CUT for check in run.results["checks"]):
        return
    wrong = unlike_copies(Path(folder), manifest)
    source, why = source_of(Path(folder), manifest)
    if source is None:
        detail = f"{why}; so tensors that are cut were compared with nothing"
        run.check(COPIES, not wrong, "; ".join([*wrong[:5], detail]))
        return
    wrong += _unlike_small(Path(folder), source.folder)
    cut, cast_to = open_checkpoint(folder), manifest.get("cast_to")
    run.check(ORIGIN, *_whole(compared_bits(source, cut, manifest["quant"], cast_to), wrong))


def _unlike_small(cut: Path, source: Path) -> list[str]:
    """Small files of the ranks of `cut` that are not what they are in `source`."""
    theirs = small_files(source)
    return [
        f"{name} of {part} is another than the source's"
        for part in sorted(f"{PARTS}/{folder.name}" for folder in (cut / PARTS).iterdir())
        for name, digest in small_files(cut / part).items()
        if theirs.get(name, digest) != digest
    ]


def _whole(table: pd.DataFrame, unlike: list[str]) -> tuple[bool, str]:
    """Whether all tensors are equal and no copies unlike, and a check's words for it."""
    wrong = table.loc[~table["equal"], "tensor"].tolist()
    said = f"{len(table)} tensors compared, {len(wrong)} differ {', '.join(wrong[:5])}".strip()
    return not wrong + unlike, "; ".join([said, *unlike[:5]])


def compare(
    engine: Inference,
    about: dict[str, Any],
    rows: Sequence[list[int]],
    answered: Sequence[Answered] = (),
    bar: Progress | None = None,
) -> list[Verdict]:
    """Judge the ragged batch `rows`, left-padded, and what the engine has `answered` before.

    `rows` are compared with the same layers on one rank and with plain float32, `answered` with
    plain float32. `bar` counts the layers of both references.
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
    read = [[*each.context, *each.continuation[:-1]] for each in answered]
    folder, quant = about["model_dir"], about["quant"]
    on_layer = _counted(bar, "the same layers on one rank")
    alone = solo_logits(folder, rows, getattr(torch, about["dtype"]), quant, on_layer)
    on_layer = _counted(bar, "an independent float32 forward pass")
    truth = reference_logits(folder, [*rows, *read], quant, on_layer)
    verdicts = [
        _judge(name, f"world size 1, {about['dtype']}, CPU", found, alone, *limits),
        _judge(name, "an independent float32 forward", found, truth[: len(rows)], *limits),
    ]
    if answered:
        verdicts.append(_judge_answers(name, answered, truth[len(rows) :], limits[0]))
    return verdicts


def _counted(bar: Progress | None, name: str) -> Callable[[int], Any]:
    """Begin a layer of `name` in the progress; the callable ends one and begins the next."""
    if bar is None:
        return bool
    bar.begin(name, 1)
    return lambda _: bar.done()


def _judge(
    name: str, other: str, found: list[Tensor], truth: list[Tensor], tolerance: float, least: float
) -> Verdict:
    ours = torch.cat(found)
    theirs = torch.cat(truth)  # [positions, vocab]
    errors = (ours - theirs).abs().amax(0)  # [vocab]
    error = errors.max().item()
    relative = _of_spread(errors, theirs)
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    passed = relative <= tolerance and agreement >= least  # False for NaN, too
    return Verdict(name, other, len(ours), error, relative, tolerance, agreement, passed)


def _of_spread(errors: Tensor, truth: Tensor) -> float:
    """The largest of `errors` [vocab] in standard deviations of the logits `truth` [.., vocab].

    Also without the tokens whose logits are far larger than most, if that is more: the rounding of
    an outlier must not excuse errors of others. NaN if all logits are the same.
    """
    largest = truth.abs().amax(0)
    usual = largest <= OUTLIER * largest.median()
    if not usual.any():  # NaN
        return math.nan
    shares = [errors.max() / truth.std(), errors[usual].max() / truth[:, usual].std()]
    return max((share.item() for share in shares), key=_nan_last)


def _nan_last(error: float) -> float:
    return math.inf if math.isnan(error) else error


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
    error = max(errors, key=_nan_last)
    every = torch.cat(list(truth))
    relative = _of_spread(torch.full(every.shape[1:], error / 2, dtype=torch.float32), every)
    positions = sum(len(each.continuation) for each in answered)
    compared = f"{name}, the first {len(answered)} answers"
    with_ = "an independent float32 forward, answers as they were given"
    return Verdict(
        compared, with_, positions, error, relative, tolerance, None, relative <= tolerance
    )
