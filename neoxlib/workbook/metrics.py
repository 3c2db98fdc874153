"""What each recorded figure is: its name in plain words, its unit, and which way is better.

Every metric that the notebooks record is declared here; a page shows any other by its own name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neoxlib.workbook.table import Table, figure

UNKNOWN = "not known"
HUGE = 1e300  # figures beyond it, infinity and nan are no figures
NEVER = 1e-6  # chances below are called under one in a million
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Metric:
    """A figure that notebooks record.

    `kind` says what its number counts: "ms", "s", "bytes", "share", "chance", "rate" (per second),
    "count", "number", or "text". `better` is "less", "more", or empty where neither way is. A `key`
    metric is among the key figures of its notebooks' pages, in the order of this table.
    """

    label: str
    kind: str = "count"
    better: str = ""
    key: bool = False
    unit: str = ""


def _key(label: str, kind: str = "count", better: str = "", unit: str = "") -> Metric:
    return Metric(label, kind, better, True, unit)


METRICS = {
    # 00_setup
    "needed_bytes_per_rank": _key("memory that a rank needs", "bytes", "less"),
    "free_bytes_per_rank": _key("memory that a rank may use", "bytes", "more"),
    "largest_batch": _key("largest batch that fits", better="more", unit="prompts"),
    # 01_shard
    "bytes_per_rank": _key("weights of a rank", "bytes", "less"),
    "bytes_all_ranks": _key("weights of all ranks", "bytes", "less"),
    "tensors_equal": _key("tensors equal to the source", better="more"),
    "tensors_compared": Metric("tensors compared with the source"),
    # 02_inference
    "first_token_ms": _key("first token", "ms", "less"),
    "next_token_ms": _key("next token", "ms", "less"),
    "certainty": _key("probability of a typical token", "share"),
    "forward_share": _key("share of a next token spent computing", "share"),
    "perplexity": _key("perplexity", "number", "less"),
    # 03_ceval
    "accuracy": _key("right answers", "share", "more"),
    "p_guessing": _key("chance that guessing does as well", "chance"),
    "p_shuffled": Metric("chance that shuffled answers do as well", "chance"),
    "questions": _key("questions"),
    "average": Metric("average over", "text"),
    "too_long": Metric("questions too long to ask", better="less"),
    "expected_calibration_error": _key("gap between confidence and accuracy", "share", "less"),
    "rescored_flipped": Metric("answers that flip when scored alone", better="less"),
    # 04_profile
    "longest_input_len": Metric("longest case: tokens in"),
    "longest_output_len": Metric("longest case: tokens out"),
    "longest_first_token_ms": _key("first token, longest case", "ms", "less"),
    "longest_next_token_ms": _key("next token, longest case", "ms", "less"),
    "longest_tokens_per_second": _key("throughput, longest case", "rate", "more", "tokens/s"),
    "longest_bound": Metric("bound of a next token, longest case", "text"),
    "longest_mbu": _key("of what memory allows (MBU)", "share", "more"),
    "decode_graph_captured": Metric("decode graphs captured"),
    "decode_graph_capture_s": Metric("time to capture decode graphs", "s", "less"),
    "decode_graph_replayed": Metric("tokens by decode graphs", better="more"),
    "decode_graph_failure": Metric("why decode was not captured", "text"),
    # 05_compare
    "speed_ratio": _key("next token in b, median case", "number", unit="of a's time"),
    "cases_faster": _key("times that are shorter in b"),
    "cases_slower": _key("times that are longer in b"),
    "accuracy_gain": _key("more right answers in b", "points"),
    # 06_align
    "guilty_steps": _key("steps that are wrong by themselves", better="less"),
    "greatest_own_error": _key("greatest error of one step", "number", "less", "roundings"),
    "logits_relative_l2": _key("relative distance of the logits (L2)", "number", "less"),
    "logits_kl": _key("KL divergence of the logits", "number", "less", "nats"),
    "logits_cosine": Metric("cosine similarity of the logits", "number", "more"),
    # of every notebook that loads a model
    "parity_of_limit": Metric("error, of what is allowed", "share", "less"),
}


def label(name: str) -> str:
    """Return a metric's name in plain words; one that is not declared keeps its own."""
    return METRICS[name].label if name in METRICS else name


def parts(name: str, value: Any) -> tuple[str, str]:
    """Return a metric's value for people, and its unit."""
    metric = METRICS.get(name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or (number and not abs(value) < HUGE):
        return UNKNOWN, ""
    if metric is None or not number or metric.kind == "text":
        return figure(value), ""
    if metric.kind == "bytes":
        return _bytes(value)
    if metric.kind == "chance":
        return _chance(value), ""
    texts = {
        "ms": (_digits(value), "ms"),
        "s": (_digits(value), "s"),
        "share": (_percent(value), "%"),
        "points": (f"{100 * value:+.1f}", "points"),
        "number": (_tiny(value) or _digits(value), metric.unit),
    }
    return texts.get(metric.kind, (_digits(value), metric.unit))


def which_is_better(name: str) -> str:
    """Say which way a metric is better; "" where neither way is, or it is not declared."""
    better = METRICS[name].better if name in METRICS else ""
    return {"less": "less is better", "more": "more is better"}.get(better, "")


def timed(name: str) -> bool:
    """Whether a metric is a time or follows from one, so that a busy machine changes it."""
    kind = METRICS[name].kind if name in METRICS else ""
    return kind in ("ms", "s", "rate") or name in ("forward_share", "longest_mbu", "speed_ratio")


def shown(name: str, value: Any) -> str:
    """Return a metric's value with its unit, for a sentence."""
    return " ".join(filter(None, parts(name, value)))


def interval(name: str, values: Mapping[str, Any]) -> str:
    """Return the interval of a metric that is recorded with `_low` and `_high`, or ""."""
    low, high = (values.get(f"{name}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return ""
    return f"{parts(name, low)[0]} – {parts(name, high)[0]}"


def is_interval(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a metric is an end of another one's interval."""
    return any(name.endswith(end) and name.removesuffix(end) in values for end in ("_low", "_high"))


def figures(values: Mapping[str, Any]) -> Table:
    """Return a table of metrics, in words and with their units and intervals."""
    return Table(
        ("figure", "value"),
        (
            (label(name), f"{shown(name, value)} {_in_brackets(interval(name, values))}".strip())
            for name, value in values.items()
            if not is_interval(name, values)
        ),
    )


def _in_brackets(text: str) -> str:
    return f"({text})" if text else ""


def _bytes(value: float) -> tuple[str, str]:
    for size, unit in BYTES:
        if abs(value) >= size:
            return _digits(value / size), unit
    return f"{value:,.0f}", "bytes"


def _chance(value: float) -> str:
    """A chance in words: 4e-107 means nothing to a reader, and no more than one in a million."""
    if value <= 0 or value < NEVER:
        return "under 1 in a million"
    if value >= 0.01:
        return f"{100 * value:.0f} in 100"
    return f"1 in {float(f'{1 / value:.2g}'):,.0f}"


def _percent(value: float) -> str:
    percent = 100 * value
    return f"{percent:.1f}" if abs(percent) >= 1 or not percent else f"{percent:.2g}"


def _tiny(value: float) -> str:
    """A number that digits after the point do not show, with its power of ten; "" for another."""
    if not 0 < abs(value) < 1e-3:
        return ""
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(RAISED)}"


def _digits(value: float) -> str:
    """Three digits, or whole thousands."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
