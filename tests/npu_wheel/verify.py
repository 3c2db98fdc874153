"""Everything about the NPU path that can be checked against the vendor's wheel on a machine without
an NPU.

`make verify-npu` runs all steps, `make verify-npu ARGS="schemas trace"` those named. Exit code: 0
all that was asked was checked and holds, 1 something does not hold, 77 nothing failed but something
could not be checked. No step runs anything on an NPU.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.npu_wheel import standins

LINE = re.compile(r"^(OK|FAIL|SKIP|NOTE)\s+(.+)")
TOOLS = ("gcc", "readelf", "nm")
LIMIT = 3600  # seconds for a step: a busy machine is no failure, a hang is


@dataclass(frozen=True)
class Step:
    """A module of this folder, run in a process of its own.

    `needs`: "wheel" its files alone, "made" stand-ins that it loads itself, "loaded" torch_npu on
    stand-ins, "device" the same, with stand-ins that tell of a device.
    """

    name: str
    asks: str
    needs: str


STEPS = (
    Step("schemas", "the listed schemas are the wheel's", "wheel"),
    Step("fallback", "import, load and doctor without CANN, and on stand-ins", "made"),
    Step("trace", "GPT-NeoX-20B traced on a fake npu device", "device"),
    Step("shapes", "reference kernels' shapes against the vendor's", "loaded"),
    Step("suite", "ordinary tests with torch_npu imported", "loaded"),
)


@dataclass
class Outcome:
    """The outcome that a step's lines state."""

    step: Step
    counts: Counter[str] = field(default_factory=Counter)
    loud: list[str] = field(default_factory=list)  # all that is not OK
    seconds: float = 0.0

    def add(self, line: str) -> None:
        if found := LINE.match(line):
            self.counts[found[1]] += 1
            if found[1] != "OK":
                self.loud.append(line)

    @property
    def verdict(self) -> str:
        """FAIL goes before SKIP; a step that checked nothing was skipped."""
        if self.counts["FAIL"]:
            return "FAIL"
        return "SKIP" if self.counts["SKIP"] or not self.counts["OK"] else "OK"

    def __str__(self) -> str:
        counts = (
            ", ".join(f"{count} {word}" for word, count in sorted(self.counts.items()))
            or "nothing checked"
        )
        asked = f"{self.verdict:4}  {self.step.name:9} {self.step.asks}"
        return f"{asked}: {counts} ({self.seconds:.0f} s)"


def main(asked: Sequence[str]) -> int:
    """Run the steps and print what each one found."""
    if unknown := [name for name in asked if name not in {step.name for step in STEPS}]:
        print(
            f"no such step: {', '.join(unknown)}; the steps are "
            f"{', '.join(step.name for step in STEPS)}"
        )
        return 2
    steps = [step for step in STEPS if not asked or step.name in asked]
    missing = _stand_ins() if any(step.needs != "wheel" for step in steps) else ""
    outcomes = [_run(step, missing if step.needs != "wheel" else "") for step in steps]
    print("\nThe NPU path against the vendor's wheel. Nothing ran on an NPU.")
    for outcome in outcomes:
        print(outcome, *outcome.loud, sep="\n      ")
    verdicts = {outcome.verdict for outcome in outcomes}
    return 1 if "FAIL" in verdicts else 77 if "SKIP" in verdicts else 0


def _stand_ins() -> str:
    """Make the stand-ins; why that cannot be, or nothing."""
    if absent := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"stand-ins need {', '.join(absent)}: apt-get install gcc binutils"
    try:
        made = standins.make()
    except (standins.Refused, LookupError) as error:
        return str(error)
    print(
        f"stand-ins: {len(made['libraries'])} libraries, {len(made['functions'])} functions, "
        "none of which works"
    )
    return ""


def _run(step: Step, missing: str) -> Outcome:
    """Run a step and print its lines as they come. One that ends badly without a FAIL fails with
    its last words.
    """
    outcome = Outcome(step)
    start = time.monotonic()
    print(f"\n== {step.name}: {step.asks}", flush=True)
    if missing:
        outcome.add(_said(f"SKIP  {step.name}: {missing}"))
        return outcome
    command = [sys.executable, "-m", f"tests.npu_wheel.{step.name}"]
    words = []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        ["timeout", str(LIMIT), *command], env=_environment(step), **pipes
    ) as process:
        for line in process.stdout:
            words.append(_said(line.rstrip()))
            outcome.add(words[-1])
    if process.returncode and not outcome.counts["FAIL"]:
        tail = " / ".join(words[-2:])
        outcome.add(_said(f"FAIL  {step.name} ended with exit code {process.returncode}: {tail}"))
    outcome.seconds = time.monotonic() - start
    return outcome


def _environment(step: Step) -> dict[str, str]:
    """A step's variables. Without stand-ins torch must not load torch_npu, which would fail."""
    if step.needs in ("loaded", "device"):
        variables = standins.environment(device=step.needs == "device")
    else:
        variables = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    return {"OMP_NUM_THREADS": "1"} | variables


def _said(line: str) -> str:
    print(line, flush=True)
    return line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
