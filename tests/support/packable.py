"""A checkpoint with all that packing must cope with."""

from pathlib import Path

from tests.support.oracle_models import make_oracle, save_tokenizer

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 301}


def save_packable(folder: Path) -> Path:
    """Several files, a vocabulary that no world size divides, one float16 layer, a tokenizer."""
    oracle = make_oracle(**SHAPE)
    oracle.gpt_neox.layers[1].mlp.half()
    oracle.save_pretrained(folder, max_shard_size="200KB")
    save_tokenizer(folder)
    return folder
