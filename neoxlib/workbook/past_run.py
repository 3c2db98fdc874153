"""An earlier run, read back from its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.workbook.results import NO_RUN, read_results


@dataclass(frozen=True)
class Past:
    """An earlier run and its results."""

    folder: Path
    results: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.results['notebook']}/{self.folder.name}"

    @property
    def identity(self) -> dict[str, Any]:
        """The values that must be equal for times to be comparable."""
        model, environment, asked = (
            self.results.get(part) or {} for part in ("model", "environment", "parameters")
        )
        return {
            "model": Path(model.get("model_dir") or "not known").name,
            "parameters": model.get("parameters"),
            "chip": _chip(model, environment),
            "dtype": model.get("dtype"),
            "quant": model.get("quant") or "none",
            "ranks": model.get("world_size") or asked.get("world_size"),
        }

    def table(self, name: str) -> pd.DataFrame | None:
        """Return one of its tables, or None if it has no such table."""
        path = self.folder / f"{name}.csv"
        try:
            if not path.is_file():
                return None
            return pd.read_csv(path, keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a table: {error}") from error


def open_run(path: str | Path) -> Past:
    """Return a run by its folder or its results.json. Raises DataError if it is not a run."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = read_results(path)
    except ValueError as error:
        raise DataError(f"{path} is not the results.json of a run ({error})") from error
    if results["status"] == NO_RUN["status"]:
        raise DataError(f"{path} is not the results.json of a run: it names no status")
    return Past(path.parent, results)


def _chip(model: dict[str, Any], environment: dict[str, Any]) -> str:
    """Return the processor, or the NPU that the model's operators are for."""
    on_cpu = str(model.get("device", "cpu")) == "cpu"
    chip = environment.get("cpu") if on_cpu else model.get("compile", "")
    return str(chip).removeprefix("operators for ")
