"""Text in, text out: prompts to token ids, tokens to text that is never taken back. No sampling or tensors here."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from tokenizers.decoders import DecodeStream

from neoxlib.decode import Choice, Limits, Step, decode
from neoxlib.errors import SettingsError
from neoxlib.model import GPTNeoX
from neoxlib.sampling import Sampling

if TYPE_CHECKING:  # a notebook that only receives a Completion need not wait for transformers
    from transformers import PreTrainedTokenizerBase

Stream = Callable[[int, str], Any]  # (row, new text)
TOP = 5  # alternatives kept per token


@dataclass(frozen=True, repr=False)
class Timings:
    """Milliseconds of each step of one row, not overlapping: the first takes in the prompt, the others one token."""

    pre_ms: list[float]  # building the inputs
    forward_ms: list[float]  # computing
    communication_ms: list[float]  # the ranks' sums inside the forward pass
    post_ms: list[float]  # gathering logits, choosing, telling the other ranks

    @property
    def step_ms(self) -> list[float]:
        """Wall time of each step."""
        parts = (self.pre_ms, self.forward_ms, self.communication_ms, self.post_ms)
        return [sum(step) for step in zip(*parts, strict=True)]

    @property
    def first_token_ms(self) -> float:
        """Wall time from token ids to the first new token."""
        return self.step_ms[0]

    @property
    def next_token_ms(self) -> float | None:
        """Median wall time of the tokens after the first; None when there are none."""
        return median(self.step_ms[1:]) if len(self.step_ms) > 1 else None

    @property
    def tokens_per_second(self) -> float:
        """New tokens of this row over its wall time. A batch makes that of all its rows together."""
        return 1e3 * len(self.step_ms) / sum(self.step_ms)

    def __repr__(self) -> str:
        later = "" if self.next_token_ms is None else f", next {self.next_token_ms:.1f} ms"
        return f"Timings(first {self.first_token_ms:.1f} ms{later}, {self.tokens_per_second:.1f} tokens/s)"


@dataclass(frozen=True, repr=False)
class Completion:
    """The answer to one prompt.

    `token_ids` are the new tokens as transformers' `generate` gives them: the end-of-text id is among them. `text` is
    without it and is cut before a stop string. `finish_reason` is "stop" (end of text or a stop string) or "length".
    `logprobs` and `top` are, per token, the model's own log-probability and its likeliest (id, log-probability)
    pairs, before temperature, penalty and the rest changed its scores.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    timings: Timings
    logprobs: list[float]
    top: list[list[tuple[int, float]]]

    def __repr__(self) -> str:
        return f"Completion({self.text!r}, {len(self.token_ids)} tokens, {self.finish_reason!r}, {self.timings!r})"


def generate_text(
    model: GPTNeoX, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str | Sequence[int]], sampling: Sampling,
    max_seq_len: int, stream: Stream | None = None,
) -> list[Completion]:
    """Continue `prompts` (text or token ids) in one batch: one Completion each on rank 0, an empty list elsewhere.

    `stream(row, piece)` is called on rank 0 with each new piece of text; a row's pieces joined are its text.
    Raises SettingsError, before any work, that lists the prompts that cannot be served.
    """
    ids = encode(tokenizer, prompts)
    limits = Limits(tokenizer.eos_token_id, min(len(tokenizer), model.config.vocab_size), max_seq_len)
    texts = [TextStream(tokenizer, sampling.stop) for _ in ids]
    steps = []
    for step in decode(model, ids, sampling, limits, top=TOP, watch=lambda row, token: texts[row].push(token)):
        steps.append(step)
        if model.group.rank == 0:
            _hand_out(texts, step.choice, stream)
    return [_completion(row, text, steps) for row, text in enumerate(texts)] if model.group.rank == 0 else []


