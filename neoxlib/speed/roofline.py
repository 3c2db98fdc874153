"""How near each case comes to the peaks of the devices, its bound, and predictions for changes.

A step reads the weights once and the cache, and multiplies; neither can take less time than at the
measured peak. The rest of its time is the all-reduce between ranks ("sums" in reports) and
overhead: starting operators, kernels below the peak, choosing the token. First and next token are
the time to first token (TTFT) and the time per output token (TPOT).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from neoxlib.kernels.npu import OPS, PLAIN
from neoxlib.machine.devices import chip_for
from neoxlib.model.quant import SCHEMES
from neoxlib.model.world_size import legal_world_sizes
from neoxlib.speed.bounds import Pass
from neoxlib.speed.budget import Budget
from neoxlib.speed.cells import between, number

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference
    from neoxlib.speed.peaks import Peaks

NOT_JUDGED = "not judged"  # the bound of a case whose times are not to be trusted
WHY_BELOW = (
    "So a peak is too low: given so, measured beside other load, or read from further away than "
    "the case reads."
)
MORE_ROWS = 4  # times the rows, for the prediction of a larger batch
BY_RANKS = "predicted, twice the ranks (ms)"
BY_INT8 = "predicted, int8 (ms)"
BY_ROWS = f"predicted, {MORE_ROWS} times the rows"
FIRST_COLUMNS = (
    *("first_bytes", "first_operations", "first_mbu", "first_mfu", "first_bound"),
    "first_bound_ms",
)
NEXT_COLUMNS = (  # of `verdicts`, in the order of `Pass.figures`
    "bytes_per_step",
    "operations_per_step",
    "mbu",
    "mfu",
    "communication_share",
    "bound",
    "next_bound_ms",
)


class MeasuredCase(Protocol):
    """A row of `measure.time_cases`: a case, and medians in ms; a next token's may be NaN."""

    batch_size: int
    input_len: int
    output_len: int
    depth: int
    first_token_ms: float
    next_token_ms: float
    next_pre_ms: float
    next_post_ms: float
    next_communication_ms: float


