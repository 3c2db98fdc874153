"""`python -m neoxlib selftest-npu`: check that this machine's NPUs compute what the model needs.

It runs the trials of operators and models on the device and the collectives over all visible NPUs,
and writes a JSON file with the chip, the versions and every error. Without an NPU it says that
nothing was verified, and exits with code 77. With the CPU as the device the operators are
emulated: that tests the trials, and the file says so.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.machine import environment, installed
from neoxlib.machine.chips import Chip
from neoxlib.machine.devices import chip_for, npu_problems
from neoxlib.machine.runtime import import_torch, start_npu
from neoxlib.workbook.run import outputs_root, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from neoxlib.inference.contract import Inference
    from neoxlib.inference.engine import Engine
    from neoxlib.setup.npu_trials import Trial

NOT_HERE = 77  # exit code: no NPU can be used, and nothing was verified
FILE = "selftest-npu.json"
Say = Callable[[str], None]


def main(output: Path | None = None, say: Say = print) -> int:
    """Run everything on this machine's NPUs and return the exit code.

    0: all passed, 1: not all passed, 77: no NPU can be used here.
    """
    if problems := npu_problems():
        for problem in problems:
            say(f"no NPU: {problem}")
        say("Nothing about a device was verified.")
        return NOT_HERE
    start_npu(0)
    npu = import_torch().npu
    chip = chip_for("npu")
    head = about("npu", chip, npu.get_device_name(0), npu.device_count())
    record = TrialLog(output or outputs_root() / FILE, say, head)
    return 0 if run_trials(record, "npu", chip, head["world_size"]) else 1


def about(device: str, chip: Chip, name: str, world_size: int) -> dict[str, Any]:
    """Return the device and every version that may change the answers."""
    home = os.environ.get("ASCEND_HOME_PATH")
    cann = installed.cann_version(home) if home else None
    return {
        "schema_version": 1,
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
        self.start = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, trials: "Iterable[Trial]") -> None:
        """Print and store each answer as it comes."""
        for trial in trials:
            self.trials.append(trial)
            error = "no answer"
            if trial.error is not None:
                error = f"error {trial.error:.1e}, at most {trial.tolerance:.1e}"
            word = "ok" if trial.passed else "FAIL"
            self.say(f"{word:4}  {trial.name}, {trial.dtype}: {error} ({trial.detail})")
            self.write("unfinished")

    def finish(self) -> bool:
        """Write and print the verdict; return whether all trials passed."""
        passed = bool(self.trials) and all(trial.passed for trial in self.trials)
        self.write("passed" if passed else "failed")
        count = sum(trial.passed for trial in self.trials)
        where = self.head["device"]
        if self.head["emulated"]:
            where = "a CPU, EMULATED: this says nothing of a device"
        self.say(f"{count} of {len(self.trials)} passed on {where}; {self.path}")
        return passed

    def write(self, verdict: str) -> None:
        """Write the whole file."""
        seconds = round(time.monotonic() - self.start, 1)
        trials = [asdict(trial) for trial in self.trials]
        whole = self.head | {"verdict": verdict, "seconds": seconds, "checks": trials}
        write_text(self.path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def run_trials(record: TrialLog, device: str, chip: Chip, world_size: int) -> bool:
    """Try operators, models, text and ranks, the simplest first; return whether all passed."""
    from neoxlib.setup.npu_trials import Site
    from neoxlib.setup.operator_trials import operators

    for dtype in chip.dtypes:
        record.add(operators(Site(device, chip.family, dtype)))
    _two_layers(record, device, chip)
    _greedy_text(record, device, chip)
    for dtype in chip.dtypes:
        record.add(over_ranks(device, dtype, world_size))
    return record.finish()


def _two_layers(record: TrialLog, device: str, chip: Chip) -> None:
    from neoxlib.setup import model_trials

    with tempfile.TemporaryDirectory() as folder:
        small = model_trials.small_model(Path(folder))
        for dtype, quant in product(chip.dtypes, model_trials.FORMS):
            what = f"two layers, {quant or 'plain'} weights"
            load = partial(_load, small, device, chip, dtype, quant)
            record.add([_on_model(load, dtype, what, model_trials.two_layers)])


def _greedy_text(record: TrialLog, device: str, chip: Chip) -> None:
    from neoxlib.setup.model_trials import greedy_text

    ask = partial(greedy_text, prompts=[*PROMPTS["en"], *PROMPTS["zh"]])
    for dtype in chip.dtypes:
        load = partial(_load, MODEL_DIR, device, chip, dtype, None)
        record.add([_on_model(load, dtype, "greedy text", ask)])


def _load(model_dir: Path, device: str, chip: Chip, dtype: str, quant: str | None) -> "Engine":
    """Load a model; on the CPU with the chip's operators, which the caller emulates."""
    from neoxlib.inference.load import load
    from neoxlib.model import on_npu

    engine = load(model_dir, dtype=dtype, device=device, quant=quant, compile=device != "cpu")
    if device == "cpu":
        on_npu.attach(engine.model, chip.family)
    return engine


