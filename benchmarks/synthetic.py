"""Checkpoints of random weights in any GPT-NeoX shape, with answers clear enough to compare."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20


@dataclass(frozen=True)
class Shape:
    """A GPT-NeoX by its sizes; everything else is as in GPT-NeoX-20B."""

    layers: int
    hidden: int
    heads: int
    vocab: int = 50304

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden}x{self.heads}x{self.vocab}"

    @property
    def parameters(self) -> int:
        per_layer = 12 * self.hidden**2 + 13 * self.hidden
        return self.layers * per_layer + 2 * self.vocab * self.hidden + 2 * self.hidden

    def config(self) -> dict[str, Any]:
        """config.json without an end-of-text id: every contender makes all requested tokens."""
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_act": "gelu_fast",
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "bos_token_id": None,
            "eos_token_id": None,
        }


SHAPES = {
    "tiny": Shape(3, 128, 4, 2048),
    "160m": Shape(12, 768, 12),
    "410m": Shape(24, 1024, 16),
    "1b": Shape(16, 2048, 8),
}


def shape_of(text: str) -> Shape:
    """Read a name of SHAPES or LAYERSxHIDDENxHEADS[xVOCAB]; ValueError for anything else."""
    if text in SHAPES:
        return SHAPES[text]
    if not re.fullmatch(r"\d+x\d+x\d+(x\d+)?", text):
        raise ValueError(
            f"{text!r} is no shape; give one of {', '.join(SHAPES)}, or LAYERSxHIDDENxHEADS[xVOCAB]"
        )
    shape = Shape(*map(int, text.split("x")))
    if shape.hidden % shape.heads:
        raise ValueError(
            f"{text!r}: {shape.heads} heads do not divide a hidden size of {shape.hidden}"
        )
    return shape


def write(folder: Path, shape: Shape, dtype: str = "float32") -> Path:
    """Write a checkpoint of config, tokenizer and one safetensors file, unless it exists.

    The numbers are bfloat16's, so that a float32 and a bfloat16 model have the same weights.
    """
    import torch
    from safetensors.torch import save_file

    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(shape.config() | {"torch_dtype": dtype}, indent=1)
    )
    write_tokenizer(folder, shape.vocab)
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for name, size in sizes(shape).items():
        mean, spread = scale(name, size, shape.layers)
        numbers = torch.randn(size, generator=generator).mul_(spread).add_(mean)
        tensors[name] = numbers.bfloat16().to(getattr(torch, dtype))
    unfinished = folder / "model.tmp"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.rename(folder / "model.safetensors")
    return folder


def sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in the order of the layers."""
    h = shape.hidden
    linears = {
        "attention.query_key_value": (3 * h, h),
        "attention.dense": (h, h),
        "mlp.dense_h_to_4h": (4 * h, h),
        "mlp.dense_4h_to_h": (h, 4 * h),
    }
    names: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (shape.vocab, h)}
    for n in range(shape.layers):
        layer = f"gpt_neox.layers.{n}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            names |= {f"{layer}.{norm}.weight": (h,), f"{layer}.{norm}.bias": (h,)}
        for linear, size in linears.items():
            names |= {f"{layer}.{linear}.weight": size, f"{layer}.{linear}.bias": size[:1]}
    final = "gpt_neox.final_layer_norm"
    return names | {
        f"{final}.weight": (h,),
        f"{final}.bias": (h,),
        "embed_out.weight": (shape.vocab, h),
    }


def scale(name: str, size: tuple[int, ...], layers: int) -> tuple[float, float]:
    """Return mean and standard deviation.

    Rows of a product stay near one, branches sum to about the embedding, logits deviate by four.
    """
    if "norm.weight" in name:
        return 1.0, 0.1
    if name.endswith("bias"):
        return 0.0, 0.1
    if "embed_in" in name:
        return 0.0, 1.0
    spread = 1 / math.sqrt(size[1])
    if "embed_out" in name:
        return 0.0, 4 * spread
    branch = name.endswith(("dense.weight", "4h_to_h.weight"))
    return 0.0, spread / math.sqrt(2 * layers) if branch else spread


def write_tokenizer(folder: Path, vocab: int) -> None:
    """A tokenizer of whole words, "t0" to "t{vocab - 1}", each with that id."""
    words = {f"t{n}": n for n in range(vocab)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "t0"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    text = {
        "version": "1.0",
        "added_tokens": [],
        **empty,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(text))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def prompts(case: dict[str, Any], vocab: int) -> list[list[int]]:
    """Random ids [batch][prompt], each row another, the same for every contender."""
    import random

    chance = random.Random(f"{SEED} {case['batch']} {case['prompt']}")
    return [[chance.randrange(vocab) for _ in range(case["prompt"])] for _ in range(case["batch"])]
