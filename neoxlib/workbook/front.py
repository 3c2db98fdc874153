"""What the pages say of a run at first sight: its verdict, key figures, checks, and what it was.

The report's first screen and the index show the same.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from neoxlib.workbook import metrics
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.past_run import is_number, trend
from neoxlib.workbook.resolved import shown

MOST_CARDS = 5
STATES = {  # status -> how it is coloured, how it is called
    "ok": ("good", "ok"),
    "noisy": ("warn", "noisy"),
    "not-judged": ("warn", "not judged"),
    "check-failed": ("bad", "check failed"),
    "failed": ("bad", "failed"),
    "interrupted": ("warn", "broken off"),
    "running": ("warn", "running"),
    "broken": ("bad", "broken"),
}
MARKS = {  # of a check -> how it is coloured, its mark, its word
    True: ("good", "✓", "yes"),
    False: ("bad", "✗", "no"),
    None: ("warn", "?", "not judged"),
}
TRADE_MARKS = re.compile(r"\((R|TM)\)|\bProcessor\b")
UNIT = re.compile(r"(?<=\d) (?=(?:%|[mµ]?s|min|[kMG]i?B(?:/s)?)(?!\w))")
ENDS = {"failed": "Failed", "interrupted": "Broken off"}


def state(run: dict[str, Any]) -> tuple[str, str]:
    """Return how a run's status is coloured and called."""
    return STATES.get(run["status"], ("idle", str(run["status"]).replace("-", " ")))


def verdict(run: dict[str, Any]) -> str:
    """Return the answer of a run: its own, or what can be said of how it ended."""
    if run["error"]:
        error = run["error"]
        cell = _place(error)
        message = (str(error.get("message", "")).strip().splitlines() or [""])[0]
        what = ": ".join(filter(None, (str(error.get("type", "")), message)))
        end = ENDS.get(run["status"], "")
        return f"{end}{cell}: {what}" if end else what[:1].upper() + what[1:] or "No message."
    if run["verdict"]:
        return run["verdict"][:1].upper() + run["verdict"][1:]
    if run["status"] == "check-failed":
        return f"Not met: {_failed(run)}"
    if run["status"] == "running":
        return "Not finished: it is still running."
    if run["status"] == "broken":
        return "Its results cannot be read."
    if run["status"] in ENDS:
        return f"{ENDS[run['status']]}, and no reason was recorded."
    checks = len(run["checks"])
    held = f"all {checks} checks hold" if checks > 1 else "its check holds"
    if run["status"] == "not-judged":
        return "Finished, but a check cannot be judged."
    return f"Finished: {held}." if checks else "Finished; it checks nothing."


def _place(error: dict[str, Any]) -> str:
    """When and in which cell an error came, as far as that is known."""
    at = when(error.get("at"))
    moment = f" at {at} UTC" if at else ""
    number, heading = error.get("cell"), error.get("heading")
    if not number:
        return moment
    return f"{moment} in “{heading}”, cell {number}" if heading else f"{moment} in cell {number}"


def _failed(run: dict[str, Any]) -> str:
    """The checks that failed, in words; those of another program may have no name."""
    wrong = [check for check in run["checks"] if check.get("passed") is False]
    named = [check for check in wrong if check.get("name")]
    said = "; ".join(f"{check['name']} ({check.get('detail') or 'no detail'})" for check in named)
    return said or "a check without a name"


def in_two(text: str) -> tuple[str, str]:
    """Return the first sentence of a text, and the rest; a stop within quotes ends none."""
    for stop in re.finditer(r"[.!?]\s+(?=[A-Z(])", text):
        said = text[: stop.start() + 1]
        if said.count("“") == said.count("”"):
            return said, text[stop.end() :]
    return text, ""


def held(text: str) -> str:
    """Return a text in which no line ends between a number and its unit."""
    return UNIT.sub("\u00a0", text)


def key_names(run: dict[str, Any]) -> list[str]:
    """Return the names of a run's key figures, in the order of the table of metrics.

    Metrics that are not declared come after the declared ones.
    """
    values = run["metrics"]
    known = [name for name, metric in metrics.METRICS.items() if metric.key and name in values]
    other = [
        name
        for name in values
        if name not in metrics.METRICS and not metrics.is_interval(name, values)
    ]
    return (known + other)[:MOST_CARDS]


