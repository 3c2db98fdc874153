"""The checkpoint that several test files of this room cut."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.oracle_models import make_oracle, save_tokenizer


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Several files, an uneven vocabulary, many kinds of NaN, one float16 layer, a tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    oracle = make_oracle()
    oracle.save_pretrained(folder, max_shard_size="60KB")
    save_tokenizer(folder)
    for file in folder.glob("*.safetensors"):
        state = load_file(file)
        for name in state:
            if ".layers.1." in name:
                state[name] = state[name].half()
        if "gpt_neox.layers.1.mlp.dense_4h_to_h.weight" in state:
            nans = torch.arange(0x7C01, 0x7C01 + 64, dtype=torch.int16).view(torch.float16)
            state["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, :64] = nans
        save_file(state, file, metadata={"format": "pt"})
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder
