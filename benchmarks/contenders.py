"""Each library behind one method, `generate(prompts, tokens) -> Answer`.

A library is imported in its own process only.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import convert

Prompts = list[list[int]]  # [batch][prompt] token ids


@dataclass
class Answer:
    """New ids [batch][tokens], and the ms of every step; the first one reads the prompt."""

    tokens: list[list[int]]
    steps_ms: list[float]


@dataclass
class Ticks:
    """Wall-clock time from call to call."""

    last: float = field(default_factory=time.perf_counter)
    steps_ms: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        now = time.perf_counter()
        self.steps_ms.append(1e3 * (now - self.last))
        self.last = now


class Transformers:
    """transformers' generate, eager, with its standard attention (sdpa) and cache."""

    def __init__(self, model_dir: Path, threads: int, dtype: str, **options: Any) -> None:
        import torch
        from transformers import GPTNeoXForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        self.about = {"version": f"transformers {version('transformers')}"}
        self.model = GPTNeoXForCausalLM.from_pretrained(model_dir, dtype=dtype, **options).eval()
        self.about["bytes"] = (
            self.model.num_parameters() - _embedding(model_dir)
        ) * self.model.dtype.itemsize

    def generate(self, prompts: Prompts, tokens: int) -> Answer:
        from transformers import StoppingCriteria

        torch = self.torch
        ticks = Ticks()

        class Tick(StoppingCriteria):  # asked once after every token
            def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
                ticks()
                return torch.zeros(len(ids), dtype=torch.bool)

        ids = torch.tensor(prompts)
        with torch.inference_mode():
            new = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                stopping_criteria=[Tick()],
            )
        return Answer(new[:, ids.shape[1] :].tolist(), ticks.steps_ms)


class TransformersRanks(Transformers):
    """The same over ranks: transformers' tensor parallelism over gloo, as torchrun starts it."""

    def __init__(
        self, model_dir: Path, threads: int, dtype: str, ranks: int, master: str = ""
    ) -> None:
        self.others = []
        if not master:  # this is rank 0, and starts the others
            master = str(_free_port())
            options = {"dtype": dtype, "ranks": ranks, "master": master}
            self.others = [
                self._start(rank, model_dir, threads, options) for rank in range(1, ranks)
            ]
            os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0"
        os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": master}
        super().__init__(model_dir, threads // ranks, dtype, tp_plan="auto")
        self.about["version"] += f", tp_plan auto, {ranks} ranks, gloo"

    def _start(
        self, rank: int, model_dir: Path, threads: int, options: dict[str, Any]
    ) -> subprocess.Popen:
        start = {
            "contender": type(self).__name__,
            "model_dir": str(model_dir),
            "threads": threads,
            "options": options,
        }
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", "benchmarks.worker", json.dumps(start)]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )

    def tell_others(self, line: str) -> None:
        """Every rank gets the same requests."""
        for other in self.others:
            other.stdin.write(line.encode())
            other.stdin.flush()


class CTranslate2:
    """CTranslate2's Generator, greedy."""

    def __init__(self, model_dir: Path, threads: int, kind: str) -> None:
        import ctranslate2

        folder = convert.ctranslate2_folder(model_dir, kind)
        self.generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
        )
        vocabulary = json.loads((model_dir / "config.json").read_text())["vocab_size"]
        self.words = [f"t{n}" for n in range(vocabulary)]
        width = {"int8": 1, "float32": 4}[kind]
        size = (folder / "model.bin").stat().st_size - _embedding(model_dir) * width
        self.about = {"version": f"CTranslate2 {ctranslate2.__version__}", "bytes": size}

    def generate(self, prompts: Prompts, tokens: int) -> Answer:
        ticks = Ticks()

        def tick(step: Any) -> bool:  # called for each row of a step
            if step.batch_id == 0:
                ticks()
            return False

        results = self.generator.generate_batch(
            [[self.words[i] for i in row] for row in prompts],
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            callback=tick,
        )
        return Answer([list(result.sequences_ids[0]) for result in results], ticks.steps_ms)


