"""Configs that tests plan for: GPT-NeoX-20B and a small model."""

from neoxlib.model.config import ModelConfig

TWENTY_B = ModelConfig(
    vocab_size=50432,
    hidden_size=6144,
    num_hidden_layers=44,
    num_attention_heads=64,
    intermediate_size=24576,
    hidden_act="gelu_fast",
    torch_dtype="float16",
)
SMALL = ModelConfig(
    vocab_size=101,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=8,
    intermediate_size=200,
    max_position_embeddings=512,
)
