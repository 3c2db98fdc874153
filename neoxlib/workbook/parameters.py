"""What a notebook may be asked: one table of parameters for all notebooks, and the checks that both sides of a run use.

The command line checks before a kernel starts, `Run.start` checks again inside it, with the same functions and words.
"""

import difflib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxlib.demo import EXAM_DIR, MODEL_DIR, PROMPTS
from neoxlib.errors import ParameterError
from neoxlib.workbook import typed

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")  # of an exam
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


def _any(_: Any) -> str | None:
    return None


def _folder(value: str) -> str | None:
    return (
        None
        if Path(value).is_dir()
        else f"no folder {value!r}; give the path of an existing folder"
    )


def _exam(value: str) -> str | None:
    found = Path(value).is_dir() or (Path(value).is_file() and value.lower().endswith(ARCHIVES))
    return (
        None
        if found
        else f"no folder or .zip or .tar {value!r}; give the folder of an exam, or its archive"
    )


def _file(value: str) -> str | None:
    return (
        None if Path(value).is_file() else f"no file {value!r}; give the path of an existing file"
    )


def _run(value: str) -> str | None:
    found = Path(value, "results.json").is_file() or Path(value).is_file()
    return None if found else f"no run at {value!r}; give the folder of a run, or its results.json"


def _above_zero(value: float) -> str | None:
    return None if value > 0 else f"found {value!r}, expected a figure above 0"


def _share(value: float) -> str | None:
    return None if 0 < value <= 1 else f"found {value!r}, expected a share above 0 and at most 1"


def _model_dir(value: str) -> str | None:
    if complaint := _folder(value):
        return complaint
    found = any((Path(value) / name).is_file() for name in ("config.json", "manifest.json"))
    return (
        None
        if found
        else f"no config.json or manifest.json in {value!r}; give a checkpoint or shard folder"
    )


def _texts(value: list) -> str | None:
    bad = [item for item in value if not isinstance(item, str) or not item]
    return f"found {bad[0]!r} in the list, expected non-empty texts" if bad else None


def _counts(value: list) -> str | None:
    bad = [item for item in value if type(item) is not int or item < 1]
    expected = "expected whole numbers above 0, such as [1, 4]"
    return f"found {bad} in the list, {expected}" if bad else None


def _depths(value: list) -> str | None:
    bad = [item for item in value if type(item) is not int or item < 0]
    expected = "expected whole numbers of 0 or more, such as [0, 64]"
    return f"found {bad} in the list, {expected}" if bad else None


def _pairs(value: list) -> str | None:
    def is_pair(item: Any) -> bool:
        return (
            isinstance(item, (list, tuple))
            and len(item) == 2
            and all(type(n) is int and n > 0 for n in item)
        )

    bad = [item for item in value if not is_pair(item)]
    return (
        f"found {bad} in the list, expected pairs such as [[32, 16]] of whole numbers above 0"
        if bad
        else None
    )


@dataclass(frozen=True)
class Param:
    """One parameter: its annotation and default as in the notebooks' parameters cells, and what values it takes.

    `blank` says that the empty value ("", 0, []) is a value of its own: it resolves to `stands_for`. Where the default
    is None, only None is empty, and 0 is a figure like others. `item` is the type of a list's items
    where it is known.
    """

    type: str
    default: Any
    help: str
    choices: tuple = ()
    low: float | None = None
    high: float | None = None
    check: Callable[[Any], str | None] = _any
    blank: bool = False
    stands_for: Any = None
    item: str = ""


_COMMON = (
    "model_dir",
    "world_size",
    "dtype",
    "device",
    "quant",
    "max_seq_len",
    "cluster_profile",
    "deterministic",
    "plan_only",
)
_SAMPLING = (
    "prompts",
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "skip_special_tokens",
    "seed",
)
_EXAM = (
    "data_dir",
    "task",
    "profile",
    "mode",
    "subjects",
    "shots",
    "split",
    "limit",
    "replicas",
    "resume",
    "compare_with",
    "vendor_files",
    "seed",
)
_GRID = (
    "case_pair",
    "min_len_exp",
    "max_len_exp",
    "batch_size",
    "batch_sizes",
    "depths",
    "repeats",
    "min_seconds",
    "perf_mode",
    "skip_decode",
    "peak_gb_s",
    "peak_tflops",
    "trace",
    "scaling",
    "baseline",
    "max_slowdown",
    "seed",
)
NOTEBOOKS: dict[str, tuple[str, ...]] = {
    "00_setup": (*_COMMON, "prepare_dir"),
    "01_shard": (*_COMMON, "shard_dir"),
    "02_inference": _COMMON + _SAMPLING,
    "03_ceval": _COMMON + _EXAM,
    "04_profile": _COMMON + _GRID,
    "05_compare": ("run_a", "run_b"),
}


