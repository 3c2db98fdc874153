"""The trials of models on emulated operators: the right pass, planted mistakes fail."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from neoxlib import load
from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.model import cache, on_npu
from neoxlib.setup import model_trials
from tests.support.npu import reference as reference

reference.install()


@contextmanager
def small(tmp_path: Path, quant: str | None = None, family: str = "A2"):
    with reference.on_chip(family):
        engine = load(
            model_trials.small_model(tmp_path), dtype="float16", quant=quant, compile=False
        )
        engine.wait_until_resident()
        on_npu.attach(engine.model, family)
        yield engine


@pytest.mark.parametrize("quant", model_trials.FORMS)
@pytest.mark.parametrize("family", ["A2", "310P"])
def test_the_two_layer_model_passes_emulated(tmp_path, family, quant):
    with small(tmp_path, quant, family) as engine:
        trial = model_trials.two_layers(engine)
    assert trial.passed and trial.error < trial.tolerance / 3


@pytest.mark.parametrize("what", ["bias", "cache", "residual"])
def test_the_two_layer_model_with_a_mistake_fails_emulated(tmp_path, monkeypatch, what):
    with small(tmp_path) as engine:
        executor = engine.model.executor
        if what == "bias":
            executor.layers[1].dense.bias.zero_()
        elif what == "residual":
            executor.config = replace(executor.config, use_parallel_residual=False)
        else:  # each chunk overwrites the one before
            monkeypatch.setattr(cache.KVCache, "append", lambda self, count, mask=None: 0)
        assert not model_trials.two_layers(engine).passed


def test_greedy_text_is_held_against_the_reference_token_by_token_emulated(monkeypatch):
    engine = load(MODEL_DIR, dtype="float16", compile=False)
    right = model_trials.greedy_text(engine, PROMPTS["en"][:2], new_tokens=4)
    generate = engine.generate

    def one_off(prompts, **settings):
        first, second = generate(prompts, **settings)
        return [first, replace(second, token_ids=[second.token_ids[0] + 1, *second.token_ids[1:]])]

    monkeypatch.setattr(engine, "generate", one_off)
    wrong = model_trials.greedy_text(engine, PROMPTS["en"][:2], new_tokens=4)
    assert right.passed and right.error < 0.01 and not wrong.passed
    assert right.detail.startswith(PROMPTS["en"][0])
