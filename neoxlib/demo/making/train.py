"""Train the demo's GPT-NeoX on the endless corpus and write it as a classical checkpoint folder.

A question is learnt in three parts, each at its own depth: recall the answer where the stem ends,
fetch it to the cue ("答案："), find its letter. The first two have losses of their own, and each part
is told now and then what the one before it should have found, so that all three learn at the same
time. Without this none of them starts.
"""

import json
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm, normalize
from transformers import GPTNeoXForCausalLM

from neoxlib.demo.making.lessons import LONG, SHORT, Block, Lessons, letter_ids
from neoxlib.demo.making.start import AT_CUE, AT_STEM, CONFIG, build_model

log = logging.getLogger("neoxlib")

PEAK_RATE = 1e-3
WARM_UP = 60
SAMPLED = 0.4  # share of the other positions with a loss: a small model mostly computes logits
TOLD = 0.3
HINT = 0.7  # share of the places told, and how loud: times the hidden state's own length
WEIGHTS = {"answer": 0.7, "told": 0.3, "text": 1.0, "stem": 0.7, "cue": 0.5}


def padded_vocabulary(tokenizer: Tokenizer) -> int:
    """Return the embedding's rows: a multiple of 128 with some to spare, as 50432 over 50277."""
    return -(-(tokenizer.get_vocab_size() + 16) // 128) * 128


def losses(model: GPTNeoXForCausalLM, block: Block, letters: Tensor) -> dict[str, Tensor]:
    """Return mean losses in nats by the names of WEIGHTS.

    They are of letters, letters where the word is told, text, and words recalled at stem and cue.
    """
    targets = block.ids[:, 1:]
    words = block.words[:, :-1]
    is_cue = block.is_cue[:, :-1]  # each [rows, length]
    is_letter = is_cue & torch.isin(targets, letters)
    cue = is_cue & (words >= 0)
    stem = ~is_cue & (words >= 0)
    told = is_letter & (block.is_drill | (torch.rand(targets.shape) < TOLD))
    reminded = stem & (torch.rand(targets.shape) < TOLD)
    taken = is_letter | (torch.rand(targets.shape) < SAMPLED)
    with torch.autocast("cpu", torch.bfloat16):
        with telling(model, AT_STEM, reminded, words), telling(model, AT_CUE, told, words):
            states = model.gpt_neox(block.ids[:, :-1], output_hidden_states=True)
        logits = model.lm_head(states.last_hidden_state[taken])  # [taken, vocab]
    each = cross_entropy(logits.float(), targets[taken], reduction="none")
    is_letter = is_letter[taken]
    told = told[taken]
    return {
        "answer": mean(each[is_letter & ~told]),
        "told": mean(each[told]),
        "text": mean(each[~is_letter]),
        "stem": recall(model, states.hidden_states[AT_STEM][stem], words[stem]),
        "cue": recall(model, states.hidden_states[AT_CUE][cue], words[cue]),
    }


def recall(model: GPTNeoXForCausalLM, hidden: Tensor, words: Tensor) -> Tensor:
    """Return the mean loss of reading `words` [n] from `hidden` [n, hidden] by the embeddings."""
    embeddings = 0.1 * model.gpt_neox.embed_in.weight.detach()
    likeness = layer_norm(hidden, hidden.shape[-1:]) @ embeddings.T  # [n, vocab]
    return mean(cross_entropy(likeness.float(), words, reduction="none"))


@contextmanager
def telling(model: GPTNeoXForCausalLM, layer: int, where: Tensor, words: Tensor) -> Iterator[None]:
    """Add the embeddings of `words` to the layer's input where `where` is True.

    Both are [rows, length].
    """
    embeddings = model.gpt_neox.embed_in.weight[words[where]].detach()
    spoken = normalize(embeddings, dim=-1)  # [told, hidden]

    def tell(_: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hint = torch.zeros_like(args[0])  # [rows, length, hidden]
        length = args[0][where].detach().norm(dim=-1, keepdim=True)
        hint[where] = (HINT * length * spoken).to(hint.dtype)
        return (args[0] + hint, *args[1:]), kwargs

    handle = model.gpt_neox.layers[layer].register_forward_pre_hook(tell, with_kwargs=True)
    yield
    handle.remove()


def mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))


