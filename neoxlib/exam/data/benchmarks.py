"""Facts about each benchmark, known before its files are opened."""

from dataclasses import dataclass

from neoxlib.errors import SettingsError, did_you_mean
from neoxlib.exam.data.subjects import CEVAL, CEVAL_HARD, CMMLU, MMLU, Subject

LETTERS = ("A", "B", "C", "D")
SPLITS = ("dev", "val", "test")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's facts; files are checked against them."""

    title: str
    subjects: dict[str, Subject]  # unless the folder has a subject_mapping.json of its own
    choices: tuple[str, ...]  # possible answers; of equal ones the first is predicted
    columns: tuple[str, ...]  # texts that every question must have, beside "answer"
    spellings: dict[str, tuple[str, ...]]  # of each split in file names; examples come from "dev"
    hard: frozenset[str] = frozenset()
    unlabelled: tuple[str, ...] = ()  # splits whose answers may be missing
    headerless: bool = False  # CSV may lack its header; columns are question, choices, answer
    # Its authors' own; {spelling} is the last of the split's.
    file_name: str = "{split}/{subject}_{split}.csv"

    @property
    def alone(self) -> str:
        """The only subject of the benchmark; "" if it has several."""
        return next(iter(self.subjects)) if len(self.subjects) == 1 else ""


# BoolQ has no examples of its own: its authors' dev is scored, and examples come from train.
_BOOLQ = {"dev": ("train",), "val": ("val", "validation", "dev"), "test": ("test",)}
_SPLITS = {"dev": ("dev",), "val": ("val", "validation"), "test": ("test",)}
BENCHMARKS = {
    "ceval": Benchmark(
        "C-Eval", CEVAL, LETTERS, ("id", "question", *LETTERS), _SPLITS, CEVAL_HARD, ("test",)
    ),
    "mmlu": Benchmark("MMLU", MMLU, LETTERS, ("question", *LETTERS), _SPLITS, headerless=True),
    "cmmlu": Benchmark(
        "CMMLU",
        CMMLU,
        LETTERS,
        ("question", *LETTERS),
        {"dev": ("dev",), "test": ("test",)},
        file_name="{split}/{subject}.csv",
    ),
    "boolq": Benchmark(
        "BoolQ",
        {"boolq": Subject("BoolQ", "", "Reading")},
        ("no", "yes"),
        ("passage", "question"),
        _BOOLQ,
        unlabelled=("test",),
        file_name="{spelling}.jsonl",
    ),
}


def get_benchmark(task: str, split: str, shots: int) -> Benchmark:
    """The benchmark of a task. Raises SettingsError for an unknown task or split or bad shots."""
    if task not in BENCHMARKS:
        hint = did_you_mean(task, BENCHMARKS)
        raise SettingsError(f"task {task!r} is not known{hint}; known: {', '.join(BENCHMARKS)}")
    if split not in SPLITS:
        raise SettingsError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    benchmark = BENCHMARKS[task]
    if split not in benchmark.spellings:
        has = ", ".join(benchmark.spellings)
        raise SettingsError(f"{benchmark.title} has no split {split!r}; choose one of {has}")
    if shots < 0:
        raise SettingsError(
            f"shots is {shots}; it counts the examples before each question: 0 or more"
        )
    return benchmark
