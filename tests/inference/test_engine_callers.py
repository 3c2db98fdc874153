"""Callers that set torch's defaults, or call one engine from several threads: the same answers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
import torch

import neoxlib
from neoxlib.demo import MODEL_DIR
from neoxlib.inference.engine import Engine

PROMPTS = [[5, 6, 7], [33] * 20]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CALLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": partial(default_dtype, torch.float64),
    "default dtype bfloat16": partial(default_dtype, torch.bfloat16),
    "default device meta": partial(torch.device, "meta"),
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
}


def answers(engine: Engine) -> list[Any]:
    texts = engine.generate(PROMPTS, max_new_tokens=5)
    sampled = engine.generate(PROMPTS, max_new_tokens=5, temperature=0.8, top_p=0.9, seed=3)
    return [
        [(text.token_ids, text.logprobs) for text in texts + sampled],
        engine.score_ids([(row, [8, 9]) for row in PROMPTS]),
        engine.logits(PROMPTS[:1]).tolist(),
        [
            {name: values.tolist() for name, values in row.items()}
            for row in engine.activations(PROMPTS[:1], ["gpt_neox.layers.0", "embed_out"])
        ],
    ]


@pytest.mark.parametrize("quant", [None, "int4"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("caller", CALLERS)
def test_what_a_caller_has_set_in_torch_changes_no_answer(
    caller: str, compiled: bool, quant: str | None
):
    engine = neoxlib.load(MODEL_DIR, compile=compiled, quant=quant)
    right = answers(engine)
    with CALLERS[caller]():
        assert answers(engine) == right
        if "dtype" in caller:  # transformers itself does not load a tokenizer on another device
            assert answers(neoxlib.load(MODEL_DIR, compile=compiled, quant=quant)) == right


@pytest.mark.parametrize("compiled", [True, False])
def test_calls_of_several_threads_are_answered_as_alone(compiled: bool):
    engine = neoxlib.load(MODEL_DIR, compile=compiled)
    engine.wait_until_resident()
    works = [
        *(partial(engine.score_ids, [(row, [8, 9])]) for row in PROMPTS),
        *(lambda row=row: engine.logits([row]).tolist() for row in PROMPTS),
    ]
    right = [work() for work in works]
    with ThreadPoolExecutor(len(works)) as pool:
        for _ in range(20):
            assert list(pool.map(lambda work: work(), works)) == right
