"""Folders of runs that never ran: for pages over many of them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from neoxlib.workbook.parameter_table import NOTEBOOKS

STATES = ("ok", "ok", "ok", "noisy", "check-failed", "failed", "interrupted")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SENTENCE = "Right, and {} tokens/s for one prompt of 1,024 tokens, continued by 128."


def write_runs(root: Path, count: int) -> None:
    """Write `count` runs of all notebooks, states and some models, each with a report."""
    names = list(NOTEBOOKS)
    for number in range(count):
        started = FIRST + timedelta(minutes=7 * number)
        folder = root / names[number % len(names)] / f"{started:%Y%m%dT%H%M%SZ}-{number:06x}"
        folder.mkdir(parents=True)
        text = json.dumps(results(number, folder, started))
        (folder / "results.json").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text("<h1>made up</h1>", encoding="utf-8")


def results(number: int, folder: Path, started: datetime) -> dict:
    """A run's results; every seventh has an error."""
    status = STATES[number % len(STATES)]
    error = {"type": "RankError", "message": "rank 1 died: out of memory", "cell": 5}
    return {
        "schema_version": 1,
        "notebook": folder.parent.name,
        "run": folder.name,
        "status": status,
        "parameters": {"model_dir": f"/models/model-{number % 9}", "world_size": 1 + number % 8},
        "given": ["model_dir", "world_size"],
        "environment": {"cpu": "a CPU", "cores": 2, "torch": "2.13.0", "git": f"{number:040x}"},
        "model": {"parameters": 1_878_016, "dtype": "float32", "world_size": 2, "device": "cpu"},
        "verdict": SENTENCE.format(1000 + number),
        "noise": ["other processes used 1.3 of 2 cores"] * (status == "noisy"),
        "metrics": {
            "first_token_ms": 2.5,
            "longest_tokens_per_second": 1000.0 + number,
            "accuracy": 0.9,
            "parity_of_limit": 0.05,
        },
        "checks": [{"name": "same as the unsplit model", "passed": True, "detail": "1/20"}],
        "files": [],
        "started": started.isoformat(timespec="seconds"),
        "finished": None,
        "seconds": 12.5,
        "error": error if status == "failed" else None,
        "process": {},
    }
