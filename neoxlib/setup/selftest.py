"""`python -m neoxlib selftest-npu`: on a machine with NPUs, whether they compute what the model needs.

It runs the trials of trials.py on the device and the collectives over all visible NPUs, and writes a JSON file with
the chip, the versions and every error. Elsewhere it says that nothing was verified, and ends with exit code 77.
With the CPU as the device the operators are emulated: that tests the trials, and the file says so.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
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

    from neoxlib.inference.engine import Engine
    from neoxlib.setup.npu_trials import Trial

NOT_HERE = 77  # exit code: there is no NPU, and nothing was verified
FILE = "selftest-npu.json"
Say = Callable[[str], None]


def main(output: Path | None = None, say: Say = print) -> int:
    """Run everything on this machine's NPUs. Exit code 0: all passed, 1: not all, 77: no NPU can be used here."""
    if problems := npu_problems():
        for problem in problems:
            say(f"no NPU: {problem}")
        say("Nothing about a device was verified.")
        return NOT_HERE
    start_npu(0)
    npu = import_torch().npu
    chip = chip_for("npu")
    head = about("npu", chip, npu.get_device_name(0), npu.device_count())
    record = Record(output or outputs_root() / FILE, say, head)
    return 0 if examine(record, "npu", chip, head["world_size"]) else 1


def about(device: str, chip: Chip, name: str, world_size: int) -> dict[str, Any]:
    """What the answers hold for: the device and every version that may change them."""
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