def encode(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str | Sequence[int]]) -> list[list[int]]:
    """Token ids of each prompt, with the special tokens that the tokenizer adds by itself (GPT-NeoX's adds none).

    Raises SettingsError that lists every prompt that is neither text nor a list of token ids.
    """
    if isinstance(prompts, str):
        raise SettingsError(f"prompts is one string; give a list, [{prompts[:20]!r}] for one prompt")
    encoded, problems = [], []
    for n, prompt in enumerate(prompts):
        try:
            ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else map(operator.index, prompt)
            encoded.append(list(ids))
        except TypeError:  # the tokenizer says TypeError of text with half a surrogate pair, too
            problems.append(f"prompts[{n}] is {prompt!r:.60}, it must be valid text or a list of token ids")
    if problems:
        raise SettingsError("these prompts cannot be read:\n  " + "\n  ".join(problems))
    return encoded


def _hand_out(texts: Sequence["TextStream"], choice: Choice, stream: Stream | None) -> None:
    """Take from every row that ran in this step the text that became certain, and show it to the caller."""
    for row, (text, token, reason) in enumerate(zip(texts, choice.tokens, choice.reasons, strict=True)):
        piece = "" if token is None else text.take(ended=reason is not None)
        if piece and stream is not None:
            stream(row, piece)


def _completion(row: int, text: "TextStream", steps: Sequence[Step]) -> Completion:
    own = [step for step in steps if step.choice.tokens[row] is not None]
    choices = [step.choice for step in own]
    return Completion(
        text=text.taken,
        token_ids=[choice.tokens[row] for choice in choices],
        # A stop string may come to light in the last characters, after the length has ended the row.
        finish_reason="stop" if text.gate.stopped else choices[-1].reasons[row],
        timings=Timings(*map(list, zip(*(step.clock for step in own), strict=True))),
        logprobs=[choice.logprobs[row] for choice in choices],
        top=[choice.top[row] for choice in choices],
    )


class TextStream:
    """Tokens in, text out that is never taken back: `push` each token but the end of text, then `take` what is certain.

    Not certain yet: a character of which a part is missing, and what may be the start of a stop string.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer.backend_tokenizer
        self.decoder = DecodeStream(skip_special_tokens=True)
        self.gate = HoldBack(stop)
        self.tokens: list[int] = []
        self.decoded = 0  # characters that left the decoder
        self.ready = self.taken = ""

    def push(self, token: int) -> bool:
        """Take in a token; True when a stop string is complete."""
        self.tokens.append(token)
        piece = self.decoder.step(self.tokenizer, token) or ""
        self.decoded += len(piece)
        self.ready += self.gate.push(piece)
        return self.gate.stopped

    def take(self, ended: bool = False) -> str:
        """The text that became certain since the last call: all that is left, when no token follows.

        All pieces joined are what the tokenizer decodes from all tokens, cut before the stop string; an unfinished
        character at the very end shows as U+FFFD.
        """
        if ended:
            self.ready += self.gate.push(self.tokenizer.decode(self.tokens)[self.decoded :]) + self.gate.flush()
        piece, self.ready = self.ready, ""
        self.taken += piece
        return piece


class HoldBack:
    """Text in pieces in, text out up to the first stop string; what may be the start of one waits.

    The stop string that is complete first wins, the longer one of two that end together: how the text was cut into
    pieces does not matter.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take in more text and return what can no longer be part of a stop string."""
        if self.stopped:
            return ""
        self.held += piece
        ends = [(start + len(stop), start) for stop in self.stop if (start := self.held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._release(min(ends)[1])
        return self._release(len(self.held) - self._undecided())

    def flush(self) -> str:
        """What was held: nothing follows that could complete a stop string."""
        return "" if self.stopped else self._release(len(self.held))

    def _release(self, count: int) -> str:
        free, self.held = self.held[:count], self.held[count:]
        return free

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        sizes = (size for stop in self.stop for size in range(1, len(stop)) if self.held.endswith(stop[:size]))
        return max(sizes, default=0)