class LlamaCpp:
    """llama.cpp through its C interface, a sequence per row, greedy."""

    def __init__(self, model_dir: Path, threads: int, kind: str) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self.threads = threads
        self.vocabulary = json.loads((model_dir / "config.json").read_text())["vocab_size"]
        path = convert.gguf_file(model_dir, kind)
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path.name}")
        name = f"llama.cpp in llama-cpp-python {llama_cpp.__version__}, {kind}"
        self.about = {"version": name, "bytes": convert.gguf_bytes(path)}

    def generate(self, prompts: Prompts, tokens: int) -> Answer:
        lib = self.lib
        rows = len(prompts)
        length = len(prompts[0])
        context = self._context(rows, length + tokens)
        batch = lib.llama_batch_init(rows * length, 0, 1)
        try:
            new = []
            ticks = Ticks()
            step = prompts
            for n in range(tokens):
                new.append(self._step(context, batch, step, 0 if n == 0 else length + n - 1))
                step = [[token] for token in new[-1]]
                ticks()
            return Answer([list(row) for row in zip(*new, strict=True)], ticks.steps_ms)
        finally:
            lib.llama_batch_free(batch)
            lib.llama_free(context)

    def _context(self, rows: int, length: int) -> Any:
        parameters = self.lib.llama_context_default_params()
        each = (length + 255) // 256 * 256
        parameters.n_seq_max = rows
        parameters.n_ctx = rows * each
        parameters.n_batch = rows * each
        parameters.n_threads = parameters.n_threads_batch = self.threads
        return self.lib.llama_init_from_model(self.model, parameters)

    def _step(self, context: Any, batch: Any, rows: Prompts, start: int) -> list[int]:
        """Take in each row's tokens from position `start`; the most likely next token of each."""
        import numpy as np

        where = 0
        last = []
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                batch.token[where] = token
                batch.pos[where] = start + offset
                batch.seq_id[where][0] = row
                batch.n_seq_id[where] = 1
                batch.logits[where] = offset == len(tokens) - 1
                where += 1
            last.append(where - 1)
        batch.n_tokens = where
        if code := self.lib.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode says {code}")
        logits = (self.lib.llama_get_logits_ith(context, i) for i in last)
        return [int(np.ctypeslib.as_array(row, (self.vocabulary,)).argmax()) for row in logits]


class Neoxlib:
    """neoxlib.load in this process."""

    def __init__(
        self, model_dir: Path, threads: int, dtype: str, quant: str | None = None, **options: Any
    ) -> None:
        import torch

        import neoxlib
        from neoxlib.machine.environment import describe

        torch.set_num_threads(threads)
        self.engine = neoxlib.load(
            model_dir, dtype=dtype, quant=quant, max_seq_len=WINDOW, **options
        )
        self.engine.wait_until_resident()
        self.about = {
            "version": f"neoxlib {describe('cpu')['git']}",
            "bytes": _weights(model_dir, dtype, quant),
        }

    def generate(self, prompts: Prompts, tokens: int) -> Answer:
        start = time.perf_counter()
        answers = self.engine.generate(prompts, max_new_tokens=tokens)
        wall = 1e3 * (time.perf_counter() - start)
        clocked = answers[0].timings.step_ms
        rest = (wall - sum(clocked)) / len(
            clocked
        )  # what its own clocks leave out: text, and the way to the ranks
        return Answer([answer.token_ids for answer in answers], [step + rest for step in clocked])


class NeoxlibRanks(Neoxlib):
    """neoxlib.Session: the same over ranks."""

    def __init__(
        self, model_dir: Path, threads: int, dtype: str, ranks: int, quant: str | None = None
    ) -> None:
        import neoxlib
        from neoxlib.machine.environment import describe

        os.environ["OMP_NUM_THREADS"] = str(threads // ranks)
        self.engine = neoxlib.Session(
            model_dir, world_size=ranks, dtype=dtype, device="cpu", quant=quant, max_seq_len=WINDOW
        )
        self.engine.wait_until_resident()
        backend = self.engine.describe()["backend"]
        name = f"neoxlib {describe('cpu')['git']}, {ranks} ranks, {backend}"
        self.about = {"version": name, "bytes": _weights(model_dir, dtype, quant)}


WINDOW = 2048
ALL = (Transformers, TransformersRanks, CTranslate2, LlamaCpp, Neoxlib, NeoxlibRanks)
KINDS = {kind.__name__: kind for kind in ALL}


def _embedding(model_dir: Path) -> int:
    """Numbers in the embedding, of which a token reads one row."""
    config = json.loads((model_dir / "config.json").read_text())
    return config["vocab_size"] * config["hidden_size"]


def _weights(model_dir: Path, dtype: str, quant: str | None) -> int:
    """Bytes of weights that neoxlib reads for a token."""
    from neoxlib.checkpoint.plan import parameter_plan

    return sum(
        row.total_bytes
        for row in parameter_plan(model_dir, 1, dtype, quant)
        if "embed_in" not in row.tensor
    )


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
