"""Tests of the ordinary suite in a process that has imported torch_npu, which changes torch in many
places.

Processes that a test starts are without it: it prints a line to stdout where CANN is not sourced.
"""

import os
import sys
from collections import Counter

import pytest

from tests.npu_wheel.say import check, note, skip

# The model and its layers, its numbers, and what is built on them; and the NPU path under the
# wheel's own schemas.
FILES = (
    "model/test_gpt_neox",
    "model/test_quant",
    "inference/test_sampling",
    "inference/test_decode",
    "inference/test_engine",
    "checkpoint/test_load",
    "checkpoint/test_shard",
    "model/test_on_npu",
    "setup/test_npu_mistakes",
    "setup/test_operator_trials",
    "setup/test_model_trials",
    "setup/test_selftest",
)


MADE_UP = "seen"  # the fixture that registers a device named npu


class Tally:
    """Outcomes by file, and why tests were skipped."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.reasons: dict[str, set[str]] = {}
        self.left_out: list[pytest.Item] = []

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Called by pytest with all tests: those that register a device of torch_npu's name cannot
        run beside it.
        """
        self.left_out = [item for item in items if MADE_UP in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if item not in self.left_out]
        config.hook.pytest_deselected(items=self.left_out)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test; a test counts once, at its call or where it
        ended before it.
        """
        if report.when != "call" and report.passed:
            return
        file = report.nodeid.partition("::")[0]
        self.counts.setdefault(file, Counter())[report.outcome] += 1
        if report.skipped:
            self.reasons.setdefault(file, set()).add(str(report.longrepr[-1]))


def main() -> int:
    """A line for each file; pytest's own output where something failed."""
    import torch_npu

    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    tally = Tally()
    paths = [f"tests/{name}.py" for name in FILES]
    code = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *paths], plugins=[tally])
    check("torch_npu stayed imported", "torch_npu" in sys.modules, torch_npu.__version__)
    for path in paths:
        counts = tally.counts.get(path, Counter())
        told = (
            ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            or "no test ran"
        )
        check(path, counts["passed"] > 0 and not counts["failed"], told)
        if counts["skipped"]:
            skip(f"{counts['skipped']} tests of {path}", "; ".join(sorted(tally.reasons[path])))
    note(
        f"{len(tally.left_out)} tests on a made-up device",
        "torch_npu has its name; `make test` runs them",
    )
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
