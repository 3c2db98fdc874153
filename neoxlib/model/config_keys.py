"""The keys of config.json that are read, their defaults, and the names of activations."""

from typing import Any

# Names in transformers/activations.py that stand for one of three functions.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "tanh",
    "gelu_new": "tanh",
    "gelu_accurate": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh",
    "relu": "relu",
}

# Class defaults of transformers' GPTNeoXConfig, for keys that config.json may omit.
DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
}
SIZES = {  # with the most of each: about a hundred times the largest model's, or more
    "vocab_size": 2**23,
    "hidden_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**14,
    "intermediate_size": 2**22,
    "max_position_embeddings": 2**24,
}
ROPE_KEYS = ("rope_parameters", "rope_scaling")
OTHER_READ = (
    "eos_token_id",
    "torch_dtype",
    "dtype",
    "model_type",
    "quantization_config",
    "head_dim",
)
READ = (*SIZES, *DEFAULTS, *ROPE_KEYS, *OTHER_READ)
# Keys of transformers that resemble one of ours without being a misspelling of it.
OWN_NAMES = (
    "bos_token_id",
    "cls_token_id",
    "mask_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "decoder_start_token_id",
)
