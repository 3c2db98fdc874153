"""Answers as tables. Pure functions: completions in, data frames or HTML out."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from textwrap import shorten
from typing import Any

import pandas as pd
from IPython.display import HTML
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from neoxlib.errors import panics_told
from neoxlib.inference.contract import Prompt
from neoxlib.inference.parity import same
from neoxlib.inference.printer import Chosen
from neoxlib.inference.text import Completion
from neoxlib.workbook import markup, metrics
from neoxlib.workbook.results import failed
from neoxlib.workbook.table import TextTable, show_controls

DARKEST = 0.5  # opacity behind a certain token: text on it stays readable, light or dark
MOST_SAID = 60  # characters of a prompt or answer in a sentence
PARTS = {  # of a step
    "pre": "building the inputs",
    "forward": "computing",
    "communication": "sums between ranks",
    "post": "choosing the token",
}
WHITE = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def answers(prompts: Sequence[str], completions: Sequence[Completion]) -> pd.DataFrame:
    """Make a row per prompt: its answer, how it ended, and its times in milliseconds."""
    rows = [
        {
            "prompt": prompt,
            "answer": c.text,
            "tokens": len(c.token_ids),
            "ended by": c.finish_reason,
            "first_token_ms": c.timings.first_token_ms,
            "next_token_ms": c.timings.next_token_ms,
        }
        for prompt, c in zip(prompts, completions, strict=True)
    ]
    return pd.DataFrame(rows)


def tokens(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Make a row per new token: its text, its probability and the most likely alternatives."""
    rows = [
        {
            "token": visible(tokenizer, token),
            "id": token,
            "probability": math.exp(logprob),
            "alternatives": _others(token, top, tokenizer),
        }
        for token, logprob, top in chosen(completion)
    ]
    return pd.DataFrame(rows)


def chosen(completion: Completion) -> list[Chosen]:
    """Return each new token with its log-probability and its alternatives."""
    parts = completion.token_ids, completion.logprobs, completion.top
    return list(zip(*parts, strict=True))


def _others(
    token: int, top: Sequence[tuple[int, float]], tokenizer: PreTrainedTokenizerBase
) -> str:
    others = [f"{visible(tokenizer, n)} {math.exp(v):.1%}" for n, v in top if n != token]
    return " · ".join(others)


def strip(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> HTML:
    """Show the answer with each token's background the darker, the more probable it was."""
    return HTML(strip_html(chosen(completion), tokenizer))


def strip_html(tokens: Sequence[Chosen], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return tokens as HTML; over each stand its probability and its alternatives."""
    cells = []
    for token, logprob, top in tokens:
        likely = math.exp(logprob)
        style = f"background:rgba(0,114,178,{DARKEST * likely:.2f})"
        style += ";padding:0 .15em;margin:1px;display:inline-block"
        others = _others(token, top, tokenizer)
        title = markup.text(f"{likely:.1%}; instead: {others}" if others else f"{likely:.1%}")
        text = markup.text(visible(tokenizer, token))
        cells.append(f'<span title="{title}" style="{style}">{text}</span>')
    return markup.block(f'<div style="line-height:1.9" translate="no">{"".join(cells)}</div>')


@panics_told()
def visible(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Show a token's text with visible white space; part of a character shows its bytes."""
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        # The alphabet of byte-level tokens.
        table = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return "".join(
            f"‹{table.get(letter, 0):02X}›" for letter in tokenizer.convert_ids_to_tokens(token)
        )
    return "".join(WHITE.get(letter, letter) for letter in text)


def readable(table: pd.DataFrame) -> TextTable:
    """Format answers or tokens: shares as per cent, times to a tenth, dashes for gaps."""
    cells = {name: [_cell(name, value) for value in table[name]] for name in table}
    return TextTable(pd.DataFrame(cells, dtype=object))


def _cell(name: str, value: object) -> str:
    if value is None or value != value:  # not a number
        return "–"
    if isinstance(value, float):
        return f"{value:.1%}" if name == "probability" else f"{value:.1f}"
    return str(value)


def step_shares(completion: Completion) -> dict[str, float]:
    """Return which share of all next tokens' time each part took; {} if they were not timed."""
    later = steps(completion).iloc[1:].sum(skipna=False)
    whole = later.sum(skipna=False)
    return (later / whole).to_dict() if whole > 0 else {}


def key_figures(completion: Completion) -> dict[str, float | None]:
    """The figures of one answer: both times, how sure of a token, and the forward pass's share."""
    likely = [math.exp(value) for value in completion.logprobs]
    return {
        "first_token_ms": completion.timings.first_token_ms,
        "next_token_ms": completion.timings.next_token_ms,
        "certainty": median(likely) if likely else None,
        "forward_share": step_shares(completion).get("forward"),
    }


def answer(results: Mapping[str, Any], prompt: Prompt, completion: Completion) -> str:
    """Answer 02_inference from its run's figures: what is said, how surely, where the time goes."""
    values = results["metrics"]
    to = _quoted(prompt) if isinstance(prompt, str) else "the first prompt"
    first = f"To {to} it says {_quoted(completion.text)}"
    if values.get("certainty") is not None:
        first += f", {metrics.shown('certainty', values['certainty'])} sure of a typical token"
    return " ".join(filter(None, (first + ".", _right(results), _slow(results, completion))))


def _quoted(text: str) -> str:
    return f"“{shorten(show_controls(text), MOST_SAID, placeholder=' …')}”"


def _right(results: Mapping[str, Any]) -> str:
    """Whether it is right: a failed check, or what the parity checks found."""
    if wrong := failed(results):
        return f"It is not right. {wrong}."
    found = same(results)
    return f"{found[0].upper()}{found[1:]}." if found else ""


def _slow(results: Mapping[str, Any], completion: Completion) -> str:
    """Where the time of a next token goes; "" if it was not timed.

    Of a noisy run only the time: its shares are those of the other work, too.
    """
    shares = step_shares(completion)
    time = results["metrics"].get("next_token_ms")
    if not shares or time is None:
        return ""
    shown = metrics.shown("next_token_ms", time)
    if any(results["noise"]):
        return f"A next token took {shown} beside other work; a quiet machine may be faster."
    parts = sorted(shares.items(), key=lambda part: -part[1])
    told = ", ".join(f"{PARTS[name]} {100 * share:.0f} %" for name, share in parts if share >= 0.02)
    return f"A next token takes {shown}: {told}."


def steps(completion: Completion) -> pd.DataFrame:
    """Make a row per step: milliseconds of its four parts; step 0 reads the whole prompt."""
    t = completion.timings
    columns = {
        "pre": t.pre_ms,
        "forward": t.forward_ms,
        "communication": t.communication_ms,
        "post": t.post_ms,
    }
    return pd.DataFrame(columns).rename_axis("step")


def differing(left: Sequence[Completion], right: Sequence[Completion]) -> list[int]:
    """List the rows whose new tokens differ between two lists of completions."""
    return [
        n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a.token_ids != b.token_ids
    ]
