"""Shared oracles: tiny random checkpoints that transformers made, and where real test material lies."""

import os
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

torch.set_num_threads(1)
DATA = Path(os.environ.get("NEOXLIB_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

TINY = {
    "vocab_size": 211, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "intermediate_size": 160,
    "max_position_embeddings": 96, "hidden_act": "gelu_fast", "eos_token_id": 0, "bos_token_id": 0,
}


def make_oracle(**changes: object) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX of transformers in float32 whose every tensor, biases too, is far from zero."""
    torch.manual_seed(7)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**TINY | changes)).eval()
    for name, parameter in model.named_parameters():
        scale = 0.5 if name.endswith("bias") else 0.15
        parameter.data = torch.randn_like(parameter) * scale + (1.0 if "norm.weight" in name else 0.0)
    return model


@pytest.fixture(scope="session")
def data() -> Path:
    """Real test material; tests that need it are skipped, with this reason, where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no test material at {DATA}: set NEOXLIB_TEST_DATA to its folder")
    return DATA
