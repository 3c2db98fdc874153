"""From single measurements to the table and the comparison with the best peer."""

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from benchmarks.machine import load_average

OURS = "neoxlib"
MAIN = "1 x 128"
LONG = "1 x 1024"
MEASURES = {"first_ms": "first token", "next_ms": "next token"}


def case_key(batch: int, prompt: int) -> str:
    """A case as it is written everywhere: rows x prompt tokens."""
    return f"{batch} x {prompt}"


def agreement(reference: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> int:
    """How many new tokens are the reference's before the first other one; the median row's."""
    if [len(row) for row in reference] != [len(row) for row in tokens]:
        return 0
    counts = []
    for expected, row in zip(reference, tokens, strict=True):
        differing = (n for n, (a, b) in enumerate(zip(expected, row, strict=True)) if a != b)
        counts.append(next(differing, len(row)))
    return int(median(counts))


def summarise(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per contender and precision: medians over rounds and steps, with quartiles."""
    rows = []
    everyone = [(r["precision"], r["name"]) for r in (*result["records"], *result["failures"])]
    order = list(dict.fromkeys(precision for precision, _ in everyone))
    for precision, name in sorted(dict.fromkeys(everyone), key=lambda pair: order.index(pair[0])):
        records = [r for r in result["records"] if (r["precision"], r["name"]) == (precision, name)]
        about = next(
            (a for a in result["contenders"] if (a["precision"], a["name"]) == (precision, name)),
            {},
        )
        row: dict[str, Any] = {
            "precision": precision,
            "name": name,
            "version": about.get("version"),
        }
        row |= {"bytes": about.get("bytes"), "cases": _cases(records)}
        failed = [f for f in result["failures"] if (f["precision"], f["name"]) == (precision, name)]
        row["failed"] = failed[0]["reason"] if failed else None
        place = order.index(precision)  # memory was read before the first precision, and after each
        row["read_gb_s"] = max(result["read_gb_s"][place : place + 2])
        if row["bytes"] and MAIN in row["cases"]:
            seconds = row["cases"][MAIN]["next_ms"] / 1e3
            row["mbu"] = row["bytes"] / seconds / 1e9 / row["read_gb_s"]
        rows.append(row)
    return rows


def _cases(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    cases = {}
    for case in dict.fromkeys(record["case"] for record in records):
        runs = [record for record in records if record["case"] == case]
        later = [ms for run in runs for ms in run["steps_ms"][1:]]
        low, middle, high = quantiles(later, n=4) if len(later) > 1 else later * 3
        rates = [
            1e3 * run["batch"] * (len(run["steps_ms"]) - 1) / sum(run["steps_ms"][1:])
            for run in runs
        ]
        firsts = [run["steps_ms"][0] for run in runs]
        cases[case] = {
            "first_ms": median(firsts),
            "first_min_ms": min(firsts),
            "first_max_ms": max(firsts),
            "next_ms": middle,
            "next_q1_ms": low,
            "next_q3_ms": high,
            "tokens_per_s": median(rates),
            "rounds": len(runs),
            "same_tokens": min(run["same_tokens"] for run in runs),
            "tokens": runs[0]["tokens"],
            "by_round": {
                "first_ms": firsts,
                "next_ms": [median(run["steps_ms"][1:]) for run in runs],
            },
        }
    return cases


def against_peers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare neoxlib with the fastest peer, for each precision, case and measure, by round.

    Ranks are compared with the peers' ranks.
    """
    found = []
    for ours in (row for row in rows if row["name"].startswith(OURS)):
        peers = [row for row in rows if _is_peer(row, ours)]
        for case in ours["cases"]:
            rivals = {row["name"]: row["cases"][case] for row in peers if case in row["cases"]}
            for measure in MEASURES if rivals else ():
                found.append(_beside_best(ours, case, measure, rivals))
    return found


def _is_peer(row: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether `row` is another library at the same precision, with ranks if ours has ranks."""
    if row["name"].startswith(OURS) or row["precision"] != ours["precision"]:
        return False
    return row["name"].partition(",")[1:] == ours["name"].partition(",")[1:]


def _beside_best(
    ours: dict[str, Any], case: str, measure: str, rivals: dict[str, Any]
) -> dict[str, Any]:
    best = min(rivals, key=lambda name: rivals[name][measure])
    mine = ours["cases"][case]
    pairs = zip(rivals[best]["by_round"][measure], mine["by_round"][measure], strict=False)
    return {
        "precision": ours["precision"],
        "name": ours["name"],
        "case": case,
        "measure": measure,
        "neoxlib": mine[measure],
        "peer": best,
        "theirs": rivals[best][measure],
        "times": sorted(theirs / own for theirs, own in pairs),
    }


def markdown(result: dict[str, Any]) -> str:
    """The report: where and when, the table, the failures, and neoxlib beside the best peer."""
    rows = summarise(result)
    return (
        "\n\n".join(
            part
            for part in (_setting(result), _table(rows), _failures(rows), _ratios(rows))
            if part
        )
        + "\n"
    )


def _setting(result: dict[str, Any]) -> str:
    m = result["machine"]
    shape = result["shape"]
    bandwidth = result["read_gb_s"]
    versions = dict.fromkeys(about["version"].partition(",")[0] for about in result["contenders"])
    return (
        f"Measured {m['date'][:10]} on {m['cpu']}, {m['cores']} cores, {result['threads']} threads "
        f"(of 2 ranks one each), with a GPT-NeoX of random weights: {shape['layers']} layers, "
        f"hidden {shape['hidden']}, {shape['heads']} heads, vocabulary {shape['vocab']}, "
        f"{shape['parameters'] / 1e6:.0f} M parameters. {', '.join(versions)}; torch {m['torch']}. "
        f"Memory is read at {min(bandwidth):.0f} to {max(bandwidth):.0f} GB/s, as measured before "
        "the first precision and after each; MBU, the share of that which reading the weights "
        "alone makes up, is of the larger figure next to a precision (over 100 % where the loop "
        "that measures it does not reach what memory gives). "
        f"{load_average(result['others'])}"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    cases = list(dict.fromkeys(case for row in rows for case in row["cases"]))
    batches = [case for case in cases if not case.startswith("1 x")]
    head = [
        "weights",
        "library",
        "next token, ms (quartiles)",
        "MBU",
        "first of 128, ms",
        "first of 1024, ms",
    ]
    head += [f"{case.partition(' ')[0]} rows, tokens/s" for case in batches] + ["tokens as in fp32"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for row in rows:
        known = row["cases"]
        main = known.get(MAIN)
        cells = [row["precision"], row["name"], _spread(main) if main else "–"]
        cells.append(f"{row['mbu']:.0%}" if "mbu" in row else "–")
        cells += [
            f"{known[case]['first_ms']:.0f}" if case in known else "–" for case in (MAIN, LONG)
        ]
        cells += [
            f"{known[case]['tokens_per_s']:.0f}" if case in known else "–" for case in batches
        ]
        lines.append([*cells, f"{main['same_tokens']} of {main['tokens']}" if main else "–"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(case: dict[str, float]) -> str:
    return f"{case['next_ms']:.1f} ({case['next_q1_ms']:.1f}–{case['next_q3_ms']:.1f})"


def _failures(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"- {row['name']}, {row['precision']}: {row['failed']}" for row in rows if row["failed"]
    ]
    return "\n".join(["Not measured, and why:", *lines]) if lines else ""


def _ratios(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each of our precisions, a column for each case and measure."""
    found = {(f["precision"], f["name"], f["case"], f["measure"]): f for f in against_peers(rows)}
    if not found:
        return ""
    cases = [
        (case, measure) for case in dict.fromkeys(key[2] for key in found) for measure in MEASURES
    ]
    head = ["weights", "", *(f"{case}, {MEASURES[measure]}" for case, measure in cases)]
    lines = [head, ["---"] * 2 + ["---:"] * len(cases)]
    for ours in dict.fromkeys(key[:2] for key in found):
        lines.append([*ours, *(_ratio(found.get((*ours, *place))) for place in cases)])
    rounds = {
        case: max(len(f["times"]) for key, f in found.items() if key[2] == case)
        for case, _ in cases
    }
    about = (
        "neoxlib beside the fastest peer, for rows x tokens of prompt: how many times as fast, the "
        "median of the rounds (their span), and neoxlib's own median in ms. "
        f"Rounds: {', '.join(f'{n} of {case}' for case, n in rounds.items())}."
    )
    return about + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ratio(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    times = found["times"]
    peer = found["peer"].partition(",")[0]
    span = f"({times[0]:.2f}–{times[-1]:.2f})"
    return f"{median(times):.2f} × {peer}<br>{span}<br>{found['neoxlib']:.1f} ms"
