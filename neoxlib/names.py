"""Look names up on first use: those of a room, and for one release those of former modules.

Notebooks that import former modules go on, with a warning.
"""

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from neoxlib.errors import torch_npu_error


def face(package: str, **names: str) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports its modules, and `names`, on first use.

    `neoxlib.demo` and the command line's help do not wait for torch, and an import of torch that
    fails is explained wherever it happens first.
    """

    def get(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path = f"{package}.{names.get(name, name)}"
        try:
            module = import_module(path)
        except (ImportError, RuntimeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == path:
                said = f"module {package!r} has no attribute {name!r}"
                raise AttributeError(said) from None
            if cure := torch_npu_error(error):
                raise cure from error
            raise
        return getattr(module, name) if name in names else module

    return get


FORMER = {  # what notebooks imported, and where its functions are now
    "bench": "speed.measure",
    "body": "workbook.cells",
    "cases": "speed.cases inference.timing",
    "chips": "machine.devices machine.launch_env machine.recipe",
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
