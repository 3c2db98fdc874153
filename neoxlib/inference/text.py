"""Text in, text out: prompts to token ids, answers with text and times. No sampling, no tensors."""

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from neoxlib.errors import SettingsError, Stopped, panics_told
from neoxlib.inference.checked_ids import UNREADABLE, as_ids
from neoxlib.inference.decode import DecodeStep, decode
from neoxlib.inference.printer import Piece, Stream
from neoxlib.inference.rows import Limits, ending
from neoxlib.inference.sampling import Sampling
from neoxlib.inference.stream import NoText, TextStream
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.stopping import INTERRUPTED

if TYPE_CHECKING:  # a notebook that only receives a Completion need not wait for transformers
    from transformers import PreTrainedTokenizerBase

TOP = 5  # alternatives kept per token
TAIL = 20  # letters of a prompt's end that a message shows


@dataclass(frozen=True, repr=False)
class Timings:
    """Milliseconds of each step of one row. Step 0 reads the prompt, the others one token each.

    On an accelerator, whose phases cannot be told apart without waiting for each, `forward_ms` is
    all after `pre_ms`, and the other two are NaN.
    """

    pre_ms: list[float]  # building the inputs
    forward_ms: list[float]  # computing
    communication_ms: list[float]  # all-reduces inside the forward pass
    post_ms: list[float]  # gathering logits, choosing, broadcasting the choice

    @property
    def step_ms(self) -> list[float]:
        """Wall time of each step."""
        parts = (self.pre_ms, self.forward_ms, self.communication_ms, self.post_ms)
        return [
            sum(part for part in step if not math.isnan(part)) for step in zip(*parts, strict=True)
        ]

    @property
    def first_token_ms(self) -> float:
        """Time to first token (TTFT): from token ids to the first new one."""
        return self.step_ms[0]

    @property
    def next_token_ms(self) -> float | None:
        """Time per output token (TPOT): median after the first token; None without any."""
        return median(self.step_ms[1:]) if len(self.step_ms) > 1 else None

    @property
    def tokens_per_second(self) -> float:
        """New tokens of this row per second; a batch makes the sum of its rows' rates."""
        return 1e3 * len(self.step_ms) / sum(self.step_ms)

    def __repr__(self) -> str:
        later = "" if self.next_token_ms is None else f", next {self.next_token_ms:.1f} ms"
        rate = f"{self.tokens_per_second:.1f} tokens/s"
        return f"Timings(first {self.first_token_ms:.1f} ms{later}, {rate})"


