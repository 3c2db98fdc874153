"""The answer of 04_profile: how fast is the longest case, and what holds the cases back?"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from neoxlib.errors import show_controls
from neoxlib.inference.parity import same
from neoxlib.inference.timing import Case
from neoxlib.speed import baseline, panels, roofline
from neoxlib.speed.measure import headline
from neoxlib.speed.statistics import MIN_REPEATS
from neoxlib.workbook import markup, metrics
from neoxlib.workbook.results import failed

TIMES = ("first_token_ms", "next_token_ms")
BOUND_WORDS = {
    "bandwidth": "reading the weights from memory",
    "compute": "arithmetic",
    "communication": "the sums between ranks",
    "launch": "starting operators and choosing the token, not by memory or arithmetic",
}


def longest(table: pd.DataFrame) -> pd.Series:
    """The row of the longest case, which is that of `measure.headline`."""
    return table.sort_values(["depth", "input_len", "output_len"]).iloc[-1]


def key_figures(judged: pd.DataFrame) -> dict[str, Any]:
    """The figures of the longest case, with intervals where the repeats allow one, and its bound.

    `judged` has the columns of `measure.time_cases` and `roofline.verdicts`.
    """
    row = longest(judged)
    found = headline(judged) | {f"longest_{name}": row[name] for name in ("mbu", "bound")}
    if row["repeats"] >= MIN_REPEATS:
        ends = (f"{name}_{end}" for name in TIMES for end in ("low", "high"))
        found |= {f"longest_{name}": row[name] for name in ends}
    return {name: None if pd.isna(value) else value for name, value in found.items()}


def answer(results: Mapping[str, Any], judged: pd.DataFrame) -> str:
    """Answer from a run's checks and figures, in two or three sentences.

    A noisy run says nothing of the bound: times that other work has stretched do not show it.
    """
    row = longest(judged)
    case = Case(*(int(row[key]) for key in ("batch_size", "input_len", "output_len", "depth")))
    rate = metrics.shown("longest_tokens_per_second", row["tokens_per_second"])
    times = [f"first token {metrics.shown('longest_first_token_ms', row['first_token_ms'])}"]
    if not pd.isna(row["next_token_ms"]):
        times += [f"each next one {metrics.shown('longest_next_token_ms', row['next_token_ms'])}"]
    said = f"{rate} for {case_words(case)}: {', '.join(times)}."
    return " ".join(filter(None, (_right(results, said), _bound(results, row))))


def case_words(case: Case) -> str:
    """A case in words."""
    prompts = "one prompt" if case.batch_size == 1 else f"{case.batch_size} prompts"
    before = f" after {case.depth} in the cache" if case.depth else ""
    return f"{prompts} of {case.input_len} tokens{before}, continued by {case.output_len}"


def _right(results: Mapping[str, Any], said: str) -> str:
    if wrong := failed(results):
        return f"Do not use this. {wrong}. {said}"
    model = same(results)
    return f"Right, and {said}" + f" {model[0].upper()}{model[1:]}." if model else said


def _bound(results: Mapping[str, Any], row: pd.Series) -> str:
    if any(results.get("noise", ())) or row["bound"] not in BOUND_WORDS:
        return ""
    return f"A next token is bound by {BOUND_WORDS[row['bound']]}."


BOUND_BY = {  # bound of a token -> in the table of groups
    "bandwidth": "reading memory",
    "compute": "arithmetic",
    "communication": "sums between ranks",
    "launch": "starting operators, choosing",
    roofline.NOT_JUDGED: roofline.NOT_JUDGED,
}
PART_WORDS = {
    "pre": "inputs",
    "forward": "computing",
    "communication": "sums",
    "post": "choosing and starting",
}


class Verdicts:
    """The cases in groups of the same bounds, and behind them a sentence per case."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        names = [baseline.case_name(row) for row in table.to_dict("records")]
        self.rows = list(zip(names, table["verdict"], strict=True))

    def _repr_html_(self) -> str:
        columns = (
            "next token bound by",
            "first token by",
            "cases",
            "where a next token's time goes",
        )
        groups = self.table.groupby(["bound", "first_bound"], sort=False, dropna=False)
        rows = [self._group(bounds, cases) for bounds, cases in groups]
        lines = "".join(
            f"<li><b>{markup.text(name)}</b><br>{markup.text(sentence)}</li>"
            for name, sentence in self.rows
        )
        every = f"<summary>a sentence for each of {len(self.rows)} cases</summary><ul>{lines}</ul>"
        return markup.html_table(columns, rows) + markup.block(f"<details>{every}</details>")

    def _group(self, bounds: tuple[str | None, ...], cases: pd.DataFrame) -> tuple[str, ...]:
        later, first = (BOUND_BY.get(bound, "–") for bound in bounds)
        count = f"{len(cases):,} of {len(self.table):,}"
        return *map(markup.text, (later, first, count)), _shares_bar(cases)

    def __repr__(self) -> str:
        return show_controls("\n".join(f"{name}: {sentence}" for name, sentence in self.rows))


def _shares_bar(cases: pd.DataFrame) -> str:
    """The parts of a next token over some cases as a bar, with the same in words below it."""
    known = cases[[f"next_{part}_ms" for part in panels.PARTS]].dropna().astype(float)
    if known.empty:
        return "–"
    medians = known.div(known.sum(axis=1), axis=0).median()
    shares = dict(zip(panels.PARTS, medians / medians.sum(), strict=True))
    style = "display:inline-block;height:.7em;width"
    parts = "".join(
        f'<span style="{style}:{14 * share:.2f}em;background:{panels.PARTS[part]}"></span>'
        for part, share in shares.items()
    )
    words = " · ".join(f"{PART_WORDS[part]} {100 * share:.0f} %" for part, share in shares.items())
    return f'<span style="white-space:nowrap">{parts}</span><br>{markup.text(words)}'
