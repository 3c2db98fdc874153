"""Train the demo's GPT-NeoX on the endless corpus and write it as a classical checkpoint folder."""

import json
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from neoxlib.demo.corpus import LETTERS, documents, drills

log = logging.getLogger("neoxlib")

ROWS, LENGTH = 8, 192  # tokens of one step: eight rows of packed documents
PEAK_RATE, WARM_UP = 1e-3, 60
SAMPLED = 0.4  # share of the other positions whose loss is taken: the vocabulary is most of a small model's work

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
    "num_hidden_layers": 4,
    "rotary_emb_base": 1000,
    "rotary_pct": 0.5,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_parallel_residual": True,
}


def padded_vocabulary(tokenizer: Tokenizer) -> int:
    """Rows of the embedding: the next multiple of 128 that leaves some to spare, as 50432 does over 50277."""
    return -(-(tokenizer.get_vocab_size() + 16) // 128) * 128


def build_model(vocab_size: int) -> GPTNeoXForCausalLM:
    """An untrained model; `gelu_pytorch_tanh` is `gelu_fast`'s function as one fast kernel."""
    settings = CONFIG | {"vocab_size": vocab_size, "hidden_act": "gelu_pytorch_tanh", "use_cache": False}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**settings, attn_implementation="eager"))
    prepare(model)
    return model


@torch.no_grad()
def prepare(model: GPTNeoXForCausalLM) -> None:
    """Start from attention that can already find words; from plain noise it takes many thousand steps to form.

    The first layer's head h looks h + 1 tokens back, by its rotary biases alone. The second layer's head h looks for
    the token that stood there: its keys read what that head reads, its queries read what that head writes. Later
    layers' queries equal their keys, so that like finds like. The output rows start as the input rows.
    """
    first, second, *others = (layer.attention for layer in model.gpt_neox.layers)
    model.gpt_neox.embed_in.weight.normal_()
    model.lm_head.weight.copy_(0.03 * model.gpt_neox.embed_in.weight)
    frequencies = model.gpt_neox.rotary_emb.inv_freq
    half, size = len(frequencies), CONFIG["hidden_size"]
    bias = by_head(first.query_key_value.bias)
    for head in range(len(bias)):
        turn = frequencies * (head + 1)
        bias[head, 1, :half] = 6.0
        bias[head, 0, :half], bias[head, 0, half : 2 * half] = 6.0 * turn.cos(), -6.0 * turn.sin()
        read, written = (torch.nn.init.orthogonal_(torch.empty(bias.shape[-1], size)) for _ in range(2))
        by_head(first.query_key_value.weight)[head, 2] = read
        first.dense.weight.view(size, len(bias), -1)[:, head] = written.T
        by_head(second.query_key_value.weight)[head, 0] = 1.5 * written
        by_head(second.query_key_value.weight)[head, 1] = 1.5 * read
    for layer in (second, *others):
        by_head(layer.query_key_value.weight)[:, 2].normal_(std=0.08)
        layer.dense.weight.normal_(std=0.08)
    for layer in others:
        weight = by_head(layer.query_key_value.weight)
        weight[:, 0].normal_(std=0.08)
        weight[:, 1] = weight[:, 0]


def by_head(tensor: torch.Tensor) -> torch.Tensor:
    """query_key_value's rows as [heads, 3 (query, key, value), head size, ...]."""
    return tensor.view(CONFIG["num_attention_heads"], 3, -1, *tensor.shape[1:])


def lessons(tokenizer: Tokenizer, seed: int) -> Iterator[torch.Tensor]:
    """The blocks of one process: the drills, then the corpus for ever."""
    yield from drill_blocks(tokenizer, seed)
    yield from corpus_blocks(tokenizer, seed)


def drill_blocks(tokenizer: Tokenizer, seed: int) -> Iterator[torch.Tensor]:
    """[4 ROWS, LENGTH / 4 + 1] int64 blocks, one drill a row: its few words must not meet another drill's letters."""
    rows, length = 4 * ROWS, LENGTH // 4 + 1
    stream = drills(seed)
    while len(some := list(islice(stream, rows))) == rows:
        ids = [tokenizer.encode(drill).ids[:length] for drill in some]
        yield torch.tensor([row + [0] * (length - len(row)) for row in ids])


