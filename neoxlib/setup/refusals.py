"""What is refused before a kernel starts: what model, exam and machine say against a run's values."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from neoxlib.errors import NeoXError
from neoxlib.workbook import parameters
from neoxlib.workbook.arguments import Job
from neoxlib.workbook.parameters import PARAMETERS, Param


def refuse(jobs: Sequence[Job]) -> None:
    """Raises ParameterError with all that speaks against the values of any of `jobs`."""
    parameters.refuse(list(dict.fromkeys(line for job in jobs for line in doubts(job))))


def doubts(job: Job) -> list[str]:
    """What model, exam and machine say against a job's values before a kernel starts."""
    table = job.declared
    p = SimpleNamespace(**{n: _resolved(n, table[n], value) for n, value in job.values.items()})
    told: list[str] = []
    for ask in (ask for ask, needs in ASKED if all(hasattr(p, name) for name in needs)):
        try:
            told += ask(p, job.name) or []
        except NeoXError as error:
            told.append(str(error))
    return told


def _resolved(name: str, declared: Param, value: Any) -> Any:
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
    from neoxlib import exam as exam_exam

    scoring = exam_exam.get_profile(p.profile, p.task, p.mode, p.shots)
    explained = scoring.mode == "cot"
    exam = exam_exam.load_task(p.task, p.data_dir, p.split, p.subjects, scoring.shots, explained)
    exam_exam.earlier(p.compare_with, exam, p.limit)


SETUP = "00_setup"  # says itself, row by row, what is wrong with the weights and the devices
Ask = Callable[[SimpleNamespace, str], list[str] | None]  # of the values and the notebook's name
ASKED: tuple[tuple[Ask, tuple[str, ...]], ...] = (  # each with the parameters that it needs
    (_ask_model, ("model_dir", "world_size", "dtype", "device", "quant", "max_seq_len")),
    (_ask_profile, ("cluster_profile",)),
    (
        _ask_exam,
        (
            "task",
            "data_dir",
            "profile",
            "mode",
            "shots",
            "split",
            "subjects",
            "compare_with",
            "limit",
        ),
    ),
)
