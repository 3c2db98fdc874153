"""The untrained model: its attention is prepared to find words, so that training takes minutes."""

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

CONFIG = {  # spelled as GPT-NeoX-20B's own config.json
    "architectures": ["GPTNeoXForCausalLM"],
    "attention_bias": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu_fast",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 1024,
    "model_type": "gpt_neox",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 1000,
    "rotary_pct": 0.5,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_parallel_residual": True,
}
AT_STEM = 3
AT_CUE = (
    4  # layers after which an answer is known at its question's end, and where its letter is wanted
)
OFFSETS = (1, 1, 1, 2, 2, 3, 3, 4)  # tokens that the first layer's heads look back
LETTER_HEADS = (
    3,
    4,
    5,
    6,
)  # of the first layer: an option's letter stands two or three tokens before its word
NOISE = 0.08
SHARPNESS = 1.8


def build_model(vocab_size: int) -> GPTNeoXForCausalLM:
    """An untrained model; `gelu_pytorch_tanh` is `gelu_fast`'s function as one fast kernel."""
    settings = CONFIG | {
        "vocab_size": vocab_size,
        "hidden_act": "gelu_pytorch_tanh",
        "use_cache": False,
    }
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**settings, attn_implementation="eager"))
    prepare(model)
    return model


@torch.no_grad()
def prepare(model: GPTNeoXForCausalLM) -> None:
    """Set up attention that already finds words; from noise it takes thousands of steps to form.

    The first layer looks back a fixed number of tokens. In the others queries equal keys, so that
    like finds like; those that find the letter also pass on what the first layer wrote about the
    letters. Output rows start as input rows.
    """
    first, *others = (layer.attention for layer in model.gpt_neox.layers)
    model.gpt_neox.embed_in.weight.normal_()
    model.lm_head.weight.copy_(0.03 * model.gpt_neox.embed_in.weight)
    written = look_back(first, model.gpt_neox.rotary_emb.inv_freq)
    for number, layer in enumerate(others, 1):
        # Each is [heads, head size, hidden].
        query, key, value = by_head(layer.query_key_value.weight).unbind(1)
        value.normal_(std=NOISE)
        layer.dense.weight.normal_(std=NOISE)
        query.normal_(std=NOISE)
        if number >= AT_CUE:
            query.copy_(SHARPNESS * orthogonal(CONFIG["hidden_size"]).view_as(query))
            for head in range(len(value)):
                value[head] = written[LETTER_HEADS[head % len(LETTER_HEADS)]]
                columns(layer.dense.weight)[:, head] = 0.7 * orthogonal(value.shape[1]).T
        key.copy_(query)


def look_back(layer: torch.nn.Module, frequencies: torch.Tensor) -> list[torch.Tensor]:
    """Make head h attend to the token OFFSETS[h] before, by its rotary biases alone.

    Returns the output matrix of each head.
    """
    half = len(frequencies)
    written = []
    query, key, _ = by_head(layer.query_key_value.bias).unbind(1)  # each [heads, head size]
    for head, offset in enumerate(OFFSETS):
        turn = frequencies * offset
        key[head, :half] = 6.0
        query[head, :half] = 6.0 * turn.cos()
        query[head, half : 2 * half] = -6.0 * turn.sin()
        by_head(layer.query_key_value.weight)[head, 2] = orthogonal(query.shape[1])
        written.append(orthogonal(query.shape[1]))
        columns(layer.dense.weight)[:, head] = written[-1].T
    return written


def by_head(tensor: torch.Tensor) -> torch.Tensor:
    """query_key_value's rows as [heads, 3 (query, key, value), head size, ...]."""
    return tensor.view(CONFIG["num_attention_heads"], 3, -1, *tensor.shape[1:])


def columns(dense: torch.Tensor) -> torch.Tensor:
    """dense's columns as [hidden, heads, head size]."""
    return dense.view(len(dense), CONFIG["num_attention_heads"], -1)


def orthogonal(rows: int) -> torch.Tensor:
    """[rows, hidden], its rows orthonormal."""
    return torch.nn.init.orthogonal_(torch.empty(rows, CONFIG["hidden_size"]))
