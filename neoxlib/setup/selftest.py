"""`python -m neoxlib selftest-npu`: check that this machine's NPUs compute what the model needs.

It runs the trials of operators and models on a device and the collectives over all free NPUs, each
group in a process of its own, and writes a JSON file with the chip, the versions and every error.
Without an NPU it says that nothing was verified, and exits with code 77. With the CPU as the
device the operators are emulated: that tests the trials, and the file says so.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.machine import environment, installed, npu_smi
from neoxlib.machine.chips import Chip
from neoxlib.machine.devices import chip_for, npu_problems
from neoxlib.setup.npu_checks import IDLE
from neoxlib.setup.trial_groups import ABOUT, Group, Line, groups
from neoxlib.setup.trial_process import TrialProcess
from neoxlib.workbook.run import outputs_root, write_text

if TYPE_CHECKING:
    from neoxlib.setup.npu_trials import Timing, Trial

NOT_HERE = 77  # exit code: no NPU can be used, and nothing was verified
FILE = "selftest-npu.json"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
Say = Callable[[str], None]
Ask = Callable[[Group], Iterable[Line]]


def main(output: Path | None = None, say: Say = print) -> int:
    """Run everything on this machine's free NPUs and return the exit code.

    0: all passed, 1: not all passed, 77: no NPU can be used here.
    """
    free, busy = free_npus(npu_smi.query(), npu_smi.parse_map(npu_smi.ask("-m")), os.environ)
    problems = npu_problems() or (() if free is None or free else tuple(busy))
    if problems:
        for problem in problems:
            say(f"no NPU: {problem}")
        say("Nothing about a device was verified.")
        return NOT_HERE
    for one in busy:
        say(f"left out: {one}")
    chip = chip_for("npu")
    variables = _variables(free)
    device = _device(TrialProcess(variables))
    head = about("npu", chip, device["device"], device["count"]) | {"left_out": busy}
    record = TrialLog(output or outputs_root() / FILE, say, head)
    ask = TrialProcess(variables, device["count"]).answers
    return 0 if run_trials(record, ask, groups(chip)) else 1


def free_npus(
    smi: npu_smi.Smi | None,
    places: Iterable[npu_smi.Position],
    variables: Any,
) -> tuple[list[int] | None, list[str]]:
    """The numbers of visible NPUs that nobody uses, and why the others are left out.

    torch counts NPUs by their logic id. None without npu-smi: then all that are visible.
    """
    if smi is None or not smi.cards:
        return None, []
    logic = {(place.npu, place.chip): place.logic for place in places}
    given = variables.get(VISIBLE)
    seen = None if given is None else {int(one) for one in given.split(",") if one.isdigit()}
    free, busy = [], []
    for position, card in enumerate(smi.cards):
        number = logic.get((card.npu, card.chip))
        number = position if number is None else number
        if seen is not None and number not in seen:
            continue
        why = _in_use(card, smi.holders)
        busy.append(f"NPU {number}: {why}") if why else free.append(number)
    return sorted(free), busy


def _in_use(card: npu_smi.Card, holders: Iterable[npu_smi.Holder]) -> str:
    """Say who uses a card; empty if nobody does. 310B shares the host's memory."""
    pids = [one.pid for one in holders if (one.npu, one.chip) == (card.npu, card.chip)]
    if pids:
        return f"in use by process {', '.join(map(str, pids))}"
    if card.free_mib is None or card.name.startswith("310B"):
        return ""
    full = card.free_mib < IDLE * card.total_mib
    return f"{card.free_mib} of {card.total_mib} MiB free" if full else ""


def _variables(free: list[int] | None) -> dict[str, str]:
    """What the trials' processes get on top of this one's environment: as ranks do."""
    from neoxlib.ranks.surroundings import rank_environment

    shown = {} if free is None else {VISIBLE: ",".join(map(str, free))}
    return rank_environment(1, "npu", False) | shown


def _device(process: TrialProcess) -> dict[str, Any]:
    """Name and count of the visible NPUs, asked in a process that ends."""
    for line in process.answers(Group(ABOUT, "")):
        if "about" in line:
            return line["about"]
    return {"device": "an NPU that did not tell its name", "count": 1}


def about(device: str, chip: Chip, name: str, world_size: int) -> dict[str, Any]:
    """Return the device and every version that may change the answers."""
    home = os.environ.get("ASCEND_HOME_PATH")
    cann = installed.cann_version(home) if home else None
    return {
        "schema_version": 2,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "emulated": device == "cpu",
        "device": name,
        "chip": chip.name,
        "family": chip.family,
        "world_size": world_size,
        "cann": cann,
        "driver": installed.driver()[0],
        "firmware": installed.firmware(),
        "environment": environment.describe(device),
    }


class TrialLog:
    """The answers so far, and their file.

    The file is rewritten after each answer, so that a trial that hangs loses no earlier one.
    """

    def __init__(self, path: Path, say: Say, head: dict[str, Any]) -> None:
        self.path = path
        self.say = say
        self.head = head
        self.trials: list[Trial] = []
        self.timings: list[Timing] = []
        self.start = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, answers: "Iterable[Trial | Timing]") -> None:
        """Print and store each answer as it comes."""
        for one in answers:
            is_timing = hasattr(one, "us")
            (self.timings if is_timing else self.trials).append(one)
            self.say(_timing_line(one) if is_timing else _trial_line(one))
            self.write("unfinished")

    def finish(self) -> bool:
        """Write and print the verdict; return whether all trials passed."""
        passed = bool(self.trials) and all(trial.passed for trial in self.trials)
        self.write("passed" if passed else "failed")
        count = sum(trial.passed for trial in self.trials)
        where = self.head["device"]
        if self.head["emulated"]:
            where = "a CPU, EMULATED: this says nothing of a device"
        left = sum(not trial.asked for trial in self.trials)
        told = f", {left} not asked" if left else ""
        self.say(f"{count} of {len(self.trials)} passed{told} on {where}; {self.path}")
        return passed

    def write(self, verdict: str) -> None:
        """Write the whole file."""
        seconds = round(time.monotonic() - self.start, 1)
        lists = {"checks": self.trials, "timings": self.timings}
        whole = self.head | {"verdict": verdict, "seconds": seconds}
        whole |= {name: [asdict(one) for one in found] for name, found in lists.items()}
        write_text(self.path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def _trial_line(trial: "Trial") -> str:
    error = "no answer"
    if trial.error is not None:
        error = f"{trial.unit} {trial.error:.1e}, at most {trial.tolerance:.1e}"
    word = "ok" if trial.passed else "FAIL" if trial.asked else "skip"
    return f"{word:4}  {trial.name}, {trial.dtype}: {error} ({trial.detail})"


def _timing_line(timing: "Timing") -> str:
    return f"time  {timing.name}, {timing.dtype}: {timing.us:.1f} us ({timing.detail})"


def run_trials(record: TrialLog, ask: Ask, asked: Iterable[Group]) -> bool:
    """Try operators, models, text and ranks, the simplest first; return whether all passed."""
    for group in asked:
        record.add(_read(ask(group)))
    return record.finish()


def _read(lines: Iterable[Line]) -> "Iterator[Trial | Timing]":
    from neoxlib.setup.npu_trials import Timing, Trial

    for line in lines:
        if "trial" in line:
            yield Trial(**line["trial"])
        elif "timing" in line:
            yield Timing(**line["timing"])
