"""Tiny random checkpoints that transformers makes: the oracle of the model's tests."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group
from neoxlib.model.parameters import shard_rules

TINY = {
    "vocab_size": 211,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "intermediate_size": 160,
    "max_position_embeddings": 96,
    "hidden_act": "gelu_fast",
    "eos_token_id": 0,
    "bos_token_id": 0,
}


def make_oracle(**changes: object) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX of transformers in float32 whose every tensor, biases too, is far from
    zero.
    """
    torch.manual_seed(7)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**TINY | changes)).eval()
    for name, parameter in model.named_parameters():
        scale = 0.5 if name.endswith("bias") else 0.15
        parameter.data = torch.randn_like(parameter) * scale + (
            1.0 if "norm.weight" in name else 0.0
        )
    return model


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: id 0 is the end of text, 1 to 256 are the bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {symbol: i for i, symbol in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(
        folder
    )


VARIANTS = {
    "20b-like": {},
    "plain-residual": {"use_parallel_residual": False},
    "no-attention-bias": {"attention_bias": False},
    "gelu": {"hidden_act": "gelu"},
    "gelu-new": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "full-rotary": {
        "rope_parameters": {
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "rope_type": "default",
        }
    },
    "odd-rotary": {
        "rope_parameters": {
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.4,
            "rope_type": "default",
        }
    },
    "tied": {"tie_word_embeddings": True},
    "vocabulary-divides": {"vocab_size": 256},
}


def ours(
    oracle: torch.nn.Module, group: Group = SOLO, dtype: torch.dtype = torch.float32
) -> GPTNeoX:
    """Our model with this rank's part of the oracle's weights, cut here by each layer's own
    rule.
    """
    config = ModelConfig.from_dict(oracle.config.to_dict())
    model = GPTNeoX(config, group).to(dtype)
    weights = {name.replace("lm_head", "embed_out"): w for name, w in oracle.state_dict().items()}
    for name, (shape, rule) in shard_rules(config).items():
        model.get_parameter(name).data.copy_(
            weights[name][rule.slices(shape, group.rank, group.size)]
        )
    return model


def ids_for(oracle: torch.nn.Module, batch: int = 3, length: int = 17) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(1, oracle.config.vocab_size, (batch, length), generator=generator)


def damaged(folder: Path, place: str, value: float = torch.nan, **config: object) -> Path:
    """A checkpoint with one bad number, in a row of the vocabulary that every test reads where it
    is in one.
    """
    make_oracle(vocab_size=300, **config).save_pretrained(folder)
    save_tokenizer(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[place].view(-1)[66 * tensors[place].shape[1] if "embed" in place else 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
