"""The work that benchmarks do in fresh processes. The last line of output is a JSON object."""

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any


def decode(
    model_dir: str, threads: int, dtype: str, quant: str | None, prompt: int, tokens: int
) -> dict[str, Any]:
    """neoxlib.load, then `tokens` tokens after a prompt of random ids."""
    import torch

    import neoxlib
    from neoxlib.checkpoint.plan import parameter_plan
    from neoxlib.inference.timing import Case

    torch.set_num_threads(threads)
    start = time.perf_counter()
    engine = neoxlib.load(model_dir, dtype=dtype, quant=quant, max_seq_len=prompt + tokens)
    loaded = time.perf_counter() - start
    engine.profile(Case(1, 8, 2, repeats=1, warmup=0))
    (steps,) = engine.profile(Case(1, prompt, tokens, repeats=1, warmup=0))
    parts = (steps[part] for part in ("pre", "forward", "communication", "post"))
    walls = [sum(step) for step in zip(*parts, strict=True)]
    rows = parameter_plan(model_dir, 1, dtype, quant)
    read = sum(row.total_bytes for row in rows if "embed_in" not in row.tensor)
    return {
        "load_s": loaded,
        "first_ms": walls[0],
        "next_ms": median(walls[1:]),
        "bytes": read,
        "steps_ms": walls,
    }


def part(model_dir: str, threads: int, dtype: str, rank: int, size: int) -> dict[str, Any]:
    """The weights that one rank of `size` holds, read from an unsplit checkpoint."""
    import torch

    from neoxlib.checkpoint import load as checkpoint_load
    from neoxlib.model.config import ModelConfig
    from neoxlib.model.gpt_neox import GPTNeoX
    from neoxlib.model.group import Group

    torch.set_num_threads(threads)
    group = Group()
    group.rank = rank
    group.size = size
    start = time.perf_counter()
    with torch.device("meta"):
        model = GPTNeoX(ModelConfig.from_dir(model_dir), group).to(getattr(torch, dtype))
    checkpoint_load.load_into(model, model_dir)
    return {
        "load_s": time.perf_counter() - start,
        "bytes": sum(p.nbytes for p in model.parameters()),
    }


def shard(src: str, dst: str, world_size: int, quant: str | None = None) -> dict[str, Any]:
    """Cut a checkpoint."""
    from neoxlib.checkpoint.shard import shard

    start = time.perf_counter()
    shard(src, dst, world_size, quant=quant, progress=False)
    return {"shard_s": time.perf_counter() - start}


def load(model_dir: str, threads: int, dtype: str, quant: str | None = None) -> dict[str, Any]:
    """neoxlib.load, and a first token: by then all weights were read."""
    import torch

    from neoxlib.inference.load import load

    torch.set_num_threads(threads)
    start = time.perf_counter()
    engine = load(model_dir, dtype=dtype, quant=quant)
    loaded = time.perf_counter()
    engine.logits([[0]])
    ready = time.perf_counter()
    engine.wait_until_resident()
    return {
        "load_s": loaded - start,
        "ready_s": ready - start,
        "settled_s": time.perf_counter() - start,
    }


def from_pretrained(model_dir: str, threads: int, dtype: str) -> dict[str, Any]:
    """The same with transformers."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXForCausalLM

    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = GPTNeoXForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    AutoTokenizer.from_pretrained(model_dir)
    loaded = time.perf_counter()
    with torch.inference_mode():
        model(torch.tensor([[0]]))
    return {"load_s": loaded - start, "ready_s": time.perf_counter() - start}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (decode, part, shard, load, from_pretrained)
}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](**json.loads(sys.argv[2]))))
