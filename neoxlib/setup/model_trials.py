"""Trials of whole models: a random model of two layers, and greedy text of the shipped one."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from neoxlib.inference import parity
from neoxlib.inference.decode import left_pad
from neoxlib.inference.engine import Engine
from neoxlib.inference.text import encode
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.parameters import shard_rules
from neoxlib.model.quant import SCHEMES
from neoxlib.setup.npu_trials import WIDTH, Trial, attempt
from neoxlib.setup.operator_trials import CAPACITY

LOGIT_UNIT = "standard deviation of the reference's logits"
LENGTHS = (15, 12, 10)  # tokens of the two-layer model's prompts
STEPS = (0, 6, 9, *range(10, 16))  # a prompt of 6 columns, a chunk of 3 on the cache, single ones
FORMS = (None, *SCHEMES)  # of the weights
REGRET = 0.05  # largest lead of the reference's own choice, in LOGIT_UNIT
CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_act": "gelu_fast",
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
    "torch_dtype": "float16",
}


def small_model(folder: Path, heads: int = 4) -> Path:
    """Write a random model of two layers with GPT-NeoX-20B's heads, and return `folder`."""
    hidden = heads * WIDTH
    config = CONFIG | {
        "vocab_size": 503 + heads,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (shape, _) in shard_rules(ModelConfig.from_dict(config)).items():
        deviation = 0.1 if len(shape) == 1 else shape[1] ** -0.5
        tensor = torch.randn(shape, generator=generator) * deviation
        tensors[name] = (tensor + 1 if name.endswith("norm.weight") else tensor).half()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def small_prompts(config: ModelConfig) -> list[list[int]]:
    """Return rows of unequal length, so that a batch of them is padded."""
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randint(1, config.vocab_size, (length,), generator=generator).tolist()
        for length in LENGTHS
    ]


@torch.inference_mode()
def two_layers(engine: Engine) -> Trial:
    """Try a model of `small_model`, padded on the left: prompt, chunk and single tokens."""
    about = engine.describe()

    def work() -> tuple[float, str]:
        rows = small_prompts(engine.config)
        found = _logits_in_steps(engine, rows)
        truth = parity.reference_logits(about["model_dir"], rows, about["quant"])
        real = [row[-len(due) :] for row, due in zip(found, truth, strict=True)]
        return logit_error(real, truth), f"steps {STEPS}"

    name = f"two layers, {about['quant'] or 'plain'} weights"
    return attempt(name, about["dtype"], parity.TOLERANCE[about["dtype"]], LOGIT_UNIT, work)


def _logits_in_steps(engine: Engine, rows: list[list[int]]) -> Tensor:  # [B, S, vocab]
    """Run the columns of STEPS one after the other through one cache."""
    model = engine.model
    weight = engine.weight
    ids, mask = (tensor.to(weight.device) for tensor in left_pad(rows))
    cache = KVCache(engine.config, len(rows), CAPACITY, model.group, weight.dtype, weight.device)
    parts = [model(ids[:, a:b], cache, mask[:, a:b]) for a, b in pairwise(STEPS)]
    return torch.cat(parts, 1).float().cpu()


def logit_error(found: list[Tensor], truth: list[Tensor]) -> float:
    """Return the largest error of any logit, in LOGIT_UNIT."""
    ours = torch.cat(found)
    theirs = torch.cat(truth)
    return ((ours - theirs).abs().max() / theirs.std()).item()


def greedy_text(engine: Engine, prompts: list[str], new_tokens: int = 16) -> Trial:
    """Try greedy answers.

    The error is the lead of the reference's own choice over the token that was chosen.
    """
    about = engine.describe()

    def work() -> tuple[float, str]:
        answers = engine.generate(prompts, max_new_tokens=new_tokens)
        starts = encode(engine.tokenizer, prompts)
        rows = [start + answer.token_ids for start, answer in zip(starts, answers, strict=True)]
        reference = parity.reference_logits(about["model_dir"], rows)
        worst = 0.0
        for start, row, logits in zip(starts, rows, reference, strict=True):
            choices = logits[len(start) - 1 : -1, : engine.tokenizer_size]  # [new tokens, vocab]
            made = choices.gather(1, torch.tensor(row[len(start) :])[:, None])[:, 0]
            worst = max(worst, ((choices.amax(-1) - made).max() / choices.std()).item())
        return worst, f"{prompts[0]}{answers[0].text}"

    return attempt("greedy text", about["dtype"], REGRET, LOGIT_UNIT, work)
