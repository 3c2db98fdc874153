"""Runs of ours on the shipped checkpoint, healthy or broken, as captures."""

from pathlib import Path

import neoxlib
from neoxlib.align.capture import capture
from neoxlib.align.foreign import capture_transformers
from neoxlib.align.reader import Capture, read_capture
from neoxlib.demo import MODEL_DIR
from neoxlib.model.group import Group
from neoxlib.model.steps import LOGITS, layer_of, within
from tests.msprobe import tool
from tests.support.faults import FAULTS, Fault
from tests.support.planted import Spot
from tests.support.thread_ranks import on_ranks

SHIPPED = Path(MODEL_DIR)
ROWS = [list(range(60, 76)), list(range(2600, 2616))]  # of both halves of the vocabulary
THEN = [[5, 6], [7, 8]]
LAYER = 1  # where faults are planted
MODULES = {  # the smallest module of transformers that gives a step, or has it inside
    "attention.rotary.query": "attention",
    "attention.rotary.key": "attention",
    "attention.cached.key": "attention",
    "attention.cached.value": "attention",
    "attention.context": "attention",
    "mlp.activation": "mlp.act",
    "all_reduce.before": "",
    "all_reduce.after": "",
    "gpt_neox.embed_in.all_reduce.before": "gpt_neox.embed_in",
    LOGITS: "lm_head",
}


def taken(
    folder: Path, size: int = 1, fault: Fault | None = None, compiled: bool = False
) -> Capture:
    """Capture the shipped model in float32 over `size` ranks, with a fault on the last rank."""

    def work(group: Group) -> None:
        engine = neoxlib.load(SHIPPED, "float32", group=group, compile=compiled)
        if fault is not None:
            engine.wait_until_resident()
            fault.plant(engine.model, Spot(LAYER, size - 1))
        capture(engine, folder, ROWS, THEN)

    on_ranks(size, work)
    return read_capture(folder)


def faults(size: int) -> list[Fault]:
    """Those that apply to float32 at this world size, and do not need padding to be seen."""
    padded = {"padding has positions", "padding seen"}
    apply = [fault for fault in FAULTS if "float32" in fault.dtypes and size in fault.sizes]
    return [fault for fault in apply if fault.kind not in padded]


def module_of(full: str) -> str:
    """The module of transformers, by its whole name, that gives a step or has it inside."""
    inner = MODULES.get(within(full), within(full))
    layer = layer_of(full)
    return inner if layer is None else f"gpt_neox.layers.{layer}.{inner}".rstrip(".")


class Bench:
    """The runs that are compared, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.one = taken(root / "one")
        self.two = taken(root / "two", 2)
        self.compiled = taken(root / "compiled", compiled=True)
        self.golden = tool.dumped(SHIPPED, self.one.folder, root / "golden")
        self.hooks = capture_transformers(SHIPPED, root / "hooks", self.one)
