"""A slowdown that is really there: `make gate-planted`, 04_profile in turns against it.

A copy of the package waits after each forward pass for a share of the time that it took. The copy
is then compared with this commit by `04_profile -p baseline_python`, and an unchanged copy as well,
which must raise no alarm. The table goes to outputs/bench/planted.md, the times beside it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import click
import pandas as pd

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "outputs" / "bench" / "planted.md"
LOOP = Path("neoxlib") / "inference" / "decode.py"
FORWARD = "            logits = model(ids, cache, mask, last_only=True)[:, -1]  # [B, vocab here]\n"
WAIT = """\
            begun = time.perf_counter()
{forward}            until = begun + {longer} * (time.perf_counter() - begun)
            while time.perf_counter() < until:
                pass
"""
CASES = "[[64, 16], [128, 16]]"
CODES = {0: "no alarm", 3: "alarm", 4: "cannot be judged"}
HEADS = ("planted", "rounds", "next token, this commit ÷ other", "verdict", "what the check says")


class Compared(NamedTuple):
    """A comparison: what was planted, how it ended, and its check."""

    planted: float
    rounds: int
    code: int
    detail: str
    ratios: list[float]


def copy_with(planted: float, folder: Path) -> Path:
    """Copy the package into a folder, with forward passes that take longer by a share."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "neoxlib", folder / "neoxlib", ignore=skipped)
    loop = folder / LOOP
    text = loop.read_text("utf-8")
    if planted:
        if FORWARD not in text:
            raise RuntimeError(f"{LOOP} has no line {FORWARD.strip()!r} to plant a wait after")
        waiting = WAIT.format(forward=FORWARD, longer=1 + planted)
        loop.write_text("import time\n" + text.replace(FORWARD, waiting), "utf-8")
    return folder


def compare(planted: float, rounds: int) -> Compared:
    """Run 04_profile by a copy of the package, in turns with this commit."""
    with tempfile.TemporaryDirectory() as name:
        place = copy_with(planted, Path(name))
        values = {
            "baseline_python": sys.executable,
            "case_pair": CASES,
            "max_slowdown": "0",
            "rounds": str(rounds),
            "retry_noisy": "0",
        }
        given = [word for pair in values.items() for word in ("-p", *pair)]
        asked = [sys.executable, "-P", "-m", "neoxlib", "report", "04_profile", "--json", *given]
        places = ["--outputs", str(place / "runs")]
        done = subprocess.run(
            [*asked, *places],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(place)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return _read(planted, rounds, json.loads(done.stdout)["runs"][0])


def _read(planted: float, rounds: int, run: dict[str, Any]) -> Compared:
    checks = [check for check in run["checks"] if check["name"].endswith("in turns")]
    if not checks:
        raise RuntimeError(f"04_profile compared nothing: {run['status']}, {run['error']}")
    turns = pd.read_csv(Path(run["folder"]) / "turns.csv")
    kept = RESULT.with_name(f"planted-{planted:g}.csv")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(run["folder"]) / "rounds.csv", kept)
    later = turns.loc[turns["token"].str.startswith("next"), "ratio"].tolist()
    return Compared(planted, rounds, run["exit_code"], checks[0]["detail"], later)


def row(one: Compared) -> str:
    """Return a comparison as a row of the table."""
    what = f"{one.planted:.0%} of each forward pass" if one.planted else "nothing"
    ratios = ", ".join(f"{ratio:.3f}" for ratio in one.ratios)
    cells = (what, str(one.rounds), ratios, CODES.get(one.code, f"exit code {one.code}"))
    return f"| {' | '.join((*cells, one.detail))} |"


@click.command()
@click.option("--rounds", type=click.IntRange(9), default=24, show_default=True)
@click.option("--planted", type=float, default=0.05, show_default=True)
def main(rounds: int, planted: float) -> None:
    """Compare a slow copy and an unchanged one with this commit, and write the table."""
    lines = [f"| {' | '.join(HEADS)} |", "| --- | ---: | --- | --- | --- |"]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    for share in (planted, 0.0):
        lines.append(row(compare(share, rounds)))
        print(lines[-1], flush=True)
        RESULT.write_text("\n".join(lines) + "\n", "utf-8")
    print(RESULT)


if __name__ == "__main__":
    main()
