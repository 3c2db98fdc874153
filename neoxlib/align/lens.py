"""The logit lens: what the model would say if it stopped after each layer.

nostalgebraist, "interpreting GPT: the logit lens" (2020): final norm and head on every layer's
output. Both are computed here from the checkpoint, in float64.
"""

from typing import TYPE_CHECKING

import pandas as pd

from neoxlib.align import estimates
from neoxlib.align.estimates import Numerics
from neoxlib.align.joins import joined
from neoxlib.align.reader import Capture
from neoxlib.align.weights import ReferenceWeights
from neoxlib.checkpoint.folder import open_checkpoint
from neoxlib.inference.tables import visible
from neoxlib.inference.tokenizer import load_tokenizer
from neoxlib.model.steps import LOGITS, full_name, layer_steps
from neoxlib.workbook.table import TextTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neoxlib.workbook.run import Run

NORM = "gpt_neox.final_layer_norm"


def lens(
    capture: Capture, tokenizer: "PreTrainedTokenizerBase | None" = None, row: int = 0
) -> pd.DataFrame:
    """A row per layer, a column per token of prompt `row`: the most likely next token there.

    Columns are the prompt's tokens, numbered; ids stand for tokens without a tokenizer.
    """
    about = capture.manifest
    source = ReferenceWeights(about["model_dir"], about["dtype"], about["quant"])
    end = source.end()
    real = capture.mask[row, slice(*capture.passes[0])]
    ids = capture.ids[row, slice(*capture.passes[0])][real]
    rows = {}
    for layer in range(about["layers"]):
        parts = [capture.part(f"layer{layer:03d}")[full_name(layer, ""), 0, 0]]
        x = estimates.observed(joined(parts, layer_steps(True)[-1])[row, real])
        norm = (end[f"{NORM}.weight"], end[f"{NORM}.bias"])
        normed = estimates.layer_norm(x, *norm, source.config.layer_norm_eps, Numerics(0, 0))
        rows[layer] = (normed.value @ end[LOGITS].T).argmax(-1).tolist()
    columns = [f"{n} {_text(tokenizer, token)}" for n, token in enumerate(ids.tolist())]
    texts = [[_text(tokenizer, token) for token in line] for line in rows.values()]
    return pd.DataFrame(texts, index=pd.Index(rows, name="layer"), columns=columns)


def table(run: "Run", capture: Capture) -> TextTable:
    """The lens of the first prompt, also in lens.csv."""
    folder = open_checkpoint(capture.manifest["model_dir"]).folder
    found = run.save("lens", lens(capture, load_tokenizer(folder)))
    return TextTable(found.reset_index().astype(str))


def _text(tokenizer: "PreTrainedTokenizerBase | None", token: int) -> str:
    return str(token) if tokenizer is None else visible(tokenizer, token)
