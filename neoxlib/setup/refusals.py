"""Checks of a run's parameters against model, exam and machine, before a kernel starts."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

from neoxlib.errors import NeoXError
from neoxlib.workbook import parameters
from neoxlib.workbook.arguments import RunArguments
from neoxlib.workbook.param import Param
from neoxlib.workbook.parameter_table import PARAMETERS


def refuse(jobs: Sequence[RunArguments]) -> None:
    """Raise ParameterError with every problem of the values of any of `jobs`."""
    parameters.refuse(list(dict.fromkeys(line for job in jobs for line in doubts(job))))


def doubts(job: RunArguments) -> list[str]:
    """List the problems of a job's values with model, exam and machine."""
    table = job.declared
    p = SimpleNamespace(**{n: _resolved(n, table[n], value) for n, value in job.values.items()})
    told: list[str] = []
    for ask in (ask for ask, needs in ASKED if all(hasattr(p, name) for name in needs)):
        try:
            told += ask(p, job.name) or []
        except NeoXError as error:
            told.append(str(error))
    return told


def _resolved(name: str, declared: Param, value: object) -> object:
    return parameters.resolve(name, PARAMETERS.get(name, declared), value)


def _ask_model(p: SimpleNamespace, notebook: str) -> list[str] | None:
    from neoxlib.checkpoint import preflight

    if notebook == SETUP or getattr(p, "plan_only", False):
        return preflight.plannable(p.model_dir, p.world_size, p.quant, p.max_seq_len)
    elsewhere = bool(getattr(p, "cluster_profile", None))
    asked = (p.model_dir, p.world_size, p.dtype, p.device, p.quant, p.max_seq_len, elsewhere)
    return [str(error) for error in preflight.doubts(*asked)]


def _ask_profile(p: SimpleNamespace, notebook: str) -> None:
    from neoxlib.ranks.launch import find_profile  # takes a second to import

    if p.cluster_profile:
        find_profile(p.cluster_profile)


def _ask_exam(p: SimpleNamespace, notebook: str) -> None:
    from neoxlib import exam

    scoring = exam.get_profile(p.profile, p.task, p.mode, p.shots)
    explained = scoring.mode == "cot"
    task = exam.load_task(p.task, p.data_dir, p.split, p.subjects, scoring.shots, explained)
    exam.read_earlier_run(p.compare_with, task, p.limit)


SETUP = "00_setup"  # reports problems of weights and devices itself, row by row
MODEL_VALUES = ("model_dir", "world_size", "dtype", "device", "quant", "max_seq_len")
EXAM_VALUES = ("task", "data_dir", "profile", "mode", "shots", "split", "subjects")
Ask = Callable[[SimpleNamespace, str], list[str] | None]  # takes the values, the notebook's name
ASKED: tuple[tuple[Ask, tuple[str, ...]], ...] = (  # each with the parameters that it needs
    (_ask_model, MODEL_VALUES),
    (_ask_profile, ("cluster_profile",)),
    (_ask_exam, (*EXAM_VALUES, "compare_with", "limit")),
)
