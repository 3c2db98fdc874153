"""What is to be timed: one case, the grid of them that parameters ask for, and which of them cannot be run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from neoxlib.errors import SettingsError

MOST_EXP = 10  # of the guide's grid
ZERO_IS_FINE = ("depth", "warmup", "end_to_end_every")


@dataclass(frozen=True)
class Case:
    """`batch_size` prompts of `input_len` tokens, each continued by exactly `output_len` tokens.

    `depth` positions are in the cache before the prompt comes. The case is run at least `repeats` times and for
    `min_seconds`, after at most `warmup` short runs, and after every `end_to_end_every` repeats (0: never) once by the
    clock that does not wait for the device between steps.
    """

    batch_size: int
    input_len: int
    output_len: int
    depth: int = 0
    repeats: int = 3
    min_seconds: float = 0.0
    warmup: int = 10
    end_to_end_every: int = 0

    def __post_init__(self) -> None:
        bad = [f"{name} is {value!r}" for name, value in asdict(self).items() if not _fine(name, value)]
        if bad:
            raise SettingsError(
                f"a case is whole numbers of 1 or more (0 only for {', '.join(ZERO_IS_FINE)}), and min_seconds of 0 "
                f"or more: {'; '.join(bad)}"
            )

    @property
    def positions(self) -> int:
        """What a row takes of the window, in tokens."""
        return self.depth + self.input_len + self.output_len

    def __str__(self) -> str:
        deep = f"{self.depth} deep, " if self.depth else ""
        return f"batch {self.batch_size}, {deep}{self.input_len} in, {self.output_len} out"


def _fine(name: str, value: Any) -> bool:
    if name == "min_seconds":
        return type(value) in (int, float) and value >= 0
    return type(value) is int and value >= (0 if name in ZERO_IS_FINE else 1)


def grid(params: Any, max_seq_len: int) -> list[Case]:
    """The cases that the parameters of 04_profile ask for, in the guide's order: input lengths before output lengths.

    `case_pair` if given, else all pairs of powers of 2 from `min_len_exp` to `max_len_exp`, where 0 stands for the
    largest, up to 10, whose pairs fit the window; each at every batch size and depth.

    Raises SettingsError listing every case that does not fit the window of `max_seq_len` positions.
    """
    depths = params.depths or [0]
    pairs = params.case_pair or list(_squares(params.min_len_exp, params.max_len_exp, max_seq_len - max(depths)))
    cases = [
        Case(batch, inputs, outputs, depth, params.repeats, params.min_seconds, end_to_end_every=3)
        for batch in params.batch_sizes or [params.batch_size] for depth in depths for inputs, outputs in pairs
    ]
    refuse_long(cases, max_seq_len)
    return cases


def _squares(low: int, high: int, room: int) -> Iterator[tuple[int, int]]:
    largest = high or max((e for e in range(low, MOST_EXP + 1) if 2 * 2**e <= room), default=low)
    lengths = [2**exponent for exponent in range(low, largest + 1)]
    return ((inputs, outputs) for inputs in lengths for outputs in lengths)


def refuse_long(cases: Sequence[Case], max_seq_len: int) -> None:
    """Raises SettingsError with every case that needs more than `max_seq_len` positions, and how many it needs."""
    too_long = [f"{case} needs {case.positions}" for case in cases if case.positions > max_seq_len]
    if too_long:
        first = f"these cases do not fit max_seq_len {max_seq_len} (depth + input + output tokens):"
        cure = "\nlower max_len_exp, case_pair or depths, or load with a larger max_seq_len"
        raise SettingsError("\n  ".join([first, *too_long]) + cure)


def refuse_large(cases: Sequence[Case], bytes_per_token: int, free: int) -> None:
    """Raises SettingsError with every case whose KV cache, `bytes_per_token` of each row, is more than `free` bytes."""
    needs = {case: case.batch_size * case.positions * bytes_per_token for case in cases}
    too_large = [f"{case} needs {size / 1e9:.2f} GB" for case, size in needs.items() if size > free]
    if too_large:
        first = f"the KV cache of these cases does not fit the {free / 1e9:.2f} GB of memory that are free here:"
        raise SettingsError("\n  ".join([first, *too_large]) + "\nlower batch_size, the lengths or depths")


def usual_mode() -> str:
    """The perf_mode where none is given: "detail" where the guide's RETURN_PERF_DETAIL=1 or TIMEIT=1 is set."""
    return "detail" if _is_on("RETURN_PERF_DETAIL") or timings_shown() else "normal"


def timings_shown() -> bool:
    """Whether each case's times are to be said as they come: the guide's TIMEIT=1."""
    return _is_on("TIMEIT")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip() == "1"