def cards(run: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a run's key figures; `earlier` are comparable runs' results, oldest first."""
    return [_card(name, run, earlier) for name in key_names(run)]


def _card(name: str, run: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> dict[str, Any]:
    value, unit = metrics.parts(name, run["metrics"][name])
    found = trend(name, [*earlier, run] if has_trend(name) else [run])
    return {
        "label": metrics.label(name),
        "value": value,
        "unit": unit,
        "interval": metrics.interval(name, run["metrics"]),
        "change": found.change,
        "better": metrics.which_is_better(name),
        "way": found.way,
        "bars": bars(name, found.values),
    }


def has_trend(name: str) -> bool:
    """Whether a metric is worth following from run to run: more or less of it is better."""
    return name not in metrics.METRICS or bool(metrics.METRICS[name].better)


def bars(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Return a small chart's bars, heights in per cent from 0, and its words; {} for one value."""
    top = max((abs(value) for value in values), default=0)
    if len(values) < 2 or not top:
        return {}
    heights = [round(max(100 * abs(value) / top, 4), 1) for value in values]
    told = ", ".join(metrics.shown(name, value) for value in values)
    return {"heights": heights, "words": f"the last {len(values)} runs, oldest first: {told}"}


def checks(run: dict[str, Any]) -> list[dict[str, str]]:
    """Return a line per check: its mark and word, its name, what was found, and finer detail."""
    lines = []
    for check in run["checks"]:
        passed = check.get("passed")
        colour, mark, word = MARKS[passed if passed in (True, None) else False]
        said, _, more = str(check.get("detail", "")).partition("; ")
        name = str(check.get("name", "no name"))
        lines.append(
            {"colour": colour, "mark": mark, "word": word, "name": name}
            | {"said": held(said), "more": more}
        )
    return lines


def other_figures(run: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return every metric: its name in words, its value, its own name."""
    values = run["metrics"]
    return [
        (metrics.label(name), _with_interval(name, value, values), name)
        for name, value in values.items()
        if not metrics.is_interval(name, values)
    ]


def _with_interval(name: str, value: Any, values: dict[str, Any]) -> str:
    ends = metrics.interval(name, values)
    return f"{metrics.shown(name, value)} ({ends})" if ends else metrics.shown(name, value)


def model(run: dict[str, Any], short: bool = False) -> list[str]:
    """Return what was run: model, size, number format, ranks; unknown parts are left out."""
    asked, about = run["parameters"], run["model"]
    ranks = about.get("world_size") or asked.get("world_size")
    size = about.get("parameters")
    name = ""
    if "model_dir" in asked:
        name = shown(asked["model_dir"] or PARAMETERS["model_dir"].stands_for)
    parts = [
        name,
        size_text(size, short) if is_number(size) else "",
        about.get("dtype"),
        about.get("quant"),
        f"{ranks} rank{'s' if ranks != 1 else ''}" if ranks else "",
    ]
    return [str(part) for part in parts if part]


def size_text(parameters: int, short: bool = False) -> str:
    """A number of parameters in words."""
    billions = parameters >= 1e9
    text = f"{parameters / 1e9:,.1f} B" if billions else f"{parameters / 1e6:,.1f} M"
    return text if short else f"{text} parameters"


def place(run: dict[str, Any]) -> list[str]:
    """Return where it ran: chip or CPU, version of torch, commit; unknown parts are left out."""
    env, about = run["environment"], run["model"]
    device = str(about.get("device") or env.get("device") or "")
    on_npu = device.startswith("npu")
    chip = about.get("chip") if on_npu else TRADE_MARKS.sub("", str(env.get("cpu") or ""))
    cores = f" ({env['cores']} cores)" if env.get("cores") and not on_npu else ""
    parts = [
        " ".join(filter(None, ("NPU" if on_npu else "CPU", str(chip or "")))) + cores
        if device
        else "",
        f"torch {env['torch']}" if env.get("torch") else "",
        f"commit {str(env['git'])[:10]}" if env.get("git") else "",
    ]
    return [" ".join(part.split()) for part in parts if part]


def when(stamp: Any) -> str:
    """A moment to the minute; "" if it is none."""
    try:
        return f"{datetime.fromisoformat(stamp):%Y-%m-%d %H:%M}"
    except (TypeError, ValueError):
        return ""


def took(seconds: Any) -> str:
    """A duration; "" if it is none."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e10:
        return ""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
