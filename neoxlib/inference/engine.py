"""One rank's whole: the model with its weights and tokenizer, and what one may ask of it."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neoxlib.checkpoint import load as checkpoint_load
from neoxlib.checkpoint.folder import Checkpoint, fingerprint, open_checkpoint
from neoxlib.checkpoint.pack import choose_quant
from neoxlib.checkpoint.resident import Settling
from neoxlib.errors import ConfigError, SettingsError
from neoxlib.inference import timing
from neoxlib.inference import trace as inference_trace
from neoxlib.inference.answered import KEPT, Answered, keep_first
from neoxlib.inference.decode import Limits
from neoxlib.inference.finite import agree, failure_of
from neoxlib.inference.printer import Printer
from neoxlib.inference.sampling import Sampling
from neoxlib.inference.score import Progress, Request, Score, log_probabilities
from neoxlib.inference.text import (
    Completion,
    Stream,
    choice_lists,
    encode,
    generate_text,
    refuse_no_ids,
    split,
)
from neoxlib.inference.timing import Case
from neoxlib.inference.tokenizer import about_ends, end_ids, load_tokenizer, vocabulary
from neoxlib.kernels.cpu import build
from neoxlib.machine.devices import chip_for, pick_device, pick_dtype
from neoxlib.machine.runtime import fit_threads, memory_mb, start_npu
from neoxlib.model import on_cpu, on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig, sequence_window
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group, check_same, on_all
from neoxlib.model.parameters import count_parameters

Prompt = str | Sequence[int]
SMALL_FILES = (  # every rank reads them by itself
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)


class Engine:
    """A loaded model. Made by `neoxlib.load`, or one per rank by `neoxlib.Session`, which has the same methods.

    In a group every rank must make the same calls; rank 0 gets the answers, the others None or an empty list.
    """

    def __init__(
        self,
        model: GPTNeoX,
        tokenizer: PreTrainedTokenizerBase | None,
        max_seq_len: int,
        about: dict[str, Any],
        settling: Settling | None = None,
    ) -> None:
        self.model = model
        self.config = model.config
        self.group = model.group
        self.max_seq_len = max_seq_len
        self._tokenizer = tokenizer
        self._about = about
        self._settling = settling
        self.weight = model.gpt_neox.final_layer_norm.weight  # its dtype and device are the model's
        self.first_answers: list[Answered] = []  # as they were given, on rank 0

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer. Raises ConfigError when the folder has none."""
        if self._tokenizer is None:
            raise ConfigError(
                f"{self._about['model_dir']} has no tokenizer (tokenizer.json, or vocab.json and "
                "merges.txt); copy the checkpoint's tokenizer files there, or give token ids"
            )
        return self._tokenizer

    @cached_property
    def limits(self) -> Limits:
        """Which ids there are, which of them end a text, and how long one may be."""
        known = vocabulary(self._tokenizer, self.config.vocab_size)
        ends = tuple(self._about.get("end_of_text", ()))
        return Limits(ends, known.real_ids, self.max_seq_len, known.holes)

    @property
    def real_ids(self) -> int:
        """One more than the tokenizer's last id; rows from there on are padding, never chosen."""
        return self.limits.real_ids

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        stream: bool | Stream = False,
        *,
        stop_token_ids: int | Sequence[int] | None = None,
        skip_special_tokens: bool = True,
    ) -> list[Completion]:
        """Continue `prompts` (texts, or lists of token ids), all in one batch.

        A row ends at the end of text (see `tokenizer.end_ids`), at one of `stop_token_ids`, or
        before a string of `stop`, which may name special tokens: it is looked for in what the row
        itself says, with them. Its text is without them, unless `skip_special_tokens` is False.
        `stream=True` prints the text as it comes, or pass a function of (row, piece). A folder
        without a tokenizer takes token ids alone, and `text` is then empty.
        Raises SettingsError, before any work, for bad settings, empty prompts and prompts too long
        for the window.
        """
        settings = max_new_tokens, temperature, top_k, top_p, repetition_penalty, stop, seed
        sampling = Sampling(*settings, stop_token_ids, skip_special_tokens)
        bare = self._tokenizer is None and not any(isinstance(prompt, str) for prompt in prompts)
        tokenizer = None if bare else self.tokenizer
        show = Printer(len(prompts)) if stream is True else stream or None
        answers = generate_text(self.model, tokenizer, prompts, sampling, self.limits, show)
        if isinstance(show, Printer):
            show.close()
        if answers and len(self.first_answers) < KEPT:
            given = zip(encode(tokenizer, prompts), answers, strict=True)
            texts = ((ids, one.token_ids, sum(one.logprobs)) for ids, one in given)
            keep_first(self.first_answers, self.limits, texts)
        return answers

    @torch.inference_mode()
    def logits(self, input_ids: Any, attention_mask: Any = None) -> Tensor | None:
        """Logits [B, S, vocab] float32 on the CPU for `input_ids` [B, S]; the mask [B, S] may pad left or right.

        Every row of the vocabulary is given, those past the tokenizer's last id too. None off rank 0.
        Raises SettingsError for ids, shapes or lengths that the model cannot take, NotFiniteError,
        on all ranks, for logits with NaN or infinity where the mask is 1.
        """
        ids, mask = self._checked(input_ids, attention_mask)
        cache = KVCache(self.config, *ids.shape, self.group, self.weight.dtype, self.weight.device)
        logits = self.group.gather(
            self.model(ids.to(self.weight.device), cache, mask.to(self.weight.device))
        )
        logits = None if logits is None else logits.float().cpu()
        agree(self.model, None if logits is None else failure_of(logits, ids, mask))
        return logits

    def score(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probability of each choice after each prompt; `choices` is one list for all prompts, or one per prompt.

        A choice's tokens are those that prompt + choice has beyond prompt, as lm-evaluation-harness
        splits them: blanks at the end of a prompt go to the choice. To a prompt that is ids the
        choice's own are added.
        Raises SettingsError, before any work, for empty or over-long prompts and for choices that a
        token joins to the prompt, and NotFiniteError, on all ranks, for logits with NaN or
        infinity.
        """
        lists = choice_lists(prompts, choices)
        requests = [Request(*pair) for pair in split(self.tokenizer, prompts, lists)]
        scores = self._scores(requests, self.limits)
        values = iter(scores)
        return [[next(values).logprob for _ in several] for several in lists] if scores else []

    def score_ids(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        stream: Progress | None = None,
        real_ids: int | None = None,
    ) -> list[Score]:
        """(log-probability, is greedy) of each (context ids, continuation ids); shared beginnings are computed once.

        `stream(done, total)` is called after each batch. Probabilities are over the first
        `real_ids` rows of the vocabulary, by default those that the tokenizer has.
        Raises SettingsError, before any work, for requests that are empty, too long or hold ids
        past those rows, and NotFiniteError, on all ranks, for logits with NaN or infinity.
        """
        asked = [Request(*request) for request in requests]
        refuse_no_ids(asked)
        if real_ids is not None and not 1 <= real_ids <= self.config.vocab_size:
            raise SettingsError(
                f"real_ids is {real_ids}; the model has {self.config.vocab_size} rows"
            )
        limits = Limits((), real_ids, self.max_seq_len) if real_ids else self.limits
        return self._scores(asked, limits, stream or None)

    def _scores(
        self, requests: Sequence[Request], limits: Limits, progress: Progress | None = None
    ) -> list[Score]:
        rows = limits.real_ids, limits.max_seq_len
        found = log_probabilities(self.model, requests, *rows, progress, limits.holes) or []
        scored = zip(requests, found, strict=bool(found))
        keep_first(self.first_answers, limits, ((*asked, score.logprob) for asked, score in scored))
        return found

    def profile(self, case: Case) -> list[dict[str, list[float]]]:
        """Time `case`: a dict of lists per repeat, milliseconds of each step by part; see `timing.profile`."""
        self.settle()
        return timing.profile(timing.Work(self.model, self._tokenizer, self.max_seq_len, case))

    def trace(self, case: Case, folder: str | os.PathLike[str]) -> str:
        """Run the first steps of `case`, warmed up, under the device's profiler; the trace of each rank is in `folder`.

        torch_npu's profiler on an NPU, PyTorch's on a CPU; in Perfetto's format, also read by `traces.read`.
        """
        self.settle()
        inference_trace.record(
            timing.Work(self.model, self._tokenizer, self.max_seq_len, case), Path(folder)
        )
        return str(folder)

    def memory(self) -> list[dict[str, float]]:
        """MB of each rank: `peak` since loading and `allocated` now on an NPU, the process's peak on a CPU."""
        mine = memory_mb(self.weight.device)
        row = torch.tensor([list(mine.values())], device=self.weight.device)
        everyone = self.group.gather(row, dim=0)  # [ranks, figures]
        return (
            []
            if everyone is None
            else [dict(zip(mine, row, strict=True)) for row in everyone.cpu().tolist()]
        )

    def settle(self) -> None:
        """Wait until what follows a load in the background is over: measuring starts there, and writing to weights."""
        if self._settling:
            self._settling.wait()

    def describe(self) -> dict[str, Any]:
        """What is loaded, where and how: for reports."""
        return dict(self._about)

    def close(self) -> None:
        """Leave the group."""
        if self._settling:
            self._settling.end()
        self.group.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        about = self._about
        rank = f"rank {self.group.rank} of {self.group.size}"
        return f"Engine({Path(about['model_dir']).name}, {about['dtype']} on {about['device']}, {rank})"

    def _checked(self, input_ids: Any, attention_mask: Any) -> tuple[Tensor, Tensor]:
        """Ids and mask as tensors [B, S]; SettingsError naming what does not fit."""
        ids = _tensor("input_ids", input_ids)
        whole = not ids.is_floating_point() and not ids.is_complex() and ids.dtype != torch.bool
        if ids.ndim != 2 or not ids.numel() or not whole:
            raise SettingsError(
                f"input_ids are {list(ids.shape)} {ids.dtype}; expected whole numbers [batch, tokens]"
            )
        ids = ids.long()
        given = torch.ones_like(ids) if attention_mask is None else attention_mask
        mask = _tensor("attention_mask", given)
        if mask.shape != ids.shape:
            raise SettingsError(
                f"attention_mask is {list(mask.shape)}, but input_ids are {list(ids.shape)}"
            )
        if not ((mask == 0) | (mask == 1)).all():
            raise SettingsError(
                "attention_mask holds other numbers than 1 (a token) and 0 (padding)"
            )
        if ids.shape[1] > self.max_seq_len:
            raise SettingsError(
                f"input_ids have {ids.shape[1]} tokens a row, but max_seq_len is {self.max_seq_len}"
            )
        low = ids.min().item()
        high = ids.max().item()
        last = self.config.vocab_size - 1
        if low < 0 or high > last:
            raise SettingsError(
                f"input_ids reach from {low} to {high}; the vocabulary has ids 0 to {last}"
            )
        return ids, mask.bool()


def _tensor(name: str, value: Any) -> Tensor:
    """`value` as a tensor; SettingsError for rows of unequal lengths and for what is no numbers."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{name} cannot be read as numbers [batch, tokens] ({error}); rows of unequal lengths are "
            "padded to one, with an attention_mask that is 0 there"
        ) from None


def load(
    model_dir: str | os.PathLike[str],
    dtype: str = "float32",
    device: str = "cpu",
    quant: str | None = None,
    max_seq_len: int | None = None,
    compile: bool = True,
    *,
    allow_long: bool = False,
    group: Group = SOLO,
) -> Engine:
    """Load a Hugging Face checkpoint folder, or a folder that `shard` wrote, into this process.

    `dtype` and `device` may be "auto". `max_seq_len` sizes the KV cache: the argument, else the variable MAX_SEQ_LEN,
    else the config. In a `group` of several ranks each reads its own part only. `quant` is "int8" or "int4": weights
    are then packed as they are read; None takes them as they are stored. On a CPU the model runs on kernels compiled
    for it, where there is a C++ compiler, on an NPU on the chip's own operators; `compile=False` keeps to PyTorch's,
    the form people read. Weights may still be copied in the background when this returns: `Engine.settle` waits for it.
    Raises ConfigError, WeightsError, ShardError or SettingsError, each saying what to do.
    """
    device = pick_device(device)
    fit_threads()
    checkpoint = open_checkpoint(model_dir)
    folder = checkpoint.folder
    quant = choose_quant(checkpoint, quant)
    config = ModelConfig.from_dir(folder)
    tokenizer = load_tokenizer(folder)
    known = vocabulary(tokenizer, config.vocab_size)
    ends = end_ids(folder, config, tokenizer)
    dtype = pick_dtype(dtype, device, config.torch_dtype)
    window = sequence_window(config, max_seq_len, allow_long)
    if device == "npu":
        start_npu()
    where = torch.device(device)  # of the NPUs the one that this process has set as its own
    about = {
        "fingerprint": fingerprint(checkpoint),
        "dtype": dtype,
        "quant": quant,
        "max_seq_len": window,
    }
    check_same(group, _facts(checkpoint, about), where)
    with torch.device("meta"):
        model = GPTNeoX(config, group, quant=quant).to(getattr(torch, dtype))
    model = on_cpu.in_one_block(model) if where.type == "cpu" else model.to_empty(device=where)
    able = compile and where.type == "cpu" and build.library("forward") is not None
    compiled = on_all(group, able, where)
    # PyTorch's products may sum in another order where memory begins at another place: they get no pages of files.
    settling = checkpoint_load.load_into(model.eval(), model_dir, lend=compiled, narrow=compiled)
    about |= {
        "model_dir": str(model_dir),
        "parameters": count_parameters(config),
        "device": str(where),
        "world_size": group.size,
        "backend": group.backend,
        "threads": torch.get_num_threads(),
        "compile": _compile(model, where, compile, compiled),
        "compile_s": round(
            build.seconds("pack", *(["forward"] if compile and where.type == "cpu" else [])), 2
        ),
    }
    about |= about_ends(tokenizer, ends, known)
    engine = Engine(model, tokenizer, window, about, settling)
    settling.start()
    return engine


def _facts(checkpoint: Checkpoint, about: dict[str, Any]) -> dict[str, str]:
    """All that each rank reads or is told by itself and that must be the same on every rank."""
    facts = {name: str(fact) for name, fact in about.items()}
    if checkpoint.part[1] > 1:  # each rank reads a part of its own
        del facts["fingerprint"]
    files = [checkpoint.folder / name for name in SMALL_FILES]
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}
    return facts | {name: digests.get(name, "missing") for name in SMALL_FILES}


def _compile(model: GPTNeoX, device: torch.device, wanted: bool, compiled: bool) -> str:
    """Put the device's operators in place; says what the model runs on, and why if not on them."""
    if not wanted:
        return "plain: compile is False"
    if device.type != "cpu":
        chip = chip_for(device.type)
        on_npu.attach(model, chip.family)
        return f"operators for {chip.name}"
    if not compiled:
        return f"plain: {build.why_not('kernels') or 'another rank cannot compile the kernels'}"
    on_cpu.attach(model)
    return "compiled kernels"
