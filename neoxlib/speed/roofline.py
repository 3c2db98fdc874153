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
from neoxlib.speed.budget import Budget
from neoxlib.speed.cells import between, number, percent, si

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference
    from neoxlib.speed.peaks import Peaks

AT_LIMIT = 0.4  # share of a peak from which a step is bound by it; published runs reach 0.46–0.66
NOT_JUDGED = "not judged"  # the bound of a case whose times are not to be trusted
MORE_ROWS = 4  # times the rows, for the prediction of a larger batch
BY_RANKS = "predicted, twice the ranks (ms)"
BY_INT8 = "predicted, int8 (ms)"
BY_ROWS = f"predicted, {MORE_ROWS} times the rows"
FIRST_COLUMNS = ("first_bytes", "first_operations", "first_mbu", "first_mfu", "first_bound")
NEXT_COLUMNS = (  # of `verdicts`, in the order of `Pass.figures`
    "bytes_per_step",
    "operations_per_step",
    "mbu",
    "mfu",
    "communication_share",
    "bound",
)


@dataclass(frozen=True)
class Pass:
    """A forward pass of all ranks: its work and its time.

    `beside_ms` is the time before and after the forward pass itself. `overhead_ms` is an upper
    limit of the overhead if another measurement gives one; None allows all unexplained time.
    """

    size: float  # bytes
    operations: float
    wall_ms: float
    reading_ms: float  # at the peak
    computing_ms: float  # at the peak
    communication_ms: float | None = 0.0  # None: not measured by itself
    beside_ms: float = 0.0
    overhead_ms: float | None = None

    @property
    def roof_ms(self) -> float:
        """The shortest time that the peaks allow."""
        return max(self.reading_ms, self.computing_ms)

    @property
    def unexplained_ms(self) -> float:
        """Time that neither the peaks nor the all-reduce explain."""
        return max(0.0, self.wall_ms - self.roof_ms - (self.communication_ms or 0))

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the wall time; bandwidth and compute overlap.

        `kernels` is the time that kernels below the peak take beyond it.
        """
        unexplained = self.unexplained_ms
        launch = unexplained if self.overhead_ms is None else min(unexplained, self.overhead_ms)
        times = {
            "bandwidth": self.reading_ms,
            "compute": self.computing_ms,
            "communication": self.communication_ms or 0,
            "launch": launch,
            "kernels": unexplained - launch,
        }
        return {name: ms / self.wall_ms for name, ms in times.items()}

    @property
    def bound(self) -> str:
        """The bound: a peak from AT_LIMIT of it upwards, else the largest share of the time."""
        shares = self.shares
        roof = max("bandwidth", "compute", key=shares.get)
        if shares[roof] >= max(AT_LIMIT, shares["communication"]):
            return roof
        shares[roof] += shares["kernels"]
        return max(roof, "communication", "launch", key=shares.get)

    def figures(self, *more: str) -> tuple[float | str, ...]:
        """Bytes, operations, MBU, MFU, the shares named in `more`, and the bound."""
        shares = self.shares
        names = ("bandwidth", "compute", *more)
        return self.size, self.operations, *(shares[name] for name in names), self.bound

    def words(self) -> str:
        """Name the bound with its figures, then the other shares of the time or of a peak."""
        shares = self.shares
        share = {name: percent(value) for name, value in shares.items()}
        sums = " and the sums between ranks" if self.communication_ms is None else ""
        parts = {
            "bandwidth": f"reading at {share['bandwidth']} of its peak",
            "compute": f"computing at {share['compute']}",
            "communication": f"sums between ranks {share['communication']}",
            "launch": f"overhead {share['launch']}",
            "kernels": f"kernels below the peak{sums} {share['kernels']}",
        }
        told = [
            text for name, text in parts.items() if shares[name] >= 0.001 and name != self.bound
        ]
        return f"{self.bound}-bound: {'; '.join([self._figures(parts[self.bound]), *told])}"

    def _figures(self, otherwise: str) -> str:
        """The work and rate if a peak is the bound; for other bounds their share of the time."""
        beside = self.beside_ms / self.wall_ms
        work = {"bandwidth": (self.size, "B", "B/s"), "compute": (self.operations, "FLOP", "FLOPS")}
        if self.bound not in work:
            outside = f", {percent(beside)} before and after the forward pass"
            return f"{otherwise} of the time" + (self.bound == "launch" and beside > 0) * outside
        amount, unit, per_second = work[self.bound]
        rate = si(amount * 1e3 / self.wall_ms)
        share = percent(self.shares[self.bound])
        return f"{si(amount)}{unit} at {rate}{per_second} are {share} of the peak"


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
        if told := noise_of(row):
            bounds = {"first_bound": NOT_JUDGED} | ({"bound": NOT_JUDGED} if later else {})
            return found | bounds | {"verdict": f"{NOT_JUDGED}: {told}."}
        return found | {"verdict": said}

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