def rate(step: int, steps: int) -> float:
    """Return the learning rate: linear warm-up, flat, then linear to 1/50 over the last half."""
    return PEAK_RATE * min((step + 1) / WARM_UP, 1.0, max(0.02, 2 * (steps - step) / steps))


def average_gradients(model: GPTNeoXForCausalLM) -> None:
    """Replace each gradient by its mean over the processes, in one message."""
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    pieces = (flat / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


def train(
    model: GPTNeoXForCausalLM, tokenizer: Tokenizer, steps: int, seed: int
) -> dict[str, float]:
    """Run `steps` steps as one of the group's processes.

    Returns seconds, tokens seen, and the mean losses of the last fifty steps.
    """
    settings = {"betas": (0.9, 0.98), "weight_decay": 0.02, "fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, **settings)
    lessons = Lessons(tokenizer, seed * 1000 + dist.get_rank())
    letters = letter_ids(tokenizer)
    recent = deque(maxlen=50)
    tokens = 0
    start = time.monotonic()
    for step in range(steps):
        block = lessons.next(SHORT if step < steps / 2 else LONG)
        optimizer.param_groups[0]["lr"] = rate(step, steps)
        recent.append(learn(model, optimizer, block, letters))
        lessons.hear(recent[-1]["told"])
        tokens += dist.get_world_size() * block.ids.numel()
        seconds = time.monotonic() - start
        if step % 50 == 49:
            said = "step %d  %.0f s  %d words  %s"
            log.info(said, step + 1, seconds, lessons.words, means(recent))
    seconds = round(time.monotonic() - start, 1)
    return {"seconds": seconds, "steps": steps, "tokens": tokens, **means(recent)}


def learn(
    model: GPTNeoXForCausalLM, optimizer: torch.optim.Optimizer, block: Block, letters: Tensor
) -> dict[str, float]:
    """Do one step on `block`; returns its losses."""
    parts = losses(model, block, letters)
    sum(weight * parts[name] for name, weight in WEIGHTS.items()).backward()
    average_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {name: part.item() for name, part in parts.items()}


def train_in_processes(
    model_dir: Path, tokenizer: Tokenizer, steps: int, seed: int, size: int
) -> dict[str, float]:
    """Train on `size` processes of one thread each; this one is rank 0 and writes `model_dir`."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as meeting:
        task = (f"file://{meeting}/store", tokenizer.to_str(), steps, seed, size)
        start = get_context("spawn").Process
        helpers = [start(target=work, args=(rank, *task), daemon=True) for rank in range(1, size)]
        for helper in helpers:
            helper.start()
        model, facts = work(0, *task)
        for helper in helpers:
            helper.join()
    save_model(model, model_dir)
    return facts | {"parameters": model.num_parameters(), "processes": size}


def work(
    rank: int, store: str, tokenizer: str, steps: int, seed: int, size: int
) -> tuple[GPTNeoXForCausalLM, dict]:
    """Train as one of the processes; all start from the same weights and end with the same."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    torch.manual_seed(seed)
    words = Tokenizer.from_str(tokenizer)
    model = build_model(padded_vocabulary(words))
    torch.manual_seed(seed + rank)
    facts = train(model, words, steps, seed)
    dist.destroy_process_group()
    return model, facts


def means(recent: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean losses in nats."""
    return {
        f"{name}_loss": round(sum(row[name] for row in recent) / len(recent), 4) for name in WEIGHTS
    }


def save_model(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Write config.json and model.safetensors in float16; names as in every GPT-NeoX checkpoint."""
    settings = CONFIG | {"vocab_size": model.config.vocab_size}
    (folder / "config.json").write_text(
        json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    state = {
        name.replace("lm_head", "embed_out"): tensor for name, tensor in model.state_dict().items()
    }
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
