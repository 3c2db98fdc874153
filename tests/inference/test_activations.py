"""An engine's activations are those of transformers' hidden states, for each prompt, joined."""

from pathlib import Path

import numpy as np
import pytest
import torch

import neoxlib
from neoxlib.errors import SettingsError
from neoxlib.model.group import Group
from tests.support.oracle_models import make_oracle
from tests.support.thread_ranks import on_ranks

PROMPTS = [[66, 67, 68, 69], [70, 71]]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_layer_outputs_are_transformers_hidden_states(checkpoint: Path, size: int, compiled: bool):
    oracle = make_oracle(vocab_size=300)

    def work(group: Group) -> list[dict[str, np.ndarray]]:
        engine = neoxlib.load(checkpoint, group=group, compile=compiled)
        return engine.activations(PROMPTS, ["gpt_neox.layers.?", "embed_out", "*.cached.key"])

    first, *others = on_ranks(size, work)
    assert others == [[]] * (size - 1)
    for prompt, found in zip(PROMPTS, first, strict=True):
        with torch.no_grad():
            truth = oracle(torch.tensor([prompt]), output_hidden_states=True)
        for layer in range(2):  # transformers' last hidden state is the normed one
            expected = truth.hidden_states[layer + 1][0]
            np.testing.assert_allclose(found[f"gpt_neox.layers.{layer}"], expected, atol=1e-4)
        np.testing.assert_allclose(found["embed_out"], truth.logits[0], atol=1e-4)
        assert found["gpt_neox.layers.1.attention.cached.key"].shape == (len(prompt), 8, 8)


def test_partial_terms_are_added_up_over_the_ranks(checkpoint: Path):
    def work(group: Group) -> np.ndarray:
        engine = neoxlib.load(checkpoint, group=group, compile=False)
        found = engine.activations(PROMPTS, ["*.layers.1.mlp.dense_4h_to_h"])
        return found and found[0]["gpt_neox.layers.1.mlp.dense_4h_to_h"]

    alone, split = on_ranks(1, work)[0], on_ranks(2, work)[0]
    np.testing.assert_allclose(split, alone, atol=1e-4)


def test_an_unknown_name_is_refused_with_the_nearest(checkpoint: Path):
    engine = neoxlib.load(checkpoint, compile=False)
    with pytest.raises(SettingsError, match=r"did you mean 'gpt_neox.layers.1.mlp.activation'"):
        engine.activations(PROMPTS, ["gpt_neox.layers.1.mlp.activations"])
    for bad in ([], [[]]):
        with pytest.raises(SettingsError):
            engine.activations(bad, ["embed_out"])
    with pytest.raises(SettingsError, match="max_seq_len is 96"):
        engine.activations([[1] * 97], ["embed_out"])


def test_what_the_kernels_do_not_show_is_refused(checkpoint: Path):
    engine = neoxlib.load(checkpoint)
    if engine.model.executor is None:
        pytest.skip("no compiler")
    with pytest.raises(SettingsError, match=r"query_key_value.*compile=False"):
        engine.activations(PROMPTS, ["*.query_key_value"])
