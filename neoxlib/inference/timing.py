"""Time a case on a loaded model, on all ranks together: warm-up, repeats, slowest rank per step.

There are two clocks. The synced one is that of `decode`: it waits for the device after each phase,
so that each phase has a time. The end-to-end one reads the time before and after a whole
continuation and waits for nothing in between.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neoxlib.errors import SettingsError, panics_told
from neoxlib.inference.decode import Clock, DecodeStep, Limits, Rows, decode, run_steps
from neoxlib.inference.sampling import Sampling
from neoxlib.machine.runtime import memory_mb, reset_peak
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX

WARM_TOKENS = 8  # at most, in a warm-up run: enough for one TTFT and a median TPOT
AGREE = 0.1  # two runs agree if no time of the later differs from the earlier's by a larger share
Figures = dict[str, list[float]]


class Deep:
    """A model whose cache already holds `depth` positions, for `decode`, which brings an empty one.

    Their keys and values are random numbers: a token then costs the same as after a prompt of that
    length, and no such prompt has to be read.
    """

    def __init__(self, model: GPTNeoX, cache: KVCache, depth: int) -> None:
        self.model = model
        self.cache = cache
        self.depth = depth
        self.group = model.group
        self.config = model.config
        self.gpt_neox = model.gpt_neox
        for held in cache.layers:  # [2, B, heads here, max_seq_len, head_dim]
            held[:, :, :, :depth].normal_()
        cache.real[:, :depth] = True

    def new_cache(self, batch: int, max_seq_len: int) -> KVCache:
        """The one that holds the positions."""
        return self.cache

    def rewind(self) -> "Deep":
        """Forget everything after the first `depth` positions."""
        self.cache.length = self.depth
        self.cache.real[:, self.depth :] = False
        return self

    def __call__(
        self, ids: Tensor, _: KVCache, mask: Tensor | None, last_only: bool = False
    ) -> Tensor:
        return self.model(ids, self.cache, mask, last_only=last_only)


ZERO_IS_FINE = ("depth", "warmup", "end_to_end_every")


@dataclass(frozen=True)
class Case:
    """`batch_size` prompts of `input_len` tokens, each continued by exactly `output_len` tokens.

    `depth` positions are in the cache before the prompt comes. The case is run at least `repeats`
    times and for at least `min_seconds`, after at most `warmup` short runs. After every
    `end_to_end_every` repeats (0: never) it is run once by the end-to-end clock.
    """

    batch_size: int
    input_len: int
    output_len: int
    depth: int = 0
    repeats: int = 3
    min_seconds: float = 0.0
    warmup: int = 10
    end_to_end_every: int = 0

    def __post_init__(self) -> None:
        bad = [
            f"{name} is {value!r}" for name, value in asdict(self).items() if not _fine(name, value)
        ]
        if bad:
            raise SettingsError(
                "a case is whole numbers of 1 or more (0 only for "
                f"{', '.join(ZERO_IS_FINE)}), and min_seconds of 0 or more: {'; '.join(bad)}"
            )

    @property
    def positions(self) -> int:
        """Tokens that a row needs of the window."""
        return self.depth + self.input_len + self.output_len

    def __str__(self) -> str:
        deep = f"{self.depth} deep, " if self.depth else ""
        return f"batch {self.batch_size}, {deep}{self.input_len} in, {self.output_len} out"


class Work:
    """A case on a model: random prompts of ids that the tokenizer has, no end-of-text, greedy."""

    def __init__(
        self,
        model: GPTNeoX,
        tokenizer: PreTrainedTokenizerBase | None,
        max_seq_len: int,
        case: Case,
    ) -> None:
        refuse_long([case], max_seq_len)
        self.model = model
        self.group = model.group
        self.case = case
        self.tokenizer = tokenizer
        self.weight = model.gpt_neox.final_layer_norm.weight  # its dtype and device are the model's
        vocabulary = model.config.vocab_size
        tokenizer_size = min(len(tokenizer), vocabulary) if tokenizer is not None else vocabulary
        room = max_seq_len if not case.depth else case.input_len + case.output_len
        self.limits = Limits((), tokenizer_size, room)
        generator = torch.Generator().manual_seed(0)
        self.prompts = torch.randint(
            tokenizer_size, (case.batch_size, case.input_len), generator=generator
        ).tolist()
        self.deep = Deep(model, self.new_cache(max_seq_len), case.depth) if case.depth else None

    def new_cache(self, max_seq_len: int) -> KVCache:
        return self.model.new_cache(self.case.batch_size, max_seq_len)

    def synced(self, tokens: int | None = None) -> list[DecodeStep]:
        """Run once by the clock of `decode`; the ranks start together."""
        sampling = Sampling(max_new_tokens=tokens or self.case.output_len)
        model = self.deep.rewind() if self.deep else self.model
        self.group.barrier()
        return list(decode(model, self.prompts, sampling, self.limits))

    @torch.inference_mode()
    def end_to_end(self) -> float:
        """Milliseconds of one run: the steps of `decode`, with no clock or waiting between them."""
        rows = Rows(
            self.prompts, Sampling(max_new_tokens=self.case.output_len), self.limits, 0, None
        )
        model = self.deep.rewind() if self.deep else self.model
        self.group.barrier()
        start = time.perf_counter()
        for _ in run_steps(model, rows, timed=False):
            pass
        return 1e3 * (time.perf_counter() - start)

    def warm_up(self) -> int:
        """Make short runs until two in a row agree by rank 0's clocks, or `case.warmup` is reached.

        Returns their number.
        """
        before = None
        for done in range(1, self.case.warmup + 1):
            first, *later = (
                sum(step.clock) for step in self.synced(min(self.case.output_len, WARM_TOKENS))
            )
            now = (first, median(later)) if later else (first,)
            agree = before is not None and all(
                abs(a - b) <= AGREE * b for a, b in zip(now, before, strict=True)
            )
            if self.group.checkpoint(agree):
                return done
            before = now
        return self.case.warmup

    def repeat(self) -> Iterator[tuple[list[DecodeStep], float | None]]:
        """Run the case as often as it asks for.

        Yields the steps of each run and, after some runs, the milliseconds of an end-to-end run.
        """
        start = time.perf_counter()
        done = 0
        more = True
        while more:
            steps = self.synced()
            every = self.case.end_to_end_every
            yield steps, self.end_to_end() if every and done % every == 0 else None
            done += 1
            more = done < self.case.repeats or time.perf_counter() - start < self.case.min_seconds
            more = self.group.checkpoint(more)  # rank 0's clock counts

    @panics_told()
    def text_ms(self, steps: list[DecodeStep]) -> float:
        """Milliseconds of turning the new ids into text."""
        if self.tokenizer is None or self.group.rank:
            return 0.0
        rows = [list(row) for row in zip(*(step.choice.tokens for step in steps), strict=True)]
        start = time.perf_counter()
        self.tokenizer.batch_decode(rows)
        return 1e3 * (time.perf_counter() - start)


def profile(work: Work) -> list[Figures]:
    """Warm up and repeat; return a dict of lists per repeat.

    Rank 0's figures are those of all ranks, the other ranks' their own.
    Per step, in milliseconds: `step`, the whole step on the slowest rank; `slowest`, the rank that
    worked longest: the one with the longest pre and forward, since the others wait for it; `pre`,
    `forward`, `communication` and `post` of that rank, so that they add up; `device`, an
    accelerator's own time of its forward pass with the all-reduces.
    Once per repeat: `text`, ms of turning ids into text (0 without a tokenizer); `end_to_end`,
    empty if that clock did not run; `warmups` and `warmup_s`; on an accelerator `device_peak_mb` of
    each rank since the case began.
    """
    reset_peak(work.weight.device)
    start = time.perf_counter()
    warm = {"warmups": [work.warm_up()], "warmup_s": [time.perf_counter() - start]}
    runs = []
    ends = []
    texts = []
    for run, end in work.repeat():
        runs.append(run)
        ends.append([] if end is None else [_most(work, end)])
        texts.append([work.text_ms(run)])
    shared = warm | _memory(work)
    parts = zip(_slowest(work, runs), texts, ends, strict=True)
    return [clocks | {"text": text, "end_to_end": end} | shared for clocks, text, end in parts]


def _slowest(work: Work, runs: list[list[DecodeStep]]) -> list[Figures]:
    """Per run, the clocks of each step.

    `step` is the longest of any rank, the parts are those of the rank that worked longest.
    """
    on_device = runs[0][0].device_ms is not None
    names = [*Clock._fields, *(["device"] if on_device else [])]
    rows = [[[*step.clock, step.device_ms][: len(names)] for step in steps] for steps in runs]
    everyone = _gather(
        work, torch.tensor(rows, dtype=torch.float32)
    )  # [ranks, runs, steps, clocks]
    whole = everyone[..., : len(Clock._fields)].sum(-1).amax(0)  # [runs, steps]
    worker = everyone[..., :2].sum(-1).argmax(0)  # [runs, steps]: by pre and forward
    index = worker[None, ..., None].expand(1, *everyone.shape[1:])
    parts = everyone.gather(0, index)[0]  # [runs, steps, clocks]
    return [
        {name: parts[i, :, j].tolist() for j, name in enumerate(names)}
        | {"step": whole[i].tolist(), "slowest": worker[i].tolist()}
        for i in range(len(runs))
    ]


def _most(work: Work, value: float) -> float:
    """The largest of the ranks' values."""
    return _gather(work, torch.tensor([value], dtype=torch.float32)).max().item()


