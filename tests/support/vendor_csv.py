"""The performance CSV as the vendor's guide describes it, read by that description alone."""

from dataclasses import dataclass
from pathlib import Path

FIELDS = (
    "batch_size",
    "input_seq_len(Encoding)",
    "output_seq_len(Decoding)",
    "ResponseTime(s)",
    "forward_first_token_time(ms)",
    "forward_next_token_time(ms)",
    "pre_next_token_time(ms)",
    "post_next_token_time_post(ms)",
)


@dataclass(frozen=True)
class Measured:
    """A line of the file: whole numbers, seconds, milliseconds."""

    batch: int
    inputs: int
    outputs: int
    response_s: float
    first_ms: float
    next_ms: float
    pre_ms: float
    post_ms: float


def read(path: Path) -> list[Measured]:
    """The lines of a performance_test_*.csv; an AssertionError where it is not as described."""
    assert (
        path.name.startswith(("performance_test_npu_", "performance_test_cpu_"))
        and path.suffix == ".csv"
    )
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header == ",".join(FIELDS)
    return [
        Measured(*map(int, cells[:3]), *map(float, cells[3:]))
        for cells in (line.split(",") for line in lines)
    ]