@dataclass(frozen=True, repr=False)
class Completion:
    """The answer to one prompt.

    `token_ids` are the new tokens as transformers' `generate` gives them: the id that ended the
    text (the end of text, or one of `stop_token_ids`) is among them. `text` is without that id and
    without special tokens; if they are kept, it is what transformers decodes from all ids. It is
    cut before a stop string, and empty without a tokenizer. `finish_reason` is "stop" (such an id
    or a stop string), "length" or "interrupted". `logprobs` and `top` are, per token, the model's
    own log-probability and its most likely (id, log-probability) pairs, before sampling settings
    changed the scores.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    timings: Timings
    logprobs: list[float]
    top: list[list[tuple[int, float]]]

    def __repr__(self) -> str:
        what = f"{len(self.token_ids)} tokens, {self.finish_reason!r}"
        return f"Completion({self.text!r}, {what}, {self.timings!r})"


def generate_text(
    model: GPTNeoX,
    tokenizer: "PreTrainedTokenizerBase | None",
    prompts: Sequence[str | Sequence[int]],
    sampling: Sampling,
    limits: Limits,
    stream: Stream | None = None,
) -> list[Completion]:
    """Continue `prompts` (text or token ids) in one batch.

    Returns one Completion each on rank 0, an empty list on other ranks. `stream(row, piece)` is
    called on rank 0 with each new piece of text; a row's pieces joined are its text. Without a
    `tokenizer` prompts are token ids, and there is no text. If the ranks are asked to stop after
    the first step, the answers are those until then; a KeyboardInterrupt has them as `answers`.
    Raises SettingsError, before any work, that lists the prompts that cannot be served.
    """
    ids = encode(tokenizer, prompts)
    _refuse_stop_without(tokenizer, sampling)
    texts = [_text(tokenizer, sampling) for _ in ids]
    ends = ending(sampling, limits)
    steps: list[DecodeStep] = []
    watch = {"watch": lambda n, token: texts[n].push(token), "watch_ends": bool(sampling.stop)}
    try:
        for step in decode(model, ids, sampling, limits, top=TOP, detail=False, **watch):
            steps.append(step)
            if model.group.rank == 0:
                _hand_out(texts, step, stream, sampling, ends)
    except (Stopped, KeyboardInterrupt) as stop:  # Stopped: on all ranks, after the same step
        if not steps:
            raise
        texts = [_told_again(tokenizer, sampling, ends, steps, row) for row in range(len(ids))]
        if isinstance(stop, KeyboardInterrupt):
            stop.answers = _completions(model.group.rank, texts, steps)
            raise
    return _completions(model.group.rank, texts, steps)


def _refuse_stop_without(tokenizer: "PreTrainedTokenizerBase | None", sampling: Sampling) -> None:
    if tokenizer is None and sampling.stop:
        what = f"stop is {list(sampling.stop)}, but without a tokenizer there is no text"
        raise SettingsError(f"{what}; use stop_token_ids")


@panics_told()
def encode(
    tokenizer: "PreTrainedTokenizerBase | None", prompts: Sequence[str | Sequence[int]]
) -> list[list[int]]:
    """Tokenize each prompt, with the special tokens that the tokenizer adds (GPT-NeoX's: none).

    Raises SettingsError that lists every prompt that is neither text nor a list of token ids, and
    ConfigError where tokenizer.json fails on a text.
    """
    if isinstance(prompts, str):
        raise SettingsError(
            f"prompts is one string; give a list, [{prompts[:20]!r}] for one prompt"
        )
    if isinstance(prompts, UNREADABLE) or not isinstance(prompts, Iterable):
        what = f"prompts is a {type(prompts).__name__}"
        raise SettingsError(f"{what}; give a list of texts or of lists of token ids")
    encoded = []
    problems = []
    for n, prompt in enumerate(prompts):
        try:
            text = isinstance(prompt, str) and tokenizer is not None
            encoded.append(tokenizer(prompt)["input_ids"] if text else as_ids(prompt))
        except TypeError:  # the tokenizer says TypeError of text with half a surrogate pair, too
            shown = " ".join(repr(prompt).split())
            what = "valid text or a list of token ids"
            if tokenizer is None:
                what = "a list of token ids: there is no tokenizer"
            problems.append(f"prompts[{n}] is {shown:.60}, it must be {what}")
    if problems:
        raise SettingsError("these prompts cannot be read:\n  " + "\n  ".join(problems))
    return encoded


def ids_of(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Tokenize as lm-evaluation-harness does: add no start token if `text` begins with it."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    begun = start is not None and text.startswith(tokenizer.decode(start))
    return tokenizer.encode(text, add_special_tokens=not begun)


@panics_told()
def split(
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str | Sequence[int]],
    choices: Sequence[Sequence[str]],
) -> list[tuple[list[int], list[int]]]:
    """Ids of each prompt and of each of its choices, as lm-evaluation-harness splits them.

    Blanks at the end of a prompt go to the choice, whose ids are those of prompt + choice beyond
    the prompt's. If a prompt is given as ids, the choice's own ids follow it. If a token spans both
    prompt and choice, lm-evaluation-harness scores a different text; here that is an error.
    Raises SettingsError that lists every prompt and choice that cannot be read or separated.
    """
    pairs = []
    problems = []
    for prompt, ids, several in zip(prompts, encode(tokenizer, prompts), choices, strict=True):
        context = ids_of(tokenizer, prompt.rstrip()) if isinstance(prompt, str) else ids
        for choice in several:
            try:
                pairs.append((context, _beyond(tokenizer, prompt, context, choice)))
            except (TypeError, ValueError) as error:  # TypeError for what is no valid text
                words = str(error) if type(error) is ValueError else "the choice must be valid text"
                problems.append(f"{choice!r:.40} after {_tail(prompt)}: {words}")
    if problems:
        raise SettingsError("these cannot be scored:\n  " + "\n  ".join(problems))
    return pairs


def _beyond(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str | Sequence[int],
    context: list[int],
    choice: str,
) -> list[int]:
    """The ids of prompt and choice beyond `context`; ValueError if it is no prefix of them."""
    if not isinstance(choice, str):
        raise TypeError("no text")
    if not isinstance(prompt, str):
        return tokenizer.encode(choice, add_special_tokens=False)
    if prompt and not context:
        raise ValueError(
            "the blanks go to the choice, and nothing is left; begin with the end of text"
        )
    whole = ids_of(tokenizer, prompt + choice)
    if whole[: len(context)] != context or (choice and len(whole) == len(context)):
        raise ValueError("a token spans both; end the prompt where a token ends, or use score_ids")
    return whole[len(context) :]


def _tail(prompt: str | Sequence[int]) -> str:
    if not isinstance(prompt, str):
        return f"{len(prompt)} ids"
    return f"{'…' * (len(prompt) > TAIL)}{prompt[-TAIL:]!r}"


def _text(tokenizer: "PreTrainedTokenizerBase | None", sampling: Sampling) -> TextStream:
    if tokenizer is None:
        return NoText()
    return TextStream(tokenizer, sampling.stop, sampling.skip_special_tokens)


def _hand_out(
    texts: Sequence[TextStream],
    step: DecodeStep,
    stream: Stream | None,
    sampling: Sampling,
    ends: Container[int],
) -> None:
    """Pass the text that became final in this step to the caller, for every row that still ran."""
    choice = step.choice
    rows = zip(texts, choice.tokens, choice.reasons, choice.logprobs, choice.top, strict=True)
    for row, (text, token, reason, logprob, top) in enumerate(rows):
        if token in ends:
            text.push(token, show=not sampling.skip_special_tokens)
        piece = "" if token is None else text.take(ended=reason is not None)
        if token is None or stream is None:
            continue
        text.chosen.append((token, logprob, top))
        text.clocks.append(tuple(step.clock))
        if piece:
            stream(row, Piece.of(piece, text.chosen, text.clocks))
            text.chosen, text.clocks = [], []


def _told_again(
    tokenizer: "PreTrainedTokenizerBase | None",
    sampling: Sampling,
    ends: Container[int],
    steps: Sequence[DecodeStep],
    row: int,
) -> TextStream:
    """The text of a row's tokens in `steps`: its own stream may have heard of one more."""
    text = _text(tokenizer, sampling)
    for token in (step.choice.tokens[row] for step in steps):
        if token is not None:
            text.push(token, show=token not in ends or not sampling.skip_special_tokens)
    text.take(ended=True)
    return text


def _completions(
    rank: int, texts: Sequence[TextStream], steps: Sequence[DecodeStep]
) -> list[Completion]:
    return [] if rank else [_completion(row, text, steps) for row, text in enumerate(texts)]


def _completion(row: int, text: TextStream, steps: Sequence[DecodeStep]) -> Completion:
    own = [step for step in steps if step.choice.tokens[row] is not None]
    choices = [step.choice for step in own]
    return Completion(
        text=text.taken,
        token_ids=[choice.tokens[row] for choice in choices],
        # A stop string may be completed by the last characters, after the length ended the row.
        finish_reason="stop" if text.gate.stopped else choices[-1].reasons[row] or INTERRUPTED,
        timings=Timings(*map(list, zip(*(step.clock for step in own), strict=True))),
        logprobs=[choice.logprobs[row] for choice in choices],
        top=[choice.top[row] for choice in choices],
    )