def complaint(name: str, param: Param, value: Any) -> str | None:
    """What is wrong with a value, in one line that starts with the parameter's name; None when nothing is."""
    if _is_blank(param, value):
        return None
    wrong = _wrong_type(param, value) or _half(value)
    wrong = wrong or _out_of_range(param, value) or _unfit(param, value)
    return f"{name}: {wrong}" if wrong else None


def _unfit(param: Param, value: Any) -> str | None:
    try:
        return param.check(value)
    except OSError as error:  # a path that no system has: too long, or behind a closed door
        return f"{value!r} cannot be looked up: {error.strerror}"


def _half(value: Any) -> str | None:
    """UTF-8 has no form for half a character: no file, no page and no tokenizer takes it."""
    if isinstance(value, str):
        half = any("\ud800" <= letter <= "\udfff" for letter in value)
        return f"found {value!r}, with half a character; write the whole one" if half else None
    parts = value.items() if isinstance(value, dict) else value
    parts = parts if isinstance(value, (list, tuple, dict)) else ()
    return next((wrong for part in parts if (wrong := _half(part))), None)


def _is_blank(param: Param, value: Any) -> bool:
    return param.blank and (
        value is None or (param.default is not None and not value and value is not False)
    )


def _wrong_type(param: Param, value: Any) -> str | None:
    wanted = (int, float) if param.type == "float" else TYPES.get(param.type, object)
    ok = isinstance(value, wanted) and (param.type == "bool" or not isinstance(value, bool))
    if ok:
        return None
    found = f"found {value!r}, which is {type(value).__name__}"
    return f"{found}, expected {param.type}{_hint(param, value)}"


def _hint(param: Param, value: Any) -> str:
    """How a text is written that is taken for something else, or something else for a text."""
    if param.type == "str":
        return "; a text that looks like something else goes in quotes"
    many = '; a list is ["one", "two"], and a text that begins with [ stands in one, in quotes'
    return many if param.type == "list" and isinstance(value, str) else ""


def _out_of_range(param: Param, value: Any) -> str | None:
    if param.choices and value not in param.choices:
        return f"found {value!r}, expected {' or '.join(choice or 'the empty text' for choice in param.choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"found {value!r}, expected a finite figure"
    if param.low is not None and not value >= param.low:
        return f"found {value!r}, expected {param.low} or more"
    if param.high is not None and not value <= param.high:
        return f"found {value!r}, expected {param.high} or less"
    return None


def complaints(values: dict[str, Any], declared: dict[str, Param]) -> list[str]:
    """One line for every value of a wrong type, choice or range, missing folder and impossible pair."""
    problems = [
        line for name, value in values.items() if (line := complaint(name, declared[name], value))
    ]
    task = PARAMETERS["task"]
    if values.get("task", "ceval") in task.choices[1:] and not values.get("data_dir"):
        problems.append(
            f"data_dir: the shipped exam is none of {values['task']}'s; give the folder of its questions"
        )
    low, high = (values.get(name) for name in ("min_len_exp", "max_len_exp"))
    if type(low) is type(high) is int and 0 < high < low:
        problems.append(f"min_len_exp: found {low}, expected at most max_len_exp, which is {high}")
    return problems


def refuse(problems: list[str]) -> None:
    """Raise one ParameterError with all problems, or none where there are none."""
    if problems:
        said = "\n".join(["the parameters cannot be used:", *(f"  {line}" for line in problems)])
        raise ParameterError(said.encode("utf-8", "backslashreplace").decode())


