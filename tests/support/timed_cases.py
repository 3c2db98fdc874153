"""Made-up timed cases with the columns of `bench.COLUMNS`, so that every figure is known."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from neoxlib.model.config import ModelConfig
from neoxlib.speed.measure import COLUMNS
from neoxlib.speed.peaks import Peaks

MODEL = {
    "model_dir": "/models/a",
    "parameters": 1000,
    "dtype": "float32",
    "quant": None,
    "world_size": 2,
    "device": "cpu",
    "compile": "compiled kernels",
}
ENVIRONMENT = {"machine": "own", "cpu": "A processor", "torch": "2.13.0", "variables": {}}


def row(
    input_len: int = 32,
    output_len: int = 16,
    first: float = 20.0,
    later: float | None = 2.0,
    **more: Any,
) -> dict:
    """A case whose intervals reach 5 % to either side; of a next token 10, 60, 20 and 10 % are its
    four parts.
    """
    found: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "batch_size": 1,
        "depth": 0,
        "input_len": input_len,
        "output_len": output_len,
        "repeats": 6,
        "outliers": 0,
        "slowest_rank": 1,
        "total_ms": 50.0,
        "end_to_end_ms": 48.0,
        "tokens_per_second": 320.0,
        "others_cores": 0.0,
        "stolen_cores": 0.0,
        "cores": 2,
        "takes": 1,
        "drift": 0.0,
        "noise": "",
    }
    for name, ms in (("first_token_ms", first), ("next_token_ms", later)):
        ends = {"": 1, "_low": 0.95, "_high": 1.05, "_p50": 1, "_p90": 1.2, "_p99": 2}
        found |= {
            f"{name}{end}": None if ms is None else ms * factor for end, factor in ends.items()
        }
    shares = {"pre": 0.1, "forward": 0.6, "communication": 0.2, "post": 0.1}
    found |= {
        f"next_{part}_ms": None if later is None else share * later
        for part, share in shares.items()
    }
    return found | more


def table(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows or [row(32), row(128), row(128, 64)])


def earlier(
    folder: Path, found: pd.DataFrame | None, notebook: str = "04_profile", **results: Any
) -> Path:
    """The folder of a finished run with this table of times."""
    folder.mkdir(parents=True)
    if found is not None:
        found.to_csv(folder / "latency.csv", index=False)
    whole = {
        "notebook": notebook,
        "status": "ok",
        "model": MODEL,
        "environment": ENVIRONMENT,
        "parameters": {},
    }
    (folder / "results.json").write_text(json.dumps(whole | results))
    return folder / "results.json"


class Notes:
    """The tables, figures and checks that a run keeps, by name."""

    def __init__(self, folder: Path = Path("outputs/04_profile/now"), **params: Any) -> None:
        self.folder = folder
        self.params = SimpleNamespace(**{"max_slowdown": 0.1} | params)
        self.environment = ENVIRONMENT
        self.results = {"notebook": "04_profile", "model": MODEL, "environment": ENVIRONMENT}
        self.tables = {}
        self.figures = {}
        self.checks = {}
        self.noise = []

    def save(self, name: str, found: pd.DataFrame) -> pd.DataFrame:
        self.tables[name] = found
        return found

    def figure(self, name: str, figure: Any) -> None:
        self.figures[name] = figure

    def check(self, name: str, passed: bool | None, detail: str = "") -> None:
        self.checks[name] = (passed, detail)

    def noisy(self, why: str) -> None:
        self.noise.append(why)


CONFIG = ModelConfig(
    vocab_size=1024,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    intermediate_size=1024,
    max_position_embeddings=2048,
)


def peak(gb_s: float = 10.0, tflops: float = 0.1, shared: bool = False) -> Peaks:
    return Peaks(gb_s, tflops, "measured now", "measured now", shared)


def clocks(
    first: float, *later: float, slowest: int = 0, **more: list[float]
) -> dict[str, list[float]]:
    """A repeat whose steps take these forward times, and 1 + 2 + 3 ms for pre, communication and
    post.
    """
    forward = [first, *later]
    return {
        "pre": [1.0] * len(forward),
        "forward": forward,
        "communication": [2.0] * len(forward),
        "post": [3.0] * len(forward),
        "step": [ms + 6 for ms in forward],
        "slowest": [slowest] * len(forward),
        "text": [500.0],
        "end_to_end": [],
        "warmups": [2],
        "warmup_s": [0.5],
    } | more
