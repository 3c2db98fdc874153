"""Is the parallel model the model? Its logits against world size 1 and against a forward pass written apart from it.

Layers are read from the checkpoint one at a time and dropped again, so that this works for a model of any size.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from neoxlib.checkpoint.folder import Checkpoint, Stored, open_checkpoint
from neoxlib.checkpoint.pack import PackedPart, choose_quant, match_packed, scheme_of
from neoxlib.checkpoint.tensor_file import matrix
from neoxlib.inference.answered import Answered
from neoxlib.inference.decode import left_pad
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ACTIVATIONS, ModelConfig
from neoxlib.model.gpt_neox import Block
from neoxlib.model.quant import Scheme

if TYPE_CHECKING:
    from neoxlib.inference.engine import Engine
    from neoxlib.workbook.run import Run

TEXTS = (
    "The model that runs on many devices must say what it says on one.",
    "分布在多个设备上的模型，必须与单个设备上的模型给出相同的结果。",
    "1, 2, 4, 8",
)
MAX_TOKENS = 48  # of each text: rounding errors show after a few, and the whole model is read once whatever the length

# Largest logit error that rounding explains, in units of the spread (standard deviation) of the reference's logits.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-1}
TOP1 = {
    "float32": 1.0,
    "float16": 0.98,
    "bfloat16": 0.9,
}  # share of positions whose likeliest token must agree


@dataclass(frozen=True)
class Verdict:
    """One comparison: the largest error, also in units of the logits' spread, and the top tokens' agreement.

    Errors are those of logits, or of log-probabilities per token where answers are judged as they were given; then
    nothing is known of the other tokens, and `top1_agreement` is None.
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
        """In words, for a check."""
        of = "logit" if self.top1_agreement is not None else "log-probability"
        said = f"largest {of} error {self.max_error:.2e}, {self.relative_error:.1e} of the spread "
        said += f"(limit {self.tolerance:.0e})"
        return (
            said
            if self.top1_agreement is None
            else f"{said}, top-1 agreement {self.top1_agreement:.1%}"
        )


def check(engine: "Engine", run: "Run", texts: Sequence[str] = TEXTS) -> pd.DataFrame:
    """Compare `engine` (or a Session) with both references on `texts`, record the checks in `run`, return the table.

    Its first answers are judged as they were given, too: what was wrong only for the first moments shows here.
    """
    about = engine.describe()
    rows = [list(engine.tokenizer(text)["input_ids"])[:MAX_TOKENS] for text in texts]
    verdicts = compare(engine, about, rows, engine.first_answers)
    for verdict in verdicts:
        run.check(f"parity with {verdict.with_}", verdict.passed, verdict.detail)
    table = pd.DataFrame([asdict(v) for v in verdicts]).rename(columns={"with_": "with"})
    return run.save("parity", table)


def check_weights(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], run: "Run", quant: str | None = None
) -> pd.DataFrame:
    """Record in `run` whether every tensor of the cut `dst` equals that of `src` bit for bit; return the table.

    Both are read one tensor at a time; those of `src` are packed by `quant`, if `dst` was.
    """
    left, right = (_stored(open_checkpoint(folder), quant)[1] for folder in (src, dst))
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
    engine: "Engine",
    about: dict[str, Any],
    rows: Sequence[list[int]],
    answered: Sequence[Answered] = (),
) -> list[Verdict]:
    """Verdicts on the ragged batch `rows`, left-padded: against the same layers on one rank, and against plain fp32.

    And on what the engine has `answered` before, against plain fp32.
    """
    ids, mask = left_pad(rows)  # [B, S]
    found = engine.logits(ids, mask)  # [B, S, vocab]
    found = [row[kept] for row, kept in zip(found, mask, strict=True)]
    name = ", ".join(
        filter(None, (f"world size {about['world_size']}", about["dtype"], about["quant"]))
    )
    numbers = (
        "bfloat16" if about["quant"] else about["dtype"]
    )  # to which fast.py may round what meets packed weights
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
    """Of the log-probabilities that were given with the answers: a logit's error moves one by twice itself at most."""
    errors = []
    for each, logits in zip(answered, truth, strict=True):  # logits [S, vocab]
        count = len(each.continuation)
        known = logits[-count:, : each.real_ids].clone()
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


Reader = Callable[[], Tensor]


def _stored(checkpoint: Checkpoint, quant: str | None) -> tuple[ModelConfig, dict[str, Reader]]:
    """The config, and per parameter name a function that reads the whole tensor from disk, packed by `quant`."""
    config = ModelConfig.from_dir(checkpoint.folder)
    found = match_packed(checkpoint, config, quant)
    return config, {name: partial(_read, stored) for name, (_, stored) in found.items()}


def _open(
    model_dir: str | os.PathLike[str], quant: str | None
) -> tuple[ModelConfig, dict[str, Reader]]:
    """The same of an unpacked model: packed weights are read as the floats that they stand for."""
    checkpoint = open_checkpoint(model_dir)
    config, readers = _stored(checkpoint, quant)
    quant = choose_quant(checkpoint, quant)
    scales = {
        name: readers.pop(f"{name}_scale") for name in list(readers) if f"{name}_scale" in readers
    }
    for name, scale in scales.items():
        readers[name] = partial(_unpacked, scheme_of(name, config, quant), readers[name], scale)
    return config, readers


def _unpacked(scheme: Scheme, weight: Reader, scale: Reader) -> Tensor:
    return scheme.unpack({"weight": weight(), "weight_scale": scale()}, torch.float32)


