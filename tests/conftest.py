"""Shared oracles: tiny random checkpoints that transformers made, and where real test material lies."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

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


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: id 0 is the end of text, 1 to 256 are the bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {symbol: i for i, symbol in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: a tiny random model of 300 rows, a byte-level tokenizer of 257 ids."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_oracle(vocab_size=300).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