def _on_model(
    load: "Callable[[], Engine]", dtype: str, what: str, ask: "Callable[[Engine], Trial]"
) -> "Trial":
    """Run the trial `ask` of a loaded model; a model that cannot be loaded fails it."""
    from neoxlib.setup.npu_trials import Trial

    try:
        engine = load()
    except Exception as failure:
        return Trial.failed(what, dtype, failure)
    return ask(engine)


def over_ranks(device: str, dtype: str, size: int) -> "list[Trial]":
    """Try the collectives, which must be exact, and the two-layer model over `size` ranks.

    The ranks are processes, started as Session starts them.
    """
    from neoxlib.inference import parity
    from neoxlib.ranks.session import Session
    from neoxlib.setup.model_trials import LOGIT_UNIT, logit_error, small_model, small_prompts
    from neoxlib.setup.npu_trials import Trial

    with tempfile.TemporaryDirectory() as folder:
        model_dir = small_model(Path(folder), heads=size * -(-4 // size))
        try:
            with Session(model_dir, world_size=size, dtype=dtype, device=device) as session:
                told = f"{size} ranks, {session.describe()['backend']}"
                errors = session.apply(collectives)
                rows = small_prompts(session.config)
                found = _real_logits(session, rows)
        except Exception as failure:
            return [Trial.failed(f"ranks: {size}", dtype, failure)]
        error = logit_error(found, parity.reference_logits(model_dir, rows))
    exact = [Trial.judged(name, dtype, e, 0.0, "exact", told) for name, e in errors.items()]
    limit = parity.TOLERANCE[dtype]
    whole = Trial.judged("two layers over ranks", dtype, error, limit, LOGIT_UNIT, told)
    return [*exact, whole]


def _real_logits(session: "Inference", rows: list[list[int]]) -> "list[Tensor]":
    """Return the logits of each row, without its padding."""
    from neoxlib.inference.decode import left_pad

    ids, mask = left_pad(rows)
    logits = session.logits(ids.tolist(), mask.tolist())
    return [row[kept] for row, kept in zip(logits, mask, strict=True)]


def collectives(engine: "Engine") -> dict[str, float] | None:
    """Return the largest error on any rank of each collective; None on ranks other than 0.

    Every rank knows the right result in advance.
    """
    errors = _all_reduce_errors(engine) | _gather_and_broadcast_errors(engine)
    return _worst_of_ranks(engine, errors)


def _all_reduce_errors(engine: "Engine") -> dict[str, float]:
    import torch

    group = engine.group
    ones = torch.arange(2048 * 96) % 2  # whole numbers, which any dtype adds exactly
    due = ones * sum(range(group.size + 1))
    errors = {}
    for dtype in (engine.weight.dtype, torch.int32):
        summed = group.all_reduce((ones * (group.rank + 1)).to(engine.weight.device, dtype))
        errors[f"all-reduce of {str(dtype).removeprefix('torch.')}"] = _worst(summed, due)
    return errors


def _gather_and_broadcast_errors(engine: "Engine") -> dict[str, float]:
    import torch

    group = engine.group
    whole = group.gather(torch.full((3, group.rank + 1), group.rank).to(engine.weight))
    ranks = torch.arange(group.size)
    due = ranks.repeat_interleave(ranks + 1).expand(3, -1)
    value = {"tokens": list(range(9)), "text": "从零开始"}
    received = group.broadcast(value if group.rank == 0 else None)
    return {
        "gather of unequal parts": 0.0 if whole is None else _worst(whole, due),
        "broadcast of a value": float(received != value),
    }


def _worst_of_ranks(engine: "Engine", errors: dict[str, float]) -> dict[str, float] | None:
    import torch

    mine = torch.tensor([list(errors.values())], device=engine.weight.device)
    everyone = engine.group.gather(mine, dim=0)  # [ranks, errors]
    return None if everyone is None else dict(zip(errors, everyone.amax(0).tolist(), strict=True))


def _worst(found: "Tensor", due: "Tensor") -> float:
    return (found.cpu().double() - due).abs().max().item()
