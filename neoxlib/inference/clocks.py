"""The clocks of a decode step, and their absence. All times are wall times in milliseconds."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

import torch

from neoxlib.machine.runtime import Timer
from neoxlib.model.group import Group


class Clock(NamedTuple):
    """Milliseconds of one step. The four do not overlap: their sum is the step's wall time.

    A part that was not measured by itself is NaN, and its time is in `forward`.
    """

    pre: float  # building the inputs, and on the first step the cache
    forward: float  # the model's own computing
    communication: float  # all-reduces inside the forward pass
    post: float  # gathering the logits, choosing, broadcasting the choice


UNTIMED = Clock(math.nan, math.nan, math.nan, math.nan)


class Stopwatch:
    """Milliseconds from call to call, after `device` has finished all queued work."""

    def __init__(self, device: torch.device) -> None:
        self.wait = torch.get_device_module(device).synchronize
        self.last = time.perf_counter()

    def __call__(self) -> float:
        self.wait()
        before = self.last
        self.last = time.perf_counter()
        return 1e3 * (self.last - before)


class Clocks(Protocol):
    """The clocks of the steps of one decode loop."""

    def forward(self) -> AbstractContextManager[None]:
        """Time the forward pass."""

    def read(self) -> tuple[Clock, float | None]:
        """The step's clock, and an accelerator's own milliseconds of the forward pass."""

    def resume(self) -> None:
        """Begin the next step; the caller's time since `read` is on no clock."""


def clocks_for(group: Group, device: torch.device, timed: bool, detail: bool) -> Clocks:
    """The clocks of a decode loop. A CPU has no queue to wait for: there every phase is timed."""
    if not timed:
        return NoClocks()
    return StepClocks(group, device) if detail or device.type == "cpu" else WallClocks()


class StepClocks:
    """Time each step by its four phases. Waits for the device after each phase.

    The first `pre` begins when this object is made.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group = group
        self.lap = Stopwatch(device)
        self.timer = Timer(device)
        self.pre = self.wall = self.communication = 0.0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time the forward pass, which ends `pre` and begins `post`."""
        self.pre = self.lap()
        self.group.reset_clock()
        self.group.detail = True
        try:
            with self.timer.span():
                yield
        finally:
            self.group.detail = False
        self.wall = self.lap()
        self.communication = 1e3 * self.group.reset_clock()

    def read(self) -> tuple[Clock, float | None]:
        """The step's clock, and an accelerator's own milliseconds of the forward pass."""
        own = self.wall - self.communication
        return Clock(self.pre, own, self.communication, post=self.lap()), self.timer.take()

    def resume(self) -> None:
        """Begin `pre` of the next step; the caller's time since `read` is on no clock."""
        self.lap()


class WallClocks:
    """Time each step as a whole, and wait for nothing: its tokens are on the host at its end.

    What comes before the forward pass is the host's own work, and is timed by itself.
    """

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.pre = 0.0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """End `pre`."""
        self.pre = self._lap()
        yield

    def read(self) -> tuple[Clock, float | None]:
        """`pre`, and the rest of the step as `forward`."""
        return Clock(self.pre, self._lap(), math.nan, math.nan), None

    def resume(self) -> None:
        """Begin `pre` of the next step."""
        self._lap()

    def _lap(self) -> float:
        before = self.last
        self.last = time.perf_counter()
        return 1e3 * (self.last - before)


class NoClocks:
    """Read no clock and wait for nothing, in place of StepClocks."""

    def forward(self) -> AbstractContextManager[None]:
        """Nothing to time."""
        return nullcontext()

    def read(self) -> tuple[Clock, float | None]:
        """UNTIMED: four NaN."""
        return UNTIMED, None

    def resume(self) -> None:
        """Nothing to begin."""
