"""What sums between ranks cost within a host and between hosts: measured, and predicted from that.

A sum over hosts has two parts (see `ranks.two_levels`): the ranks of each host add in shared
memory, then one rank of each host adds over the network. Each part is taken as a latency and a
bandwidth, which two sizes of sums give; a pass of the model makes a known number of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from neoxlib.model.config import ModelConfig

SMALL, LARGE = 1, 1 << 20  # float32 values of the sums that are measured: 4 bytes and 4 MiB
TIMES = {SMALL: 50, LARGE: 9}
WARM = 2
BYTES = 4  # sums are of float32, whatever the dtype of the weights
COLUMNS = ("what", "how", "within_ms", "between_ms")


class Parts(NamedTuple):
    """Seconds of the two parts of a sum, as the first rank of the first host sees them."""

    within: float
    between: float


@dataclass(frozen=True)
class Line:
    """Seconds of a sum by its bytes: a latency, and a bandwidth beyond that."""

    latency: float
    bytes_per_second: float

    def seconds(self, size: int) -> float:
        """Predicted seconds of a sum of `size` bytes."""
        return self.latency + size / self.bytes_per_second


def line_of(small: float, large: float) -> Line | None:
    """The line through the seconds of the two sums; None where there is no such part."""
    if not large:
        return None
    return Line(small, BYTES * (LARGE - SMALL) / max(large - small, 1e-9))


@dataclass(frozen=True)
class Sums:
    """What was measured: both parts' lines, and the sums of each pass of a case.

    `passes` has by the number of values, as a first and a next token sum them, the seconds of one
    pass. `hosts` is their number.
    """

    hosts: int
    within: Line | None
    between: Line | None
    passes: dict[int, Parts]

    def table(self, config: "ModelConfig", batch: int, input_len: int) -> "pd.DataFrame":
        """COLUMNS: latency, bandwidth, and a first and a next token, measured and predicted."""
        import pandas as pd

        rows = [
            ("latency: a sum of 4 bytes", "measured", *self._of(lambda line: line.latency)),
            ("a sum of 1 MiB", "from latency and bandwidth", *self._of(_mebibyte)),
        ]
        for token, values in values_of(config, batch, input_len).items():
            took = self.passes.get(values)
            told = (took.within, took.between) if took else (None, None)
            rows.append((f"sums of a {token}", "measured", *told))
            rows.append((f"sums of a {token}", "predicted", *self.predict(config, values)))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        times = [name for name in COLUMNS if name.endswith("_ms")]
        table[times] = table[times].astype(float) * 1e3
        return table

    def predict(self, config: "ModelConfig", values: int) -> Sequence[float | None]:
        """Predicted seconds of both parts of a pass whose sums are of so many values."""
        count = sums_of_a_pass(config)
        return self._of(lambda line: count * line.seconds(BYTES * values))

    def _of(self, figure: Any) -> tuple[float | None, float | None]:
        """A figure of both lines; None for a part that there is not."""
        return tuple(line and figure(line) for line in (self.within, self.between))


def _mebibyte(line: Line) -> float:
    return line.seconds(1 << 20)


def values_of(config: "ModelConfig", batch: int, input_len: int) -> dict[str, int]:
    """The values of each sum of a first and of a next token."""
    row = batch * config.hidden_size
    return {"first token": row * input_len, "next token": row}


def sums_of_a_pass(config: "ModelConfig") -> int:
    """One sum for the embedding, and one a layer, or two without the parallel residual."""
    return 1 + config.num_hidden_layers * (1 if config.use_parallel_residual else 2)


def measure(engine: Any, case: Any) -> dict[str, Any] | None:
    """On every rank: time sums of both sizes, then those of a case. The answer of the first rank.

    None where the ranks are not of several hosts that meet over gloo.
    """
    import torch

    group = engine.group
    if not hasattr(group, "record"):
        return None
    found: dict[int, list[Parts]] = {}
    for values, times in TIMES.items():
        sent = torch.zeros(values)
        for _ in range(WARM):
            group.all_reduce(sent)
        group.record = []
        for _ in range(times):
            group.barrier()
            group.all_reduce(sent)
        found[values] = [parts for _, parts in group.record]
    group.record = []
    engine.profile(case)
    ran, group.record = group.record, None
    middle = {values: _middle(parts) for values, parts in found.items()}
    return {"hosts": len(group.sizes), "lines": middle, "case": _by_values(ran)}


def _middle(parts: Sequence[Parts]) -> Parts:
    return Parts(*(median(column) for column in zip(*parts, strict=True)))


def _by_values(ran: Sequence[tuple[int, Parts]]) -> dict[int, Parts]:
    """The middle of the sums of each number of values."""
    found: dict[int, list[Parts]] = {}
    for values, parts in ran:
        found.setdefault(values, []).append(parts)
    return {values: _middle(parts) for values, parts in found.items()}


def read(answer: dict[str, Any], config: "ModelConfig") -> Sums:
    """What `measure` answered, with the sums of a case as those of a pass."""
    count = sums_of_a_pass(config)
    small, large = (Parts(*answer["lines"][values]) for values in (SMALL, LARGE))
    lines = (line_of(*ends) for ends in zip(small, large, strict=True))
    passes = {
        values: Parts(*(count * part for part in parts)) for values, parts in answer["case"].items()
    }
    return Sums(answer["hosts"], *lines, passes)