@dataclass(frozen=True)
class Roofline:
    """The work of a session's cases against the peaks of its devices."""

    budget: Budget  # of one row and one position
    peaks: "Peaks"

    def next_token(self, row: MeasuredCase) -> Pass | None:
        """The step at the middle of the answer; None if the answer has one token."""
        if row.output_len < 2 or pd.isna(row.next_token_ms):
            return None
        beside = row.next_pre_ms + row.next_post_ms
        work = self._work(self._budget(row), 1, _middle(row))
        return Pass(*work[:2], row.next_token_ms, *work[2:], row.next_communication_ms, beside)

    def first_token(self, row: MeasuredCase) -> Pass:
        """The pass over the prompt.

        Its clock includes the all-reduce; its overhead is at most that of a next token.
        """
        later = self.next_token(row)
        sums = None if self.budget.world_size > 1 else 0.0
        size, operations, *peaks_ms = self._work(self._budget(row), row.input_len, row.depth)
        overhead = later and later.unexplained_ms
        times = row.first_token_ms, *peaks_ms, sums
        return Pass(size, operations, *times, overhead_ms=overhead)

    def _budget(self, row: MeasuredCase) -> Budget:
        return replace(self.budget, batch=row.batch_size)

    def _work(self, budget: Budget, new: int, before: int) -> tuple[float, float, float, float]:
        """Bytes and operations of all ranks, and the milliseconds of each at the peak."""
        size, operations = (budget.world_size * figure for figure in budget.forward(new, before))
        more = budget.world_size / self.budget.world_size
        reading, computing = self.peaks.seconds(size, operations, more)
        return size, operations, 1e3 * reading, 1e3 * computing

    def verdict(self, row: MeasuredCase) -> dict[str, float | str | None]:
        """The columns that `verdicts` adds, for one case; a noisy one has figures but no bound."""
        first = self.first_token(row)
        later = self.next_token(row)
        said = f"First token {first.words()}."
        found = dict(zip(FIRST_COLUMNS, first.figures(), strict=True))
        found |= dict.fromkeys(NEXT_COLUMNS)
        if later:
            said = f"Next token {later.words()}. {said}"
            found |= dict(zip(NEXT_COLUMNS, later.figures("communication"), strict=True))
        below = self._below(first=first, next=later)
        found["below_bound"] = below
        said = f"{said} {below}".strip()
        if told := noise_of(row):
            bounds = {"first_bound": NOT_JUDGED} | ({"bound": NOT_JUDGED} if later else {})
            return found | bounds | {"verdict": f"{NOT_JUDGED}: {told}. {below}".strip()}
        return found | {"verdict": said}

    def _below(self, **tokens: Pass | None) -> str:
        """Say which times are below their bound, and why that can be; empty if none is."""
        told = [
            f"{token} token {number(found.wall_ms)} of {number(found.roof_ms)} ms"
            for token, found in tokens.items()
            if found and found.wall_ms < found.roof_ms
        ]
        return f"Below the bound: {', '.join(told)}. {WHY_BELOW}" if told else ""

    def changes(self, row: MeasuredCase) -> dict[str, str]:
        """Predicted times of a next token with twice the ranks, int8 weights, and more rows.

        Ranges in words.
        """
        now = self.next_token(row)
        if now is None:
            return dict.fromkeys((BY_RANKS, BY_INT8, BY_ROWS), "–")
        return {
            BY_RANKS: self._twice_the_ranks(row, now),
            BY_INT8: self._int8(row, now),
            BY_ROWS: self._more_rows(row, now),
        }

    def _int8(self, row: MeasuredCase, now: Pass) -> str:
        if self.budget.quant:
            return "weights are packed"
        return self._range(row, now, replace(self._budget(row), quant="int8"))

    def _twice_the_ranks(self, row: MeasuredCase, now: Pass) -> str:
        wanted = 2 * self.budget.world_size
        if wanted not in legal_world_sizes(self.budget.config, self.budget.quant):
            return f"{wanted} ranks cannot share {self.budget.config.num_attention_heads} heads"
        if self.peaks.shared:
            return "no gain: the ranks share this machine"
        unknown = "" if self.budget.world_size > 1 else ", and the sums between them"
        return self._range(row, now, replace(self._budget(row), world_size=wanted)) + unknown

    def _more_rows(self, row: MeasuredCase, now: Pass) -> str:
        rows = MORE_ROWS * row.batch_size
        low, high = self._times(row, now, replace(self.budget, batch=rows))
        per_second = sorted(1e3 * rows / ms for ms in (low, high))
        today = number(1e3 * row.batch_size / now.wall_ms)
        return f"{between(*per_second)} tokens/s, now {today}"

    def _range(self, row: MeasuredCase, now: Pass, changed: Budget) -> str:
        return between(*self._times(row, now, changed))

    def _times(self, row: MeasuredCase, now: Pass, changed: Budget) -> tuple[float, float]:
        """Predict the milliseconds of a step with another budget: the lower and the upper end.

        At one end the forward pass keeps its share of the peak, at the other its time beyond that
        at the peak stays as it is. The all-reduce and the times before and after it stay.
        """
        roof = max(self._work(changed, 1, _middle(row))[2:])
        forward = max(now.wall_ms - now.beside_ms - now.communication_ms, 0.0)
        beside = now.wall_ms - forward
        in_step = forward * roof / now.roof_ms
        apart = forward - now.roof_ms + roof if forward > now.roof_ms else in_step
        return tuple(sorted((beside + in_step, beside + apart)))


def noise_of(row: MeasuredCase) -> str:
    """Why a case's times are not to be trusted; empty for a clean case, or if nobody looked."""
    told = getattr(row, "noise", "")
    return told if isinstance(told, str) else ""


def of_session(session: "Inference", peaks: "Peaks") -> Roofline:
    """The roofline of the model that `session` has loaded."""
    about = session.describe()
    on_cpu = about["device"] == "cpu"
    family = None if on_cpu else chip_for("npu").family
    packed = tuple(SCHEMES) if on_cpu else OPS.get(family, PLAIN).packed  # a CPU's are compiled
    return Roofline(
        Budget(session.config, about["world_size"], 1, 1, about["dtype"], about["quant"], packed),
        peaks,
    )


def verdicts(table: pd.DataFrame, roof: Roofline) -> pd.DataFrame:
    """Add work, MBU, MFU, share of communication, bound and a sentence to each row of `table`.

    `mbu` and `mfu` are shares of the peaks over the whole next token; `first_…` are the same of
    the first token.
    """
    rows = pd.DataFrame([roof.verdict(row) for row in table.itertuples()], index=table.index)
    return pd.concat([table.drop(columns=rows.columns, errors="ignore"), rows], axis=1)


def predictions(table: pd.DataFrame, roof: Roofline, key: list[str]) -> pd.DataFrame:
    """A row per case: its measured next token, and the prediction for each change."""
    rows = pd.DataFrame([roof.changes(row) for row in table.itertuples()], index=table.index)
    return pd.concat(
        [table[[*key, "next_token_ms"]].rename(columns={"next_token_ms": "measured (ms)"}), rows],
        axis=1,
    )


def _middle(row: MeasuredCase) -> int:
    """Positions in the cache before the middle one of the steps after the first."""
    return row.depth + row.input_len + (row.output_len - 2) // 2
