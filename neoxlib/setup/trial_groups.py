"""The groups of the self-test's trials, and the process in which one group is made.

A process makes one group and ends: an operator that fails inside the chip takes the device from
its process, and no later answer of that process says anything of an operator.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.errors import telling
from neoxlib.machine.chips import Chip
from neoxlib.machine.devices import chip_for
from neoxlib.machine.runtime import import_torch, start_npu

if TYPE_CHECKING:
    from neoxlib.inference.engine import Engine
    from neoxlib.setup.npu_trials import Timing, Trial

ABOUT = "about"  # asks for the device's name and count
RANKS = "ranks"  # starts processes of its own, and must not hold a device itself
LAUNCH = "launch"
QUEUES = ("0", "1", "2")  # values of TASK_QUEUE_ENABLE under which a launch is timed
OPERATOR_GROUPS = ("products", "norm and positions", "activations", "attention")
Ask = Callable[[], "Iterable[Trial | Timing]"]
Line = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Trials that share a process: their kind, the dtype, and variables for that process."""

    kind: str
    dtype: str
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}, {self.dtype}"


def groups(chip: Chip) -> list[Group]:
    """All groups, the simplest first."""
    kinds = (*OPERATOR_GROUPS, "two layers", "greedy text", RANKS)
    found = [Group(kind, dtype) for kind in kinds for dtype in chip.dtypes]
    queues = [(("TASK_QUEUE_ENABLE", value),) for value in QUEUES]
    return [*found, *(Group(LAUNCH, chip.dtypes[0], variables) for variables in queues)]


def plan(group: Group, device: str, chip: Chip, world_size: int) -> list[tuple[str, Ask]]:
    """The names of a group's trials, and how to make each."""
    from neoxlib.setup import operator_trials, rank_trials, timings
    from neoxlib.setup.npu_trials import Site

    at = Site(device, chip.family, group.dtype)
    if group.kind == RANKS:
        return [("ranks", partial(rank_trials.over_ranks, device, group.dtype, world_size))]
    if group.kind == LAUNCH:
        return [("launch of an operator", partial(_alone, timings.launch, at))]
    if group.kind in ("two layers", "greedy text"):
        return _of_models(group, device, chip)
    made = operator_trials.operators(at, group.kind)
    asks: list[tuple[str, Ask]] = [(name, partial(_alone, ask)) for name, ask in made]
    if group.kind == "attention":
        asks.append(("time of attention", partial(_alone, timings.attention, at)))
    return asks


def _alone(ask: Callable[..., Any], *args: Any) -> list[Any]:
    return [ask(*args)]


def _of_models(group: Group, device: str, chip: Chip) -> list[tuple[str, Ask]]:
    from neoxlib.setup import model_trials

    where = (device, chip, group.dtype)
    if group.kind == "greedy text":
        ask = partial(model_trials.greedy_text, prompts=[*PROMPTS["en"], *PROMPTS["zh"]])
        return [
            ("greedy text", partial(_alone, on_model, MODEL_DIR, *where, None, "greedy text", ask))
        ]
    return [
        (f"two layers, {quant or 'plain'} weights", partial(_two_layers, *where, quant))
        for quant in model_trials.FORMS
    ]


def _two_layers(device: str, chip: Chip, dtype: str, quant: str | None) -> "list[Trial]":
    from neoxlib.setup import model_trials

    name = f"two layers, {quant or 'plain'} weights"
    with tempfile.TemporaryDirectory() as folder:
        small = model_trials.small_model(Path(folder))
        return [on_model(small, device, chip, dtype, quant, name, model_trials.two_layers)]


def on_model(
    model_dir: Path,
    device: str,
    chip: Chip,
    dtype: str,
    quant: str | None,
    name: str,
    ask: "Callable[[Engine], Trial]",
) -> "Trial":
    """Run the trial `ask` of a model; one that cannot be loaded fails it.

    On the CPU the model gets the chip's operators, which the caller emulates.
    """
    from neoxlib.inference.load import load
    from neoxlib.model import on_npu
    from neoxlib.setup.npu_trials import Trial

    try:
        engine = load(model_dir, dtype=dtype, device=device, quant=quant, compile=device != "cpu")
        if device == "cpu":
            on_npu.attach(engine.model, chip.family)
    except Exception as failure:
        return Trial.failed(name, dtype, failure)
    return ask(engine)


def answers(asks: list[tuple[str, Ask]], lost: Callable[[], str | None]) -> Iterator[Line]:
    """Make a group's trials one after the other; yield what the process tells of them.

    First the names of all, then each answer, and after each trial that it is done. `lost` says why
    the device does not answer any more: then the rest is not asked.
    """
    yield {"plan": [name for name, _ in asks]}
    for number, (name, ask) in enumerate(asks, 1):
        for one in ask():
            yield {"timing" if hasattr(one, "us") else "trial": asdict(one)}
            raised = not hasattr(one, "us") and one.error is None
        yield {"done": name}
        if raised and number < len(asks) and (why := lost()):
            yield {"lost": why}
            return


def lost_device(device: str) -> str | None:
    """Ask the device for the simplest sum; say what it answers if it cannot."""
    try:
        found = import_torch().ones(2, device=device).sum().item()
        return None if found == 2 else f"1 + 1 is {found}"
    except Exception as failure:
        return (telling(str(failure)) or [type(failure).__name__])[0]


def _about_device() -> Line:
    npu = import_torch().npu
    return {"about": {"device": npu.get_device_name(0), "count": npu.device_count()}}


def main(order: str) -> None:
    """Make the group of `order`, as JSON, and write what is told to its file descriptor."""
    job = json.loads(order)
    kind, dtype = job["kind"], job["dtype"]
    with os.fdopen(job["fd"], "w", buffering=1, encoding="utf-8") as out:
        if kind != RANKS:
            start_npu(0)
        lines: Iterable[Line] = [_about_device()] if kind == ABOUT else []
        if kind != ABOUT:
            asks = plan(Group(kind, dtype), "npu", chip_for("npu"), job["world_size"])
            lines = answers(asks, partial(lost_device, "npu"))
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
