"""A loaded model on one rank: weights, tokenizer, and the questions it answers."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property, wraps
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neoxlib.checkpoint.resident import Residency
from neoxlib.errors import ConfigError, SettingsError
from neoxlib.inference import timing
from neoxlib.inference import trace as inference_trace
from neoxlib.inference.activations import activations
from neoxlib.inference.checked_ids import checked_ids, choice_lists, refuse_no_ids
from neoxlib.inference.contract import Prompt
from neoxlib.inference.decode import Limits
from neoxlib.inference.finite import agree, failure_of
from neoxlib.inference.generator import TextGenerator, listed
from neoxlib.inference.printer import Stream
from neoxlib.inference.rows import KEPT, Answered, keep_first
from neoxlib.inference.sampling import Sampling
from neoxlib.inference.score import OnProgress, Request, Score, log_probabilities
from neoxlib.inference.text import Completion, encode, generate_text, split
from neoxlib.inference.timing import Case
from neoxlib.inference.tokenizer import vocabulary
from neoxlib.machine.runtime import memory_mb
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.layers import shares

if TYPE_CHECKING:
    import numpy as np


def _alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method for one thread at a time, without the caller's autocast and default device.

    Kernels and caches are used again from call to call, and the numbers are to be the model's own.
    """

    @wraps(method)
    def call(self: "Engine", *given: Any, **named: Any) -> Any:
        with self._lock, _no_autocast(self.weight.device.type), _new_tensors_on_cpu():
            return method(self, *given, **named)

    return call


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def _new_tensors_on_cpu() -> AbstractContextManager[Any]:
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class Engine(TextGenerator):
    """A loaded model, made by `neoxlib.load`, or one per rank by `neoxlib.Session`.

    Session has the same methods: see `contract.Inference`. In a group every rank must make the same
    calls; rank 0 gets the answers, the others None or an empty list. Calls of several threads are
    answered one after the other.
    """

    def __init__(
        self,
        model: GPTNeoX,
        tokenizer: PreTrainedTokenizerBase | None,
        max_seq_len: int,
        about: dict[str, Any],
        residency: Residency | None = None,
    ) -> None:
        self.model = model
        self.config = model.config
        self.group = model.group
        self.max_seq_len = max_seq_len
        self._tokenizer = tokenizer
        self._about = about
        self.residency = residency
        self.weight = model.gpt_neox.final_layer_norm.weight  # its dtype and device are the model's
        self.first_answers: list[Answered] = []  # as they were given, on rank 0
        self._lock = threading.RLock()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer. Raises ConfigError when the folder has none."""
        if self._tokenizer is None:
            raise ConfigError(
                f"{self._about['model_dir']} has no tokenizer (tokenizer.json, or vocab.json and "
                "merges.txt); copy the checkpoint's tokenizer files there, or give token ids"
            )
        return self._tokenizer

    @property
    def groups(self) -> "list[Engine]":
        """This engine alone: an Engine has no replicas."""
        return [self]

    @cached_property
    def limits(self) -> Limits:
        """The ids that have a token, those that end a text, and the longest text."""
        known = vocabulary(self._tokenizer, self.config.vocab_size)
        ends = tuple(self._about.get("end_of_text", ()))
        return Limits(ends, known.tokenizer_size, self.max_seq_len, known.holes)

    @property
    def tokenizer_size(self) -> int:
        """One more than the tokenizer's last id; rows from there on are padding, never chosen."""
        return self.limits.tokenizer_size

    @_alone
    def _generate(
        self, stream: Stream | None, prompts: Sequence[Prompt], *settings: Any, **more: Any
    ) -> list[Completion]:
        """Continue `prompts` and keep the first answers for `parity`."""
        self._check_files()
        sampling = Sampling(*settings, **more)
        bare = self._tokenizer is None and not any(isinstance(prompt, str) for prompt in prompts)
        tokenizer = None if bare else self.tokenizer
        answers = generate_text(self.model, tokenizer, prompts, sampling, self.limits, stream)
        if answers and len(self.first_answers) < KEPT:
            given = zip(encode(tokenizer, prompts), answers, strict=True)
            texts = ((ids, one.token_ids, sum(one.logprobs)) for ids, one in given)
            keep_first(self.first_answers, self.limits, texts)
        return answers

    @_alone
    @torch.inference_mode()
    def logits(self, input_ids: Any, attention_mask: Any = None) -> Tensor | None:
        """Logits [B, S, vocab] float32 on the CPU for `input_ids` [B, S]; None off rank 0.

        The mask [B, S] may pad left or right. All rows of the vocabulary are included, also those
        past the tokenizer's last id.
        Raises SettingsError for ids, shapes or lengths that the model cannot take, NotFiniteError,
        on all ranks, for logits with NaN or infinity where the mask is 1.
        """
        self._check_files()
        ids, mask = checked_ids(input_ids, attention_mask, self.config.vocab_size, self.max_seq_len)
        self.model.free_idle_caches()
        cache = KVCache(self.config, *ids.shape, self.group, self.weight.dtype, self.weight.device)
        padding = None if mask.all() else mask.to(self.weight.device)
        logits = self.group.gather(
            self.model(ids.to(self.weight.device), cache, padding),
            sizes=shares(self.config.vocab_size, self.group.size),
        )
        logits = None if logits is None else logits.float().cpu()
        agree(self.model, None if logits is None else failure_of(logits, ids, mask))
        return logits

    @_alone
    def activations(
        self, prompts: Sequence[Prompt], names: Sequence[str]
    ) -> "list[dict[str, np.ndarray]]":
        """What the steps `names` compute for each prompt: arrays [tokens, ...] float32, by name.

        Names are those of the checkpoint's modules (see model/steps.py) and may hold * and ?; the
        ranks' parts are joined. Rank 0 has the answer. Raises SettingsError for unknown names.
        """
        self._check_files()
        prompts = listed(prompts)
        bare = not any(isinstance(prompt, str) for prompt in prompts)
        ids = encode(None if bare else self.tokenizer, prompts)
        return activations(self.model, ids, listed(names), self.max_seq_len)

    def score(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probability of each choice after each prompt.

        `choices` is one list for all prompts, or one per prompt. A choice's tokens are those that
        prompt + choice has beyond prompt, as lm-evaluation-harness splits them: blanks at the end
        of a prompt go to the choice. If a prompt is given as ids, the choice's own ids follow it.
        Raises SettingsError, before any work, for empty or over-long prompts and for choices that a
        token joins to the prompt, and NotFiniteError, on all ranks, for logits with NaN or
        infinity.
        """
        prompts = listed(prompts)
        lists = choice_lists(prompts, listed(choices))
        requests = [Request(*pair) for pair in split(self.tokenizer, prompts, lists)]
        values = iter(self._scores(requests, self.limits))
        if self.group.rank:
            return []
        return [[next(values).logprob for _ in several] for several in lists]

    def score_ids(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        stream: OnProgress | None = None,
        tokenizer_size: int | None = None,
    ) -> list[Score]:
        """(log-probability, is greedy) of each (context ids, continuation ids).

        Shared prefixes are computed once. `stream(done, total)` is called after each batch.
        Probabilities are over the first
        `tokenizer_size` rows of the vocabulary, by default those that the tokenizer has.
        Raises SettingsError, before any work, for requests that are empty, too long or hold ids
        past those rows, and NotFiniteError, on all ranks, for logits with NaN or infinity.
        """
        asked = [Request(*request) for request in requests]
        refuse_no_ids(asked)
        _check_tokenizer_size(tokenizer_size, self.config.vocab_size)
        limits = Limits((), tokenizer_size, self.max_seq_len) if tokenizer_size else self.limits
        return self._scores(asked, limits, stream or None)

    @_alone
    def _scores(
        self, requests: Sequence[Request], limits: Limits, progress: OnProgress | None = None
    ) -> list[Score]:
        self._check_files()
        self.model.free_idle_caches()
        rows = limits.tokenizer_size, limits.max_seq_len
        found = log_probabilities(self.model, requests, *rows, progress, limits.holes) or []
        scored = zip(requests, found, strict=bool(found))
        keep_first(self.first_answers, limits, ((*asked, score.logprob) for asked, score in scored))
        return found

    @_alone
    def profile(self, case: Case) -> list[dict[str, list[float]]]:
        """Time `case`: per repeat a dict of lists, milliseconds by step; see `timing.profile`."""
        self.wait_until_resident()
        return timing.profile(timing.Work(self.model, self._tokenizer, self.max_seq_len, case))

    @_alone
    def trace(self, case: Case, folder: str | os.PathLike[str]) -> str:
        """Run the first steps of `case`, warmed up, under the device's profiler.

        The profiler is torch_npu's on an NPU, PyTorch's on a CPU. Each rank's trace is in `folder`,
        in Perfetto's format, which `speed.traces.read_trace` also reads.
        """
        self.wait_until_resident()
        inference_trace.record(
            timing.Work(self.model, self._tokenizer, self.max_seq_len, case), Path(folder)
        )
        return str(folder)

    def memory(self) -> list[dict[str, float]]:
        """MB of each rank: on a CPU the process's peak, on an NPU `peak` and `allocated`.

        `peak` is since loading, `allocated` is now.
        """
        mine = memory_mb(self.weight.device)
        row = torch.tensor([list(mine.values())], dtype=torch.float32, device=self.weight.device)
        everyone = self.group.gather(row, dim=0)  # [ranks, figures]
        return (
            []
            if everyone is None
            else [dict(zip(mine, row, strict=True)) for row in everyone.cpu().tolist()]
        )

    def wait_until_resident(self) -> None:
        """Wait for the background work after a load: before measuring, or changing weights."""
        if self.residency:
            self.residency.wait()

    settle = wait_until_resident  # its former name

    def _check_files(self) -> None:
        """Raise WeightsError if another program has written to weights that are still mapped."""
        if self.residency:
            self.residency.check_files()

    def describe(self) -> dict[str, Any]:
        """Describe for reports which model is loaded, where and how."""
        return dict(self._about)

    @property
    def graph_use(self) -> dict[str, Any]:
        """Graphs captured, the seconds that took, tokens replayed, and why it failed if it did.

        Empty if decode is not captured: `describe` says why.
        """
        graphs = getattr(self.model.executor, "graphs", None)
        return asdict(graphs.use) if graphs else {}

    def close(self) -> None:
        """Leave the group."""
        if self.residency:
            self.residency.end()
        self.group.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        about = self._about
        rank = f"rank {self.group.rank} of {self.group.size}"
        where = f"{about['dtype']} on {about['device']}"
        return f"Engine({Path(about['model_dir']).name}, {where}, {rank})"


def _check_tokenizer_size(rows: int | None, most: int) -> None:
    whole = isinstance(rows, Integral) and not isinstance(rows, bool)
    if rows is not None and not (whole and 1 <= rows <= most):
        raise SettingsError(
            f"tokenizer_size is {rows!r}; the model has {most} rows, it is a whole number of them"
        )
