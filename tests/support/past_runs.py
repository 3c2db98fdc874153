"""Folders of earlier runs with figures that vary a little."""

import json
from pathlib import Path

STEADY = [10.0, 10.2, 9.9, 10.1, 9.8, 10.05, 9.95, 10.15, 9.85, 10.0]


def write(root, number, metrics, notebook="04_profile", **values) -> Path:
    """One run's results.json, the `number`th in time."""
    folder = root / notebook / f"20260101T0000{number:02}Z-abc"
    folder.mkdir(parents=True)
    model = {"model_dir": "/m/small", "dtype": "float32", "world_size": 2}
    results = {"status": "ok", "notebook": notebook, "metrics": metrics, "model": model}
    results |= {"environment": {"cpu": "a cpu"}, "parameters": {"repeats": 6}}
    (folder / "results.json").write_text(json.dumps(results | values))
    return folder