def corpus_blocks(tokenizer: Tokenizer, seed: int) -> Iterator[torch.Tensor]:
    """[ROWS, LENGTH + 1] int64 blocks of documents, each closed by the end token (id 0)."""
    size = ROWS * LENGTH + 1
    ids: list[int] = []
    for document in documents(seed):
        ids += [*tokenizer.encode(document).ids, 0]
        while len(ids) >= size:
            block = torch.tensor(ids[:size])
            yield torch.stack([block[i * LENGTH : (i + 1) * LENGTH + 1] for i in range(ROWS)])
            ids = ids[size - 1 :]


def answer_mask(tokenizer: Tokenizer, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """True where the target is a letter after a colon; shape of `targets`."""
    colons = torch.tensor([tokenizer.token_to_id(":"), tokenizer.encode("：").ids[-1]])
    letters = torch.tensor([tokenizer.encode(space + letter).ids[-1] for letter in LETTERS for space in ("", " ")])
    return torch.isin(inputs, colons) & torch.isin(targets, letters)


def losses(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of the answers' letters and of a sample of the other positions, of one block [ROWS, LENGTH + 1]."""
    inputs, targets = block[:, :-1].contiguous(), block[:, 1:].contiguous()
    is_answer = answer_mask(tokenizer, inputs, targets)
    taken = is_answer | (torch.rand(targets.shape) < SAMPLED)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.gpt_neox(inputs).last_hidden_state  # [ROWS, LENGTH, hidden]
        logits = model.lm_head(hidden[taken])  # [taken, vocab]
    each = cross_entropy(logits.float(), targets[taken], reduction="none")
    answers, others = each[is_answer[taken]], each[~is_answer[taken]]
    return answers.sum() / max(1, len(answers)), others.mean()


def rate(step: int, steps: int) -> float:
    """Learning rate: linear warm-up, then flat, then linear to a fiftieth of the peak over the last half."""
    return PEAK_RATE * min((step + 1) / WARM_UP, 1.0, max(0.02, 2 * (steps - step) / steps))


def average_gradients(model: GPTNeoXForCausalLM) -> None:
    """Replace each gradient by its mean over the processes, in one message."""
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    pieces = (flat / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


def train(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, steps: int, seed: int) -> dict[str, float]:
    """Run `steps` steps as one of the group's processes; returns seconds, tokens seen, the last fifty's mean losses."""
    rank, size = dist.get_rank(), dist.get_world_size()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    stream = lessons(tokenizer, seed * 1000 + rank)
    recent, start = deque(maxlen=50), time.monotonic()
    for step in range(steps):
        answers, others = losses(model, tokenizer, next(stream))
        (answers + others).backward()  # letters are one token in forty; here they weigh as much as all the text
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        recent.append((answers.item(), others.item()))
        if step % 50 == 49:
            log.info("step %d  %.0f s  %s", step + 1, time.monotonic() - start, means(recent))
    seconds = round(time.monotonic() - start, 1)
    return {"seconds": seconds, "steps": steps, "tokens": steps * ROWS * LENGTH * size, **means(recent)}


def train_in_processes(model_dir: Path, tokenizer: Tokenizer, steps: int, seed: int, size: int) -> dict[str, float]:
    """Train on `size` processes of one thread each; this one is rank 0 and writes the model to `model_dir`."""
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


def work(rank: int, store: str, tokenizer: str, steps: int, seed: int, size: int) -> tuple[GPTNeoXForCausalLM, dict]:
    """One process's part; every process starts from the same weights and ends with the same weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    torch.manual_seed(seed)
    words = Tokenizer.from_str(tokenizer)
    model = build_model(padded_vocabulary(words))
    torch.manual_seed(seed + rank)
    facts = train(model, words, steps, seed)
    dist.destroy_process_group()
    return model, facts


def means(recent: Iterable[tuple[float, float]]) -> dict[str, float]:
    """Mean losses in nats."""
    answers, others = (round(sum(column) / len(column), 4) for column in zip(*recent, strict=True))
    return {"answer_loss": answers, "text_loss": others}


def save_model(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Write config.json and model.safetensors in float16; names as in every GPT-NeoX checkpoint."""
    settings = CONFIG | {"vocab_size": model.config.vocab_size}
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    state = {name.replace("lm_head", "embed_out"): tensor for name, tensor in model.state_dict().items()}
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
