"""Former names of modules, for one release: notebooks that import them go on, with a warning."""

import warnings
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FORMER = {  # what notebooks imported, and where its functions are now
    "bench": "speed.measure",
    "body": "workbook.cells",
    "cases": "speed.cases inference.timing",
    "chips": "machine.devices machine.launch_env",
    "config": "model.config",
    "device": "machine.runtime",
    "engine": "inference.engine inference.load",
    "exam_plots": "exam.figures",
    "install": "setup.install",
    "doctor": "setup.doctor",
    "model_checks": "setup.model_checks",
    "parity": "inference.parity",
    "peaks": "speed.peaks",
    "planner": "speed.plan",
    "plots": "inference.figures checkpoint.figures",
    "prepare": "checkpoint.prepare",
    "quality": "inference.quality",
    "roofline": "speed.roofline",
    "run": "workbook.run workbook.table",
    "session": "ranks.session",
    "shell": "setup.sourced_env",
    "side_by_side": "compare",
    "speed_plots": "speed.figures",
    "speed_views": "speed.tables compare",
    "tasks": "exam",
    "views": "inference.tables",
    "weights": "checkpoint.load checkpoint.plan checkpoint.shard checkpoint.verify",
}

RENAMED = {  # what a notebook called by another name in those modules
    "bench.measure": "time_cases",
    "doctor.run": "check",
    "doctor.read": "from_json",
    "parity.check": "check_parity",
    "peaks.peaks": "find_peaks",
    "quality.check": "check_quality",
    "roofline.roofline": "of_session",
    "shell.write": "write_environment",
    "speed_views.peaks": "peaks_table",
    "tasks.about": "exam_table",
    "tasks.alone": "rescore_table",
    "tasks.earlier": "read_earlier_run",
    "tasks.extremes": "best_and_worst",
    "tasks.rules": "rules_table",
    "tasks.shortened": "shortened_prompts",
    "tasks.trust": "calibration_sentence",
    "weights.plan": "parameter_plan",
}


class FormerNames:
    """Finds and makes former modules: empty ones that look their names up in today's modules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of a former module; None for any other name."""
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "neoxlib" and name in FORMER else None

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Say the new name, once, and look names up there from now on."""
        places = [f"neoxlib.{place}" for place in FORMER[module.__name__.partition(".")[2]].split()]
        said = f"{module.__name__} is now {' and '.join(places)}; the former name goes with 0.2"
        warnings.warn(said, FutureWarning, stacklevel=2)
        module.__getattr__ = partial(_look_up, module.__name__, places)


def _look_up(former: str, places: list[str], name: str) -> Any:
    if not name.startswith("__"):
        name = RENAMED.get(f"{former.partition('.')[2]}.{name}", name)
        for module in map(import_module, places):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {former!r} has no attribute {name!r}")
