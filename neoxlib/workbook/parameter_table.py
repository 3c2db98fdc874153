"""The parameters of all notebooks, one row each, and which notebook takes which."""

from collections.abc import Callable

from neoxlib.demo import EXAM_DIR, MODEL_DIR, PROMPTS
from neoxlib.languages import LANGUAGES
from neoxlib.workbook import param
from neoxlib.workbook.param import Param


def _path(help: str, check: Callable[[str], str | None] = param.anything) -> Param:
    """A path or name that may be left out."""
    return Param("str", "", help, check=check, blank=True)


PARAMETERS: dict[str, Param] = {
    "model_dir": Param(
        "str",
        "",
        "checkpoint or shard folder; empty runs the shipped model",
        check=param.model_dir,
        blank=True,
        stands_for=str(MODEL_DIR),
    ),
    "data_dir": Param(
        "str",
        "",
        "exam folder, or its zip or tar; empty takes the shipped exam",
        check=param.exam,
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
    "cluster_profile": _path(
        "ipyparallel profile for SSH, MPI or Slurm; empty starts ranks on this machine"
    ),
    "deterministic": Param(
        "bool", False, "ask NPUs for sums and products in a fixed order; slower"
    ),
    "graph": Param("str", "auto", "capture decode as NPU graphs", choices=("auto", "on", "off")),
    "plan_only": Param("bool", False, "stop after the plan, before any model is loaded"),
    "lang": Param(
        "str",
        "auto",
        "language of the report: en or zh; auto takes NEOXLIB_LANG, else en",
        choices=("auto", *LANGUAGES),
    ),
    "prepare_dir": _path("a model folder of links and copies is made here; empty makes none"),
    "shard_dir": _path("where the cut goes; empty keeps it in the run folder"),
    "prompts": Param(
        "list",
        [],
        "texts to continue; empty takes the shipped ones",
        check=param.texts,
        blank=True,
        stands_for=PROMPTS["en"] + PROMPTS["zh"],
        item="str",
    ),
    "max_new_tokens": Param("int", 32, "longest answer, in tokens", low=1),
    "temperature": Param(
        "float", 0.0, "0 always takes the most likely token; higher is more varied", low=0
    ),
    "top_k": Param("int", 0, "draw among the k most likely tokens; 0 means all", low=1, blank=True),
    "top_p": Param(
        "float",
        1.0,
        check=param.share,
        help="draw among the most likely tokens that reach this share; 1 means all",
    ),
    "repetition_penalty": Param(
        "float",
        1.0,
        check=param.above_zero,
        help="above 1 makes repeated tokens less likely; 1 means off",
    ),
    "stop": Param(
        "list",
        [],
        "texts that end an answer; empty means none",
        check=param.texts,
        blank=True,
        item="str",
    ),
    "stop_token_ids": Param(
        "list",
        [],
        "token ids that also end an answer; empty means none",
        check=param.depths,
        blank=True,
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
        "list", [], "subjects to ask; empty asks all", check=param.texts, blank=True, item="str"
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
    "resume": _path(
        "folder of an earlier run, whose answers or clean times are taken over; empty takes none",
        param.folder,
    ),
    "compare_with": _path(
        "earlier run of this exam, folder or results.json; empty compares with none", param.run
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
        check=param.pairs,
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
        check=param.counts,
        blank=True,
    ),
    "depths": Param(
        "list",
        [],
        "tokens that the cache holds before the prompt comes; empty is an empty cache",
        check=param.depths,
        blank=True,
    ),
    "repeats": Param(
        "int",
        6,
        "times that a case is run at least; of fewer than 6 there is no 95 % interval",
        low=1,
    ),
    "min_seconds": Param("float", 0.5, "seconds that a case is run at least", low=0),
    "max_seconds": Param("float", 2.0, "seconds that it is run at most to be sure", low=0),
    "retry_noisy": Param(
        "int", 1, "times that cases with noisy times are measured again at the end", low=0, high=20
    ),
    "perf_mode": Param(
        "str",
        "",
        "detail splits the vendor's times by phase; empty is normal, or detail where "
        "RETURN_PERF_DETAIL or TIMEIT is 1",
        choices=("", "normal", "detail"),
        blank=True,
        stands_for=param.usual_mode,
    ),
    "skip_decode": Param("bool", False, "leave the tokenizer's decoding out of the time"),
    "trace": Param(
        "bool", False, "also keep a profiler's trace of a few steps of the first case, for Perfetto"
    ),
    "baseline": _path(
        "results.json of an earlier run to compare with; empty compares with none", param.file
    ),
    "max_slowdown": Param(
        "float",
        0.1,
        "share by which a case may be slower than the baseline's; more fails the run",
        low=0,
    ),
    "baseline_python": _path(
        "Python with the neoxlib to compare with, turn by turn; empty compares with none",
        param.file,
    ),
    "rounds": Param(
        "int", 16, "turns of that Python and this one; fewer than 9 tell nothing", low=1, high=1000
    ),
    "peak_gb_s": Param(
        "float",
        None,
        "GB/s that one NPU, or this machine's memory, reaches; None has it measured",
        check=param.above_zero,
        blank=True,
    ),
    "peak_tflops": Param(
        "float",
        None,
        "TFLOPS that one NPU, or this machine's CPU, reaches; None has it measured",
        check=param.above_zero,
        blank=True,
    ),
    "scaling": Param(
        "bool", False, "also run the first case over 1, 2, 4 … ranks and threads of this machine"
    ),
    "run_a": _path(
        "folder or results.json of a run; empty, with run_b, takes the last two of one notebook",
        param.run,
    ),
    "run_b": _path("the run to set beside it", param.run),
    "target": _path(
        "capture or dump to look into, or run to capture; empty captures the model over its ranks",
        param.target,
    ),
    "reference": _path(
        "model or run folder, capture, transformers, dtype, rank count, same; empty is model_dir",
        param.reference,
    ),
    "layers": Param("list", [], "layers to compare; empty is all", check=param.depths, blank=True),
    "decode_steps": Param(
        "int", 2, "decode steps after the prompts, of tokens that are forced", low=0, high=64
    ),
}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_COMMON = _names("""
    model_dir world_size dtype device quant max_seq_len cluster_profile deterministic plan_only
    lang
""")
_SAMPLING = _names("""
    prompts max_new_tokens temperature top_k top_p repetition_penalty stop stop_token_ids
    skip_special_tokens seed
""")
_EXAM = _names("""
    data_dir task profile mode subjects shots split limit replicas resume compare_with
    vendor_files seed
""")
_GRID = _names("""
    case_pair min_len_exp max_len_exp batch_size batch_sizes depths repeats min_seconds
    max_seconds retry_noisy resume perf_mode skip_decode peak_gb_s peak_tflops trace scaling
    baseline max_slowdown baseline_python rounds seed
""")
NOTEBOOKS: dict[str, tuple[str, ...]] = {
    "00_setup": (*_COMMON, "prepare_dir"),
    "01_shard": (*_COMMON, "shard_dir"),
    "02_inference": (*_COMMON, "graph", *_SAMPLING),
    "03_ceval": (*_COMMON, "graph", *_EXAM),
    "04_profile": (*_COMMON, "graph", *_GRID),
    "05_compare": ("run_a", "run_b", "lang"),
    "06_align": (*_COMMON, "prompts", "decode_steps", "target", "reference", "layers"),
}
