"""Record how the time of one case varies on this machine: `python -m benchmarks.noise NAME`.

Rows are takes of the same case of the shipped model over two ranks, one after the other, with the
processes started anew now and then, as a comparison in turns does. NAME.csv is what
benchmarks/gate.py draws real noise from.
"""

import sys
import time
from pathlib import Path
from statistics import median

import pandas as pd

from neoxlib import Session
from neoxlib.demo import MODEL_DIR
from neoxlib.inference.timing import Case
from neoxlib.speed import watch

CASE = Case(1, 64, 16, repeats=3, min_seconds=0.25, warmup=3)
TAKES = 18  # of a pair of processes
FOLDER = Path(__file__).parents[1] / "tests" / "fixtures" / "noise"


def takes(process: int, start: float) -> list[dict[str, float]]:
    """Time CASE again and again in processes of their own."""
    rows = []
    with Session(MODEL_DIR, 2) as session:
        for _ in range(TAKES):
            with watch.LoadWatch(watch.pids(session)) as load:
                runs = session.profile(CASE)
            first = median(run["step"][0] for run in runs)
            later = median(median(run["step"][1:]) for run in runs)
            seen = {"first_token_ms": first, "next_token_ms": later} | load.row()
            when = {"process": process, "seconds": time.perf_counter() - start}
            rows.append({name: round(value, 4) for name, value in (when | seen).items()})
    return rows


def main(name: str, seconds: float) -> None:
    """Record for about `seconds`; the file is written anew after every pair of processes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    rows: list[dict[str, float]] = []
    process = 0
    while time.perf_counter() - start < seconds:
        rows += takes(process, start)
        process += 1
        pd.DataFrame(rows).to_csv(FOLDER / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
