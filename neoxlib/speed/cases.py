"""The grid of cases that parameters ask for, and the refusal of cases that cannot be run."""

from collections.abc import Iterator, Sequence

from neoxlib.errors import SettingsError
from neoxlib.inference.timing import Case, refuse_long
from neoxlib.workbook.resolved import Params

MOST_EXP = 10  # of the guide's grid


def grid(params: Params, max_seq_len: int) -> list[Case]:
    """List the cases that the parameters of 04_profile ask for.

    The order is the guide's: input lengths before output lengths. Lengths are `case_pair` if given,
    else all pairs of powers of 2 from `min_len_exp` to `max_len_exp`; 0 stands for the largest
    exponent up to 10 whose pairs fit the window. Each pair comes at every batch size and depth.
    Raises SettingsError listing every case that does not fit the window of `max_seq_len` positions.
    """
    depths = params.depths or [0]
    pairs = params.case_pair or list(
        _squares(params.min_len_exp, params.max_len_exp, max_seq_len - max(depths))
    )
    cases = [
        Case(batch, inputs, outputs, depth, params.repeats, params.min_seconds, end_to_end_every=3)
        for batch in params.batch_sizes or [params.batch_size]
        for depth in depths
        for inputs, outputs in pairs
    ]
    refuse_long(cases, max_seq_len)
    return cases


def _squares(low: int, high: int, room: int) -> Iterator[tuple[int, int]]:
    largest = high or max((e for e in range(low, MOST_EXP + 1) if 2 * 2**e <= room), default=low)
    lengths = [2**exponent for exponent in range(low, largest + 1)]
    return ((inputs, outputs) for inputs in lengths for outputs in lengths)


def refuse_large(cases: Sequence[Case], bytes_per_token: int, free: int) -> None:
    """Refuse cases whose KV cache, `bytes_per_token` per row, is larger than `free` bytes.

    Raises SettingsError with all of them.
    """
    needs = {case: case.batch_size * case.positions * bytes_per_token for case in cases}
    too_large = [f"{case} needs {size / 1e9:.2f} GB" for case, size in needs.items() if size > free]
    if too_large:
        first = (
            f"the KV cache of these cases does not fit the {free / 1e9:.2f} GB "
            "of memory that are free here:"
        )
        raise SettingsError(
            "\n  ".join([first, *too_large]) + "\nlower batch_size, the lengths or depths"
        )
