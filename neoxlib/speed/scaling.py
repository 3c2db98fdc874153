"""One case over several numbers of ranks and threads of this host, and the bounds for chips."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd
import torch

from neoxlib.errors import NeoXError
from neoxlib.inference.timing import Case
from neoxlib.machine import devices, limits, npu_smi
from neoxlib.model.world_size import legal_world_sizes
from neoxlib.ranks.session import Session
from neoxlib.speed import measure as speed_measure
from neoxlib.speed.plan import plan
from neoxlib.workbook.resolved import Params

if TYPE_CHECKING:
    from neoxlib.inference.engine import Engine
    from neoxlib.model.config import ModelConfig

CHIPS = ("910B3", "310P3")  # whose curves are predicted
COLUMNS = [
    "ranks",
    "threads",
    "first_token_ms",
    "next_token_ms",
    "next_token_ms_low",
    "next_token_ms_high",
    "tokens_per_second",
    "speed_up",
    "efficiency",
]


def time_combinations(
    params: Params, config: "ModelConfig", case: Case, report: Callable[[str], None] = print
) -> pd.DataFrame:
    """Time `case` on this host: a row per number of ranks, and on a CPU of threads per rank.

    `speed_up` is of `timed_token`, against the first row, with the fewest ranks and threads;
    `efficiency` is `speed_up` divided by the ranks × threads used. Numbers of ranks that cannot be
    started are reported and left out.
    `params` are a run's: model_dir, dtype, device, quant, max_seq_len.
    """
    settings = params.dtype, params.device, params.quant, params.max_seq_len
    rows = []
    for ranks, counts in combinations(config, params.quant, params.device):
        try:
            with Session(params.model_dir, ranks, *settings) as session:
                for threads in counts:
                    session.apply(set_threads, threads)
                    row = speed_measure.summarise(case, session.profile(case))
                    rows.append({"ranks": ranks, "threads": threads} | row)
                    report(f"{ranks} × {threads}: {speed_measure.in_words(row)}")
        except NeoXError as error:
            report(f"{ranks} ranks are left out: {error}")
    return _with_efficiency(pd.DataFrame(rows))[COLUMNS]


def _with_efficiency(table: pd.DataFrame) -> pd.DataFrame:
    took = table["ranks"] * table["threads"]
    times = table[timed_token(table)].astype(float)
    table["speed_up"] = times.iloc[0] / times
    table["efficiency"] = table["speed_up"] / (took / took.iloc[0])
    return table


def timed_token(table: pd.DataFrame) -> str:
    """The column that cases are compared by: the next token's time, or the first's if alone."""
    alone = "next_token_ms" in table and table["next_token_ms"].isna().all()
    return "first_token_ms" if alone else "next_token_ms"


def combinations(
    config: "ModelConfig", quant: str | None, device: str
) -> Iterator[tuple[int, list[int]]]:
    """Numbers of ranks to try here, powers of 2 that cut the model, each with threads per rank."""
    on_cpu = devices.pick_device(device) == "cpu"
    devices_here = limits.core_count() if on_cpu else len((npu_smi.query() or npu_smi.Smi()).cards)
    for ranks in legal_world_sizes(config, quant):
        if ranks <= devices_here and (ranks & (ranks - 1)) == 0:
            yield ranks, list(_powers(devices_here // ranks)) if on_cpu else [1]


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4 …, and the largest."""
    power = 1
    while power < most:
        yield power
        power *= 2
    yield most


def set_threads(_: "Engine", threads: int) -> None:
    """Let this rank compute with `threads` threads from now on."""
    torch.set_num_threads(threads)


def predict(params: Params, config: "ModelConfig", case: Case) -> pd.DataFrame:
    """The bounds of `case` on CHIPS by ranks, predicted from the chips' own figures."""
    rows = []
    given = {"dtype": "auto", "quant": params.quant}
    for chip in CHIPS:
        for ranks in legal_world_sizes(config, params.quant):
            request = params.model_dir, ranks, case.batch_size, case.positions
            found = plan(*request, chip=chip, **given)
            fits = {True: "yes", False: "no", None: "not known"}[found.fits]
            times = found.first_token_ms, found.next_token_ms, found.likely
            rows.append((chip, ranks, *times, fits))
    names = ["predicted_first_ms", "predicted_next_ms", "predicted_next_likely_ms", "fits"]
    return pd.DataFrame(rows, columns=["chip", "ranks", *names])
