"""A checkpoint that says what a test wants: its layers add nothing, and its head leads from each id
to the next.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

END = "<|endoftext|>"
USER = "<|USER|>"
MERGES = [("Ġ", "y"), ("Ġy", "e"), ("Ġye", "s"), ("Ġ", "4"), ("a", "b"), ("Ċ", "Ċ")]
CONFIG = {
    "model_type": "gpt_neox",
    "vocab_size": 320,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def byte_tokenizer(*special: str) -> Tokenizer:
    """Bytes and a few merges; id 0 is the end of text, and `special` come last."""
    vocabulary = {END: 0} | {
        c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)
    }
    for pair in MERGES:
        vocabulary["".join(pair)] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in (END, *special)])
    return tokenizer


def path_of(tokenizer: Tokenizer, *texts: str) -> list[int]:
    """Ids of the texts, one after the other, each of which must occur once."""
    ids = [number for text in texts for number in tokenizer.encode(text).ids]
    assert len(set(ids)) == len(ids), ids
    return ids


def save(
    folder: Path,
    tokenizer: Tokenizer | None,
    path: Sequence[int] = (),
    eos_token: str | None = END,
    generation: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a checkpoint that continues `path` greedily; a `config` value of ... leaves the key
    out.
    """
    raw = {key: value for key, value in (CONFIG | config).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(raw))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    save_file(
        _weights(CONFIG | {"vocab_size": raw["vocab_size"]}, path), folder / "model.safetensors"
    )
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        about = {"tokenizer_class": "PreTrainedTokenizerFast"} | (
            {"eos_token": eos_token} if eos_token else {}
        )
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def _weights(config: dict[str, Any], path: Sequence[int]) -> dict[str, torch.Tensor]:
    names = GPTNeoXForCausalLM(GPTNeoXConfig(**config)).state_dict()
    state = {
        name: torch.ones_like(t) if "norm.weight" in name else torch.zeros_like(t)
        for name, t in names.items()
    }
    table = torch.randn(
        config["vocab_size"], config["hidden_size"], generator=torch.Generator().manual_seed(3)
    )
    state["gpt_neox.embed_in.weight"] = table
    head = state["embed_out.weight" if "embed_out.weight" in state else "lm_head.weight"]
    seen = torch.nn.functional.layer_norm(table, table.shape[1:])
    for here, following in pairwise(path):
        head[following] += seen[here] / 10
    return {name.replace("lm_head", "embed_out"): tensor for name, tensor in state.items()}


def transformers_says(folder: Path, start: int, count: int = 16, **settings: Any) -> list[int]:
    """The new ids of transformers' own greedy `generate`."""
    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    greedy = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 1}
    with torch.no_grad():
        return model.generate(torch.tensor([[start]]), **greedy, **settings)[0, 1:].tolist()