def _memory(work: Work) -> Figures:
    if work.weight.device.type == "cpu":
        return {}
    return {
        "device_peak_mb": _gather(
            work, torch.tensor(memory_mb(work.weight.device)["peak"])
        ).tolist()
    }


def _gather(work: Work, mine: Tensor) -> Tensor:
    """Gather each rank's [...] as [ranks, ...] on the CPU; other ranks get only their own."""
    everyone = work.group.gather(mine[None].to(work.weight.device), dim=0)
    return mine[None] if everyone is None else everyone.cpu()


def _fine(name: str, value: Any) -> bool:
    if name == "min_seconds":
        return type(value) in (int, float) and value >= 0
    return type(value) is int and value >= (0 if name in ZERO_IS_FINE else 1)


def refuse_long(cases: Sequence[Case], max_seq_len: int) -> None:
    """Refuse cases that need more than `max_seq_len` positions.

    Raises SettingsError that lists them all, with what each needs.
    """
    too_long = [f"{case} needs {case.positions}" for case in cases if case.positions > max_seq_len]
    if too_long:
        first = f"these cases do not fit max_seq_len {max_seq_len} (depth + input + output tokens):"
        cure = "\nlower max_len_exp, case_pair or depths, or load with a larger max_seq_len"
        raise SettingsError("\n  ".join([first, *too_long]) + cure)