def resolve(name: str, param: Param, value: Any) -> Any:
    """The value that the library is called with: an empty value becomes what it stands for, a number its type."""
    if _is_blank(param, value):
        return param.stands_for() if callable(param.stands_for) else param.stands_for
    return float(value) if param.type == "float" else value


def read_text(param: Param, text: str) -> Any:
    """A value given on the command line, as `typed` reads it."""
    return typed.read_text(param.type, param.item, text)


def unknown(name: str, known: Iterable[str]) -> str:
    """The line for a name that no notebook takes: the nearest names first, then all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{name}: unknown parameter; {hint}known are {', '.join(known)}"


def usual_mode() -> str:
    """The perf_mode where none is given: "detail" where the guide's RETURN_PERF_DETAIL=1 or TIMEIT=1 is set."""
    return "detail" if _is_on("RETURN_PERF_DETAIL") or timings_shown() else "normal"


PARAMETERS: dict[str, Param] = {
    "model_dir": Param(
        "str",
        "",
        "checkpoint or shard folder; empty runs the shipped model",
        check=_model_dir,
        blank=True,
        stands_for=str(MODEL_DIR),
    ),
    "data_dir": Param(
        "str",
        "",
        "exam folder, or its zip or tar; empty takes the shipped exam",
        check=_exam,
        blank=True,
        stands_for=str(EXAM_DIR),
    ),
    "world_size": Param("int", 2, "ranks to split the model over; must divide the heads", low=1),
    "dtype": Param(
        "str",
        "auto",
        "number format of the weights",
        choices=("auto", "float32", "float16", "bfloat16"),
    ),
    "device": Param(
        "str",
        "auto",
        "where the ranks run; auto takes NPUs where there are any",
        choices=("auto", "cpu", "npu"),
    ),
    "quant": Param(
        "str",
        "",
        "weights of 8 or 4 bits, int8 or int4; empty takes them as they are stored",
        choices=("", "int8", "int4"),
        blank=True,
    ),
    "max_seq_len": Param(
        "int",
        0,
        "room for prompt and answer, in tokens; 0 takes MAX_SEQ_LEN or the model's own",
        low=1,
        blank=True,
    ),
    "seed": Param("int", 0, "start of every random draw", low=0, high=2**63 - 1),
    "cluster_profile": Param(
        "str",
        "",
        "ipyparallel profile for SSH, MPI or Slurm; empty starts ranks on this machine",
        blank=True,
    ),
    "deterministic": Param(
        "bool", False, "ask NPUs for sums and products in a fixed order; slower"
    ),
    "plan_only": Param("bool", False, "stop after the plan, before any model is loaded"),
    "prepare_dir": Param(
        "str", "", "a model folder of links and copies is made here; empty makes none", blank=True
    ),
    "shard_dir": Param(
        "str", "", "where the cut goes; empty keeps it in the run folder", blank=True
    ),
    "prompts": Param(
        "list",
        [],
        "texts to continue; empty takes the shipped ones",
        check=_texts,
        blank=True,
        stands_for=PROMPTS["en"] + PROMPTS["zh"],
        item="str",
    ),
    "max_new_tokens": Param("int", 32, "longest answer, in tokens", low=1),
    "temperature": Param(
        "float", 0.0, "0 always takes the likeliest token; higher is more varied", low=0
    ),
    "top_k": Param("int", 0, "draw among the k likeliest tokens; 0 means all", low=1, blank=True),
    "top_p": Param(
        "float",
        1.0,
        check=_share,
        help="draw among the likeliest tokens that reach this share; 1 means all",
    ),
    "repetition_penalty": Param(
        "float",
        1.0,
        check=_above_zero,
        help="above 1 makes repeated tokens less likely; 1 means off",
    ),
    "stop": Param(
        "list",
        [],
        "texts that end an answer; empty means none",
        check=_texts,
        blank=True,
        item="str",
    ),
    "stop_token_ids": Param(
        "list", [], "token ids that also end an answer; empty means none", check=_depths, blank=True
    ),
    "skip_special_tokens": Param("bool", True, "leave special tokens out of the text"),
    "task": Param("str", "ceval", "what is measured", choices=("ceval", "mmlu", "cmmlu", "boolq")),
    "profile": Param(
        "str",
        "",
        "whose prompt and scoring rules; empty is official, of boolq lm_eval",
        choices=("", "official", "lm_eval", "opencompass", "vendor"),
        blank=True,
    ),
    "mode": Param(
        "str",
        "answer_only",
        "cot lets the model reason before it answers; official of ceval has it",
        choices=("answer_only", "cot"),
    ),
    "subjects": Param(
        "list", [], "subjects to ask; empty asks all", check=_texts, blank=True, item="str"
    ),
    "shots": Param(
        "int",
        None,
        "worked examples before each question; None takes the profile's own number",
        low=0,
        blank=True,
    ),
    "split": Param("str", "val", "part of the exam", choices=("dev", "val", "test")),
    "limit": Param("int", 0, "questions per subject; 0 asks all", low=1, blank=True),
    "replicas": Param(
        "int", 1, "groups of world_size ranks each, which share the questions out", low=1
    ),
    "resume": Param(
        "str",
        "",
        "folder of an earlier run, whose answers are taken over; empty asks all questions",
        check=_folder,
        blank=True,
    ),
    "compare_with": Param(
        "str",
        "",
        "earlier run of this exam, folder or results.json; empty compares with none",
        check=_run,
        blank=True,
    ),
    "vendor_files": Param(
        "str",
        "guide",
        "names in test_result: guide has the rank in them, newer as the newer SDK",
        choices=("guide", "newer"),
    ),
    "case_pair": Param(
        "list",
        [],
        "pairs of input and output length, in tokens; empty takes the exponent grid",
        check=_pairs,
        blank=True,
    ),
    "min_len_exp": Param("int", 5, "shortest length of the grid, as a power of 2", low=0, high=20),
    "max_len_exp": Param(
        "int",
        0,
        "longest length of the grid, as a power of 2; 0 goes as far as the window, up to 10",
        low=1,
        high=20,
        blank=True,
        stands_for=0,
    ),
    "batch_size": Param("int", 1, "prompts at a time", low=1),
    "batch_sizes": Param(
        "list",
        [],
        "several batch sizes, each with every length; empty takes batch_size alone",
        check=_counts,
        blank=True,
    ),
    "depths": Param(
        "list",
        [],
        "tokens that the cache holds before the prompt comes; empty is an empty cache",
        check=_depths,
        blank=True,
    ),
    "repeats": Param(
        "int",
        6,
        "times that a case is run at least; of fewer than 6 there is no 95 % interval",
        low=1,
    ),
    "min_seconds": Param(
        "float", 0.5, "seconds that a case is run at least, after its warm-up", low=0
    ),
    "perf_mode": Param(
        "str",
        "",
        "detail splits the vendor's times by phase; empty is normal, or detail where "
        "RETURN_PERF_DETAIL or TIMEIT is 1",
        choices=("", "normal", "detail"),
        blank=True,
        stands_for=usual_mode,
    ),
    "skip_decode": Param("bool", False, "leave the tokenizer's decoding out of the time"),
    "trace": Param(
        "bool", False, "also keep a profiler's trace of a few steps of the first case, for Perfetto"
    ),
    "baseline": Param(
        "str",
        "",
        "results.json of an earlier run to compare with; empty compares with none",
        check=_file,
        blank=True,
    ),
    "max_slowdown": Param(
        "float",
        0.1,
        "share by which a case may be slower than the baseline's; more fails the run",
        low=0,
    ),
    "peak_gb_s": Param(
        "float",
        None,
        "GB/s that one NPU, or this machine's memory, reaches; None has it measured",
        check=_above_zero,
        blank=True,
    ),
    "peak_tflops": Param(
        "float",
        None,
        "TFLOPS that one NPU, or this machine's CPU, reaches; None has it measured",
        check=_above_zero,
        blank=True,
    ),
    "scaling": Param(
        "bool", False, "also run the first case over 1, 2, 4 … ranks and threads of this machine"
    ),
    "run_a": Param(
        "str",
        "",
        "folder or results.json of a run; empty, with run_b, takes the last two of one notebook",
        check=_run,
        blank=True,
    ),
    "run_b": Param("str", "", "the run to set beside it", check=_run, blank=True),
}


def timings_shown() -> bool:
    """Whether each case's times are to be said as they come: the guide's TIMEIT=1."""
    return _is_on("TIMEIT")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip() == "1"
