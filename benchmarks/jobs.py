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


def origin(model_dir: str) -> dict[str, Any]:
    """Compare a cut with its source, as the notebooks' parity check does."""
    from neoxlib.inference.parity import ORIGIN, check_origin

    run = _Checks()
    start = time.perf_counter()
    check_origin(model_dir, run)
    assert run.found == {ORIGIN: True}
    return {"origin_s": time.perf_counter() - start}


class _Checks:
    """What a check needs of a run."""

    def __init__(self) -> None:
        self.results: dict[str, list[Any]] = {"checks": []}
        self.found: dict[str, bool] = {}

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.found[name] = passed


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


def decode_off(
    model_dir: str, threads: int, dtype: str, state: str, prompt: int, tokens: int
) -> dict[str, Any]:
    """Decode without taps: never set, set and removed before, or with neoxlib.align imported."""
    import torch

    from neoxlib.inference.load import load
    from neoxlib.inference.timing import Case

    torch.set_num_threads(threads)
    engine = load(model_dir, dtype=dtype, max_seq_len=prompt + tokens)
    engine.wait_until_resident()
    engine.profile(Case(1, 8, 8, repeats=1, warmup=0))
    if state == "set and removed":
        engine.activations([[1, 2, 3]], ["gpt_neox.layers.0", "embed_out"])
    if state == "align imported":
        import neoxlib.align.study  # noqa: F401
    assert ("neoxlib.align" in sys.modules) == (state == "align imported")
    (steps,) = engine.profile(Case(1, prompt, tokens, repeats=1, warmup=0))
    parts = (steps[part] for part in ("pre", "forward", "communication", "post"))
    walls = [sum(step) for step in zip(*parts, strict=True)][1:]
    return {"next_ms": median(walls), "tokens_per_s": 1e3 * len(walls) / sum(walls)}


def look(
    model_dir: str, threads: int, dtype: str, kind: str, folder: str, rows: list[list[int]]
) -> dict[str, Any]:
    """A prefill of all but the last 8 ids of `rows`, and these as decode steps.

    With a capture of the `kind` into `folder`, or, without a kind, as it is.
    """
    import torch

    from neoxlib.align.capture import capture
    from neoxlib.inference.activations import forced
    from neoxlib.inference.load import load

    torch.set_num_threads(threads)
    engine = load(model_dir, dtype=dtype, max_seq_len=len(rows[0]))
    engine.wait_until_resident()
    engine.logits(rows)  # as wide as what follows: the kernels' buffers are there
    prompts, then = [row[:-8] for row in rows], [row[-8:] for row in rows]
    work = forced(prompts, then)
    start = time.perf_counter()
    if kind:
        capture(engine, folder, prompts, then, kind=kind)
    else:
        cache = engine.model.new_cache(*work.ids.shape)
        with torch.inference_mode():
            for first, end in work.passes:
                engine.model(work.ids[:, first:end], cache, work.mask[:, first:end])
    return {"passes_s": time.perf_counter() - start}


def hold(threads: int, folder: str) -> dict[str, Any]:
    """Hold a capture against its checkpoint, one layer at a time in float64."""
    import torch

    from neoxlib.align.localize import localize
    from neoxlib.align.reader import read_capture

    torch.set_num_threads(threads)
    start = time.perf_counter()
    found = localize(read_capture(folder))
    guilty = sum(one.guilty for one in found.findings)
    return {"hold_s": time.perf_counter() - start, "guilty": guilty}


def session(
    model_dir: str, world_size: int, rows: list[list[int]], encrypted: bool
) -> dict[str, Any]:
    """Start a session, then calls without work, and logits of `rows`."""
    from neoxlib import Session

    if not encrypted:
        _leave_open()
    start = time.perf_counter()
    with Session(model_dir, world_size) as opened:
        started = time.perf_counter() - start
        assert bool(opened._own._client.curve_serverkey) == encrypted
        opened.wait_until_resident()
        opened.logits(rows)
        calls = [_seconds(opened.wait_until_resident) for _ in range(100)]
        logits = [_seconds(opened.logits, rows) for _ in range(9)]
    return {
        "start_s": started,
        "call_ms": 1e3 * median(calls),
        "logits_ms": 1e3 * median(logits),
    }


def _leave_open() -> None:
    """Have the controllers of sessions encrypt nothing."""
    from neoxlib.ranks import launch

    made = launch.new_cluster

    def new_cluster(*given: Any) -> Any:
        cluster = made(*given)
        off = (arg.replace("curve=True", "curve=False") for arg in cluster.controller_args)
        cluster.controller_args = list(off)
        return cluster

    launch.new_cluster = new_cluster


def _seconds(work: Callable[..., Any], *given: Any) -> float:
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f
    for f in (decode, part, shard, origin, load, from_pretrained, decode_off, look, hold, session)
}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](**json.loads(sys.argv[2]))))
