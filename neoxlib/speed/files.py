"""Measured cases as files, rewritten after every case: CSV, JSON, the vendor's CSV, Markdown."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

# Header of the vendor's performance test (atb_speed_sdk), letter by letter: its last column does
# end in _post.
VENDOR_COLUMNS = (
    "batch_size",
    "input_seq_len(Encoding)",
    "output_seq_len(Decoding)",
    "ResponseTime(s)",
    "forward_first_token_time(ms)",
    "forward_next_token_time(ms)",
    "pre_next_token_time(ms)",
    "post_next_token_time_post(ms)",
)
SHOWN = (  # the columns that people read first
    "batch_size",
    "depth",
    "input_len",
    "output_len",
    "first_token_ms",
    "next_token_ms",
    "next_token_ms_low",
    "next_token_ms_high",
    "next_token_ms_p99",
    "tokens_per_second",
    "rank_rss_peak_mb",
    "device_peak_mb",
    "outliers",
    "noise",
)


def save(
    run: "Run",
    table: pd.DataFrame,
    columns: dict[str, str],
    about: dict[str, Any],
    perf_mode: str,
    skip_decode: bool,
) -> None:
    """Write latency.csv, latency.json, latency.md and the vendor's CSV of each batch size.

    They go into the run's folder; each file is replaced as a whole. `columns` maps each column to
    its meaning; `about` is the engine's description of itself.
    """
    run.save("latency", table)
    run.text("latency.json", as_json(table, columns, about))
    run.text("latency.md", as_markdown(table[list(SHOWN)].replace("", None)))
    for name, rows in vendor_files(table, about, perf_mode, skip_decode):
        run.save(name, rows)


def vendor_files(
    table: pd.DataFrame, about: dict[str, Any], perf_mode: str, skip_decode: bool
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the vendor's table of each batch size with the name of its file, without .csv.

    The name is performance_test_npu_{model_name}_bs1, with `cpu` for `npu` if that is the device.
    Cases at a depth are left out, because no column would say so.
    """
    device = str(about["device"]).partition(":")[0]
    model_name = re.sub(r"[^\w.-]", "_", Path(about["model_dir"]).name)
    for batch, rows in table[table["depth"] == 0].groupby("batch_size"):
        name = f"performance_test_{device}_{model_name}_bs{batch}"
        yield name, vendor_table(rows, perf_mode, skip_decode).reset_index(drop=True)


def vendor_table(
    table: pd.DataFrame, perf_mode: str = "normal", skip_decode: bool = False
) -> pd.DataFrame:
    """Put `table` into the eight columns of the vendor's CSV, all by the synced clock.

    ResponseTime is one generation in seconds, rounded to two places, and includes turning ids into
    text unless `skip_decode`. As in the vendor's test, `perf_mode` "normal" gives whole steps as
    token times and zeros for pre and post; "detail" gives the forward pass alone, and pre and post
    apart. Times of a next token are 0 if there is none.
    """
    times = table.filter(like="_ms").astype(float)
    if perf_mode == "detail":
        later = times["next_forward_ms"] + times["next_communication_ms"]
        first = times["first_forward_ms"]
        pre = times["next_pre_ms"]
        post = times["next_post_ms"]
    else:
        first = times["first_token_ms"]
        later = times["next_token_ms"]
        pre = post = times["total_ms"] * 0
    seconds = (times["total_ms"] + (0 if skip_decode else times["text_ms"])) / 1e3
    lengths = [table[name] for name in ("batch_size", "input_len", "output_len")]
    columns = [
        *lengths,
        seconds.round(2),
        first,
        *(column.fillna(0.0) for column in (later, pre, post)),
    ]
    return pd.concat(columns, axis=1, keys=VENDOR_COLUMNS)


def as_json(table: pd.DataFrame, columns: dict[str, str], about: dict[str, Any]) -> str:
    """The model, the meaning of the columns, and the rows; null for values not measured."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    whole = {"model": about, "columns": columns, "rows": rows}
    return json.dumps(whole, ensure_ascii=False, indent=1, default=str) + "\n"


def as_markdown(table: pd.DataFrame) -> str:
    """A table of pipes; columns without any value are left out."""
    table = table.dropna(axis=1, how="all")
    lines = [list(table.columns), ["---:"] * len(table.columns)]
    lines += [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