class Record:
    """The answers so far; the file is written anew after each, so that one that never comes loses none before it."""

    def __init__(self, path: Path, say: Say, head: dict[str, Any]) -> None:
        self.path = path
        self.say = say
        self.head = head
        self.trials: list[Trial] = []
        self.start = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, trials: "Iterable[Trial]") -> None:
        """Say each answer as it comes, and keep it."""
        for trial in trials:
            self.trials.append(trial)
            error = (
                "no answer"
                if trial.error is None
                else f"error {trial.error:.1e}, at most {trial.tolerance:.1e}"
            )
            word = "ok" if trial.passed else "FAIL"
            self.say(f"{word:4}  {trial.name}, {trial.dtype}: {error} ({trial.detail})")
            self.write("unfinished")

    def finish(self) -> bool:
        """Whether all passed."""
        passed = bool(self.trials) and all(trial.passed for trial in self.trials)
        self.write("passed" if passed else "failed")
        count = sum(trial.passed for trial in self.trials)
        where = (
            "a CPU, EMULATED: this says nothing of a device"
            if self.head["emulated"]
            else self.head["device"]
        )
        self.say(f"{count} of {len(self.trials)} passed on {where}; {self.path}")
        return passed

    def write(self, verdict: str) -> None:
        """The whole file."""
        seconds = round(time.monotonic() - self.start, 1)
        trials = [asdict(trial) for trial in self.trials]
        whole = self.head | {"verdict": verdict, "seconds": seconds, "checks": trials}
        write_text(self.path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def examine(record: Record, device: str, chip: Chip, world_size: int) -> bool:
    """Operators, models, text, ranks: the plainest first. Returns whether all passed."""
    from neoxlib.setup import npu_trials

    for dtype in chip.dtypes:
        record.add(npu_trials.operators(npu_trials.Place(device, chip.family, dtype)))
    with tempfile.TemporaryDirectory() as folder:
        small = npu_trials.small_model(Path(folder))
        for dtype in chip.dtypes:
            for quant in npu_trials.FORMS:
                what = f"two layers, {quant or 'plain'} weights"
                record.add(
                    [_on_model(small, device, chip, dtype, quant, what, npu_trials.two_layers)]
                )
    prompts = [*PROMPTS["en"], *PROMPTS["zh"]]
    for dtype in chip.dtypes:
        told = lambda engine: npu_trials.greedy_text(engine, prompts)  # noqa: E731
        record.add([_on_model(MODEL_DIR, device, chip, dtype, None, "greedy text", told)])
    for dtype in chip.dtypes:
        record.add(over_ranks(device, dtype, world_size))
    return record.finish()


def _on_model(
    model_dir: Path,
    device: str,
    chip: Chip,
    dtype: str,
    quant: str | None,
    what: str,
    ask: "Callable[[Engine], Trial]",
) -> "Trial":
    """The trial `ask` of a loaded model; one that cannot be loaded has failed it."""
    from neoxlib.inference.engine import load
    from neoxlib.model import on_npu
    from neoxlib.setup import npu_trials

    try:
        engine = load(model_dir, dtype=dtype, device=device, quant=quant, compile=device != "cpu")
        if device == "cpu":
            on_npu.attach(engine.model, chip.family)
    except Exception as failure:
        return npu_trials.Trial.failed(what, dtype, failure)
    return ask(engine)


def over_ranks(device: str, dtype: str, size: int) -> "list[Trial]":
    """The collectives, each exact, and the two-layer model over `size` ranks, in processes as Session starts them."""
    from neoxlib.inference import parity
    from neoxlib.inference.decode import left_pad
    from neoxlib.ranks.session import Session
    from neoxlib.setup import npu_trials

    with tempfile.TemporaryDirectory() as folder:
        model_dir = npu_trials.small_model(Path(folder), heads=size * -(-4 // size))
        try:
            with Session(model_dir, world_size=size, dtype=dtype, device=device) as session:
                backend = session.describe()["backend"]
                errors = session.apply(collectives)
                rows = npu_trials.small_prompts(session.config)
                ids, mask = left_pad(rows)
                found = [
                    row[kept]
                    for row, kept in zip(
                        session.logits(ids.tolist(), mask.tolist()), mask, strict=True
                    )
                ]
        except Exception as failure:
            return [npu_trials.Trial.failed(f"ranks: {size}", dtype, failure)]
        error = npu_trials.spread_off(found, parity.reference_logits(model_dir, rows))
    told = f"{size} ranks, {backend}"
    exact = [
        npu_trials.Trial.judged(name, dtype, worst, 0.0, "exact", told)
        for name, worst in errors.items()
    ]
    limit = parity.TOLERANCE[dtype]
    return [
        *exact,
        npu_trials.Trial.judged(
            "two layers over ranks", dtype, error, limit, npu_trials.SPREAD, told
        ),
    ]


def collectives(engine: "Engine") -> dict[str, float] | None:
    """Sums, parts and words that every rank knows beforehand: the largest error on any rank. None off rank 0."""
    import torch

    group = engine.group
    weight = engine.weight
    ones = torch.arange(2048 * 96) % 2  # whole numbers that any dtype adds exactly
    errors = {}
    for dtype in (weight.dtype, torch.int32):
        summed = group.all_reduce((ones * (group.rank + 1)).to(weight.device, dtype))
        errors[f"all-reduce of {str(dtype).removeprefix('torch.')}"] = _worst(
            summed, ones * sum(range(group.size + 1))
        )
    whole = group.gather(torch.full((3, group.rank + 1), group.rank).to(weight))
    ranks = torch.arange(group.size)
    due = ranks.repeat_interleave(ranks + 1).expand(3, -1)
    errors["gather of unequal parts"] = 0.0 if whole is None else _worst(whole, due)
    word = {"tokens": list(range(9)), "text": "从零开始"}
    told = group.broadcast(word if group.rank == 0 else None)
    errors["broadcast of a value"] = float(told != word)
    everyone = group.gather(
        torch.tensor([list(errors.values())], device=weight.device), dim=0
    )  # [ranks, errors]
    return None if everyone is None else dict(zip(errors, everyone.amax(0).tolist(), strict=True))


def _worst(found: "Tensor", due: "Tensor") -> float:
    return (found.cpu().double() - due).abs().max().item()
