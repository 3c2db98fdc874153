"""The cost of fewer bits: perplexity on given texts, and top-1 agreement with float32 weights.

`python -m neoxlib quality` measures every dtype and scheme and writes a table.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from neoxlib.checkpoint.folder import stored_quant
from neoxlib.demo import DOCUMENTS, MODEL_DIR, UNSEEN_SEED, unseen_texts
from neoxlib.errors import SettingsError
from neoxlib.inference import parity
from neoxlib.inference.contract import Inference
from neoxlib.inference.load import load
from neoxlib.inference.text import encode
from neoxlib.machine import environment
from neoxlib.workbook.run import Run, outputs_root, write_text

VARIANTS = (
    ("float32", None),
    ("bfloat16", None),
    ("float32", "int8"),
    ("bfloat16", "int8"),
    ("float32", "int4"),
    ("bfloat16", "int4"),
)
MAX_TOKENS = 256  # of each text


@dataclass(frozen=True)
class Quality:
    """One form of the weights on `tokens` tokens.

    `top1_agreement` is None if there are no float32 weights to compare with.
    """

    weights: str
    dtype: str
    tokens: int
    perplexity: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Answers:
    """Per token but each text's first, [tokens]: its surprise in nats, and the top token there."""

    surprise: Tensor
    best: Tensor

    @classmethod
    def of(cls, rows: Sequence[list[int]], logits: Sequence[Tensor]) -> "Answers":
        """Compute them from the logits [S, vocab] of each row of ids."""
        ahead = torch.cat(
            [scores[: len(row) - 1] for row, scores in zip(rows, logits, strict=True)]
        ).float()
        came = torch.cat([torch.tensor(row[1:]) for row in rows])
        surprise = -ahead.log_softmax(-1).gather(-1, came[:, None])[:, 0]
        return cls(surprise, ahead.argmax(-1))

    def against(self, weights: str, dtype: str, truth: "Answers | None") -> Quality:
        """Compare with the answers of the float32 weights."""
        agreement = None if truth is None else (self.best == truth.best).float().mean().item()
        return Quality(
            weights, dtype, len(self.surprise), self.surprise.mean().exp().item(), agreement
        )


def tokenize(engine: Inference, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize the beginning of each text; texts of one token are left out."""
    longest = min(MAX_TOKENS, engine.max_seq_len)
    rows = [ids[:longest] for ids in encode(engine.tokenizer, texts)]
    return [row for row in rows if len(row) > 1]


def answers(engine: Inference, rows: Sequence[list[int]]) -> Answers:
    """Compute the answers of a loaded model, each row alone."""
    return Answers.of(rows, [engine.logits([row])[0] for row in rows])


def measure(model_dir: str | Path, texts: Sequence[str]) -> list[Quality]:
    """Measure every form of VARIANTS, the float32 weights first; one is loaded at a time.

    Raises SettingsError for a cut of quantized weights: it has no other form.
    """
    if quant := stored_quant(model_dir):
        raise SettingsError(
            f"{model_dir} holds weights packed as {quant}; give the checkpoint they came from"
        )
    found = []
    truth = None
    for dtype, quant in VARIANTS:
        with load(model_dir, dtype=dtype, quant=quant) as engine:
            here = answers(engine, tokenize(engine, texts))
        truth = truth or here
        found.append(here.against(quant or dtype, dtype, truth))
    return found


def check_quality(session: Inference, run: Run, texts: Sequence[str]) -> pd.DataFrame:
    """Compare a loaded model with the float32 weights of its folder; save it in `run`.

    The weights are read a layer at a time. Weights stored quantized have no float32 form to compare
    with. Returns the table, saved as `quality`.
    """
    about = session.describe()
    rows = tokenize(session, texts)
    here = answers(session, rows)
    truth = None
    found = []
    if stored_quant(about["model_dir"]) is None:
        truth = Answers.of(rows, parity.solo_logits(about["model_dir"], rows, torch.float32))
        found.append(truth.against("float32", "float32", truth))
    found.append(here.against(about["quant"] or about["dtype"], about["dtype"], truth))
    run.metrics(perplexity=found[-1].perplexity)
    return run.save("quality", pd.DataFrame([asdict(row) for row in found]))


def markdown(rows: Sequence[Quality]) -> str:
    """Format the table for a document."""
    lines = [
        "| weights | numbers | tokens | perplexity | top-1 as float32 |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        agreement = "–" if row.top1_agreement is None else f"{row.top1_agreement:.2%}"
        lines.append(
            f"| {row.weights} | {row.dtype} | {row.tokens:,} | {row.perplexity:.4f} | {agreement} |"
        )
    return "\n".join(lines) + "\n"


def shipped_texts() -> list[str]:
    """Return documents like the shipped model's training data that it was not trained on."""
    return unseen_texts()


def texts_for(model_dir: str | Path, prompts: Sequence[str]) -> list[str]:
    """A few texts to measure a notebook's model on.

    For the shipped model they are like its training data, else the prompts and parity's texts.
    """
    return shipped_texts()[:12] if Path(model_dir) == MODEL_DIR else [*prompts, *parity.TEXTS]


def paragraphs(text: Path) -> list[str]:
    """Return the paragraphs of a file, which blank lines separate."""
    return [part for part in text.read_text("utf-8").split("\n\n") if part]


def write_table(model_dir: str | Path | None = None, text: Path | None = None) -> str:
    """Measure every form of a model on the paragraphs of `text`.

    By default it is the shipped model, and the texts are `shipped_texts`. Writes quality.json and
    quality.md into the folder of the runs; returns the latter.
    Raises the errors of `measure`.
    """
    model_dir = model_dir or MODEL_DIR
    rows = measure(model_dir, paragraphs(text) if text else shipped_texts())
    result = {
        "model": Path(model_dir).name,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "text": text.name if text else f"{DOCUMENTS} documents of its corpus, seed {UNSEEN_SEED}",
        "rows": [asdict(row) for row in rows],
        "environment": environment.describe("cpu"),
    }
    root = outputs_root()
    root.mkdir(parents=True, exist_ok=True)
    write_text(root / "quality.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    write_text(root / "quality.md", markdown(rows))
    return markdown(rows)


if __name__ == "__main__":
    raise SystemExit("this is a command now: python -m neoxlib quality [MODEL_DIR] [--text FILE]")
