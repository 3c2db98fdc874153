"""Perplexity and agreement of quantized weights. Oracle: transformers."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXForCausalLM

import neoxlib
from neoxlib.checkpoint.shard import shard
from neoxlib.errors import SettingsError
from neoxlib.inference import quality
from neoxlib.model.quant import SCHEMES
from tests.support.packable import save_packable
from tests.support.run_notes import Notes

load = partial(neoxlib.load, compile=False)  # PyTorch's operators


TEXTS = ["The moon is a stone that shines at night.", "熊猫住在竹林里。"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_packable(tmp_path_factory.mktemp("source"))


def test_perplexity_and_agreement_are_those_of_transformers(source):
    oracle = GPTNeoXForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    engine = load(source)
    rows = quality.tokenize(engine, [*TEXTS, "a"])
    assert len(rows) == 2
    losses = [
        oracle(torch.tensor([row]), labels=torch.tensor([row])).loss.item() * (len(row) - 1)
        for row in rows
    ]
    tokens = sum(len(row) - 1 for row in rows)
    found = quality.measure(source, TEXTS)
    assert [(row.weights, row.dtype) for row in found] == [(q or d, d) for d, q in quality.VARIANTS]
    assert found[0].perplexity == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-4)
    assert found[0].tokens == tokens and found[0].top1_agreement == 1
    eight, four = (next(row for row in found if row.weights == name) for name in SCHEMES)
    assert four.top1_agreement < eight.top1_agreement <= 1
    assert quality.markdown(found).count("\n") == 2 + len(found)


def test_a_loaded_model_is_compared_with_the_float32_weights_of_its_folder(source, tmp_path):
    shard(source, tmp_path, 1, quant="int4", progress=False)
    table = quality.check_quality(load(source, quant="int4"), Notes(), TEXTS)
    assert table["weights"].tolist() == ["float32", "int4"] and table["top1_agreement"][0] == 1
    stored = quality.check_quality(load(tmp_path), Notes(), TEXTS)
    assert stored["weights"].tolist() == ["int4"] and stored["top1_agreement"].isna().all()
    assert stored["perplexity"][0] == pytest.approx(table["perplexity"][1], rel=1e-6)
    with pytest.raises(SettingsError, match="packed as int4; give the checkpoint they came from"):
        quality.measure(tmp_path, TEXTS)
