"""Checks of a run's parameters against model, exam and machine, before a kernel starts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from neoxlib.errors import NeoXError, SettingsError
from neoxlib.ranks import needs
from neoxlib.workbook import parameters
from neoxlib.workbook.arguments import RunArguments
from neoxlib.workbook.param import Param
from neoxlib.workbook.parameter_table import PARAMETERS


def refuse(jobs: Sequence[RunArguments]) -> None:
    """Raise ParameterError with every problem of the values of any of `jobs`, or of this machine.

    The machine is asked last: values that were taken bound how many threads that starts.
    """
    for ask in (doubts, lacks):
        parameters.refuse(list(dict.fromkeys(line for job in jobs for line in ask(job))))


def doubts(job: RunArguments) -> list[str]:
    """List the problems of a job's values with model, exam and machine."""
    p = _values(job)
    told: list[str] = []
    left_out = AFTER_THE_PLAN if getattr(p, "plan_only", False) else ()
    asked = (ask for ask, names in ASKED if all(hasattr(p, name) for name in names))
    for ask in (ask for ask in asked if ask not in left_out):
        try:
            told += ask(p, job.name) or []
        except NeoXError as error:
            told.append(str(error))
    return told


def lacks(job: RunArguments) -> list[str]:
    """Say what this machine lacks for a job's kernel, and for ranks that the kernel starts here."""
    p = _values(job)
    ranks = all(hasattr(p, name) for name in MODEL_VALUES) and job.name != SETUP
    try:
        needs.check_kernel()
        if ranks and not (getattr(p, "plan_only", False) or getattr(p, "cluster_profile", None)):
            needs.check_machine(p.world_size)
    except SettingsError as error:
        return [str(error)]
    return []


def _values(job: RunArguments) -> SimpleNamespace:
    resolved = {n: _resolved(n, job.declared[n], value) for n, value in job.values.items()}
    return SimpleNamespace(**resolved)


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
    from neoxlib.exam import journal

    scoring = exam.get_profile(p.profile, p.task, p.mode, p.shots)
    explained = scoring.mode == "cot"
    task = exam.load_task(p.task, p.data_dir, p.split, p.subjects, scoring.shots, explained)
    exam.read_earlier_run(p.compare_with, task, p.limit)
    if p.resume:
        journal.read_answers(journal.find(p.resume), journal.exam_key(scoring, task, p.limit))


def _ask_grid(p: SimpleNamespace, notebook: str) -> None:
    """Refuse cases that the window has no room for, as the notebook would; see `speed.cases`."""
    from neoxlib.inference.timing import Case, refuse_long

    largest = 2 ** max(p.min_len_exp, p.max_len_exp)
    pairs = p.case_pair or [(largest, largest)]
    batches = p.batch_sizes or [p.batch_size]
    cases = [Case(batches[0], *pair, depth) for depth in p.depths or [0] for pair in pairs]
    refuse_long(cases, _window(p))


def _ask_prompts(p: SimpleNamespace, notebook: str) -> list[str]:
    """Name the prompts that, with their answers, are longer than the window."""
    from tokenizers import Tokenizer

    path = Path(p.model_dir) / "tokenizer.json"
    if not path.is_file():  # found where the model is loaded
        return []
    tokenizer = Tokenizer.from_file(str(path))
    room = _window(p) - p.max_new_tokens
    sizes = enumerate(len(tokenizer.encode(text).ids) for text in p.prompts)
    return [
        f"prompts[{number}] has {size} tokens and max_new_tokens is {p.max_new_tokens}: "
        f"{size + p.max_new_tokens} together, but max_seq_len is {_window(p)}"
        for number, size in sizes
        if size > room
    ]


def _window(p: SimpleNamespace) -> int:
    from neoxlib.model.config import ModelConfig, sequence_window

    return sequence_window(ModelConfig.from_dir(p.model_dir), p.max_seq_len)


def _ask_times(p: SimpleNamespace, notebook: str) -> list[str]:
    """Name the earlier runs that are no timed runs of this notebook."""
    from neoxlib.workbook.past_run import open_run

    told = []
    for name in ("baseline", "resume"):
        path = getattr(p, name)
        past = open_run(path) if path else None
        if past and (past.results["notebook"] != notebook or past.table("latency") is None):
            of = past.results["notebook"] or "no notebook"
            wanted = f"expected the results.json of a {notebook} run, beside its latency.csv"
            told.append(f"{name}: {path} is of {of}; {wanted}")
    return told


def _ask_pair(p: SimpleNamespace, notebook: str) -> list[str]:
    one = bool(p.run_a) != bool(p.run_b)
    found = f"found run_a {p.run_a!r} and run_b {p.run_b!r}"
    return [f"run_a: {found}; name both, or none for the last two runs"] if one else []


def _ask_layers(p: SimpleNamespace, notebook: str) -> list[str]:
    from neoxlib.model.config import ModelConfig

    if not p.layers or p.target:
        return []
    depth = ModelConfig.from_dir(p.model_dir).num_hidden_layers
    wrong = [layer for layer in p.layers if layer >= depth]
    return [f"layers: {wrong} are not among the model's 0..{depth - 1}"] if wrong else []


def _ask_captures(p: SimpleNamespace, notebook: str) -> list[str]:
    """Name the folders that are nothing of what `align.references` takes."""
    from neoxlib.model import dumps

    told = []
    for name in ("target", "reference"):
        path = Path(getattr(p, name) or "")
        folder = path.parent if path.is_file() else path
        known = any((folder / file).is_file() for file in ALIGNED) or dumps.is_dump(folder)
        # What is no path is a word, which `param.reference` has checked.
        if getattr(p, name) and path.exists() and not known:
            has = " and no ".join((*ALIGNED, dumps.DUMP))
            what = "no capture, dump, run or model folder"
            told.append(f"{name}: {folder} is {what}: it has no {has}")
    return told


# Of a capture, of a run with one, of a model, of a shard folder, and of any run.
ALIGNED = ("capture.json", "capture/capture.json", "config.json", "manifest.json", "results.json")
SETUP = "00_setup"  # reports problems of weights and devices itself, row by row
MODEL_VALUES = ("model_dir", "world_size", "dtype", "device", "quant", "max_seq_len")
EXAM_VALUES = ("task", "data_dir", "profile", "mode", "shots", "split", "subjects")
WINDOW_VALUES = ("model_dir", "max_seq_len")
BATCHES = ("batch_size", "batch_sizes", "depths")
AFTER_THE_PLAN = (_ask_grid, _ask_prompts)  # what plan_only does not come to
Ask = Callable[[SimpleNamespace, str], list[str] | None]  # takes the values, the notebook's name
ASKED: tuple[tuple[Ask, tuple[str, ...]], ...] = (  # each with the parameters that it needs
    (_ask_model, MODEL_VALUES),
    (_ask_profile, ("cluster_profile",)),
    (_ask_exam, (*EXAM_VALUES, "compare_with", "limit", "resume")),
    (_ask_grid, (*WINDOW_VALUES, "case_pair", "min_len_exp", "max_len_exp", *BATCHES)),
    (_ask_prompts, (*WINDOW_VALUES, "prompts", "max_new_tokens")),
    (_ask_times, ("baseline", "resume")),
    (_ask_pair, ("run_a", "run_b")),
    (_ask_captures, ("target", "reference")),
    (_ask_layers, ("model_dir", "layers", "target")),
)