def _read(stored: Stored | PackedPart) -> Tensor:
    whole = torch.empty(stored.shape, dtype=stored.dtype)
    height, width = matrix(stored.shape)
    stored.read_into(whole.view(height, width), (slice(0, height), slice(0, width)))
    return whole


@torch.inference_mode()
def solo_logits(
    model_dir: str | os.PathLike[str],
    rows: Sequence[list[int]],
    dtype: torch.dtype,
    quant: str | None = None,
) -> list[Tensor]:
    """Logits [S, vocab] float32 of each row from the model's own Block on one rank, each row alone, on the CPU.

    Embedding and head are a plain lookup and a plain product here, so that one layer is in memory at a time. With
    `quant` the weights are the floats that the packed ones stand for.
    """
    config, weights = _open(model_dir, quant)
    embed = weights["gpt_neox.embed_in.weight"]().to(dtype)
    states = [embed[torch.tensor([row])] for row in rows]  # each [1, S, hidden]
    with torch.device("meta"):
        block = Block(config).to(dtype)
    block.to_empty(device="cpu")
    for layer in range(config.num_hidden_layers):
        for name, parameter in block.named_parameters():
            parameter.copy_(weights[f"gpt_neox.layers.{layer}.{name}"]())
        states = [_one_block(block, config, x) for x in states]
    norm = [weights[f"gpt_neox.final_layer_norm.{part}"]().to(dtype) for part in ("weight", "bias")]
    head = embed if config.tie_word_embeddings else weights["embed_out.weight"]().to(dtype)
    return [_head(x[0], *norm, config.layer_norm_eps, head).float() for x in states]


def _one_block(block: Block, config: ModelConfig, x: Tensor) -> Tensor:
    cache = KVCache(config, 1, x.shape[1], dtype=x.dtype)
    step = cache.extend(torch.ones(x.shape[:2], dtype=torch.bool))
    return block(x, step, cache.k[0], cache.v[0])


@torch.inference_mode()
def reference_logits(
    model_dir: str | os.PathLike[str], rows: Sequence[list[int]], quant: str | None = None
) -> list[Tensor]:
    """Logits [S, vocab] float32 of each row, written straight from the paper's formulas (arXiv 2204.06745).

    It shares the checkpoint reader with the model and nothing else: no cache, no padding, no cutting, a loop over
    the heads, rotations as complex numbers. Only embedding, head and what packed weights stand for are those of
    `solo_logits`.
    """
    config, weights = _open(model_dir, quant)
    embed = weights["gpt_neox.embed_in.weight"]().float()
    states = [embed[torch.tensor(row)] for row in rows]  # each [S, hidden]
    for layer in range(config.num_hidden_layers):
        prefix = f"gpt_neox.layers.{layer}."
        part = {
            name.removeprefix(prefix): read().float()
            for name, read in weights.items()
            if name.startswith(prefix)
        }
        states = [_reference_layer(config, part, x) for x in states]
    norm = [weights[f"gpt_neox.final_layer_norm.{part}"]().float() for part in ("weight", "bias")]
    head = embed if config.tie_word_embeddings else weights["embed_out.weight"]().float()
    return [_head(x, *norm, config.layer_norm_eps, head) for x in states]


def _reference_layer(config: ModelConfig, part: dict[str, Tensor], x: Tensor) -> Tensor:
    """One layer over x [S, hidden]."""

    def norm(y: Tensor, name: str) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps).rsqrt()
        return centred * scale * part[f"{name}.weight"] + part[f"{name}.bias"]

    def linear(y: Tensor, name: str) -> Tensor:
        return y @ part[f"{name}.weight"].T + part.get(f"{name}.bias", torch.zeros(()))

    qkv = linear(norm(x, "input_layernorm"), "attention.query_key_value")
    heads = [
        _reference_head(config, *head.chunk(3, dim=-1))
        for head in qkv.split(3 * config.head_dim, dim=-1)
    ]
    attention = linear(torch.cat(heads, dim=-1), "attention.dense")
    middle = x if config.use_parallel_residual else x + attention
    wide = linear(norm(middle, "post_attention_layernorm"), "mlp.dense_h_to_4h")
    return x + attention + linear(_reference_activation(config, wide), "mlp.dense_4h_to_h")


def _reference_head(config: ModelConfig, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one head: q, k, v [S, head_dim]."""
    q = _reference_rotate(config, q)
    k = _reference_rotate(config, k)
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    scores = (q @ k.T / config.head_dim**0.5).masked_fill(later, -torch.inf)
    return scores.softmax(-1) @ v


def _reference_rotate(config: ModelConfig, x: Tensor) -> Tensor:
    """Pairs (i, i + half) of the leading dimensions turn as complex numbers by position * base^(-2i/dim)."""
    half = (config.rotary_dim + 1) // 2
    frequencies = config.rotary_emb_base ** (-2.0 * torch.arange(half) / max(config.rotary_dim, 1))
    angles = torch.outer(torch.arange(len(x), dtype=torch.float32), frequencies)
    turned = torch.complex(x[:, :half], x[:, half : 2 * half]) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat((turned.real, turned.imag, x[:, 2 * half :]), dim=-1)


def _reference_activation(config: ModelConfig, x: Tensor) -> Tensor:
    form = ACTIVATIONS[config.hidden_act]
    if form == "relu":
        return x.clamp(min=0)
    if form == "tanh":
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def _head(x: Tensor, weight: Tensor, bias: Tensor, eps: float, head: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, weight.shape, weight, bias, eps) @ head.T
