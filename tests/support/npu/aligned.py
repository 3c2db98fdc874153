"""Captures on the emulated operators of an NPU: what the tests of align on that path share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import neoxlib
from neoxlib.align.capture import capture
from neoxlib.align.localize import Alignment, localize
from neoxlib.align.reader import read_capture
from neoxlib.inference.engine import Engine
from neoxlib.model import on_npu
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import SOLO, Group
from tests.support.align_runs import ROWS, THEN
from tests.support.npu import reference as reference
from tests.support.thread_ranks import on_ranks

reference.install()

CHIPS = {"A2": "910B3", "A3": "A3", "310P": "310P3", "910A": "910A", "unknown": "unknown NPU"}
Plant = Callable[[GPTNeoX], None]


def engine_on(
    model: Path, family: str, dtype: str = "float16", quant: str | None = None, group: Group = SOLO
) -> Engine:
    """An engine whose layers run on the emulated operators, and that says so."""
    engine = neoxlib.load(model, dtype, quant=quant, group=group, compile=False)
    engine.wait_until_resident()
    on_npu.attach(engine.model, family)
    engine._about["compile"] = f"operators for {CHIPS[family]}"
    return engine


def run_on(
    model: Path,
    folder: Path,
    family: str,
    dtype: str = "float16",
    quant: str | None = None,
    size: int = 1,
    plant: Plant | None = None,
) -> Alignment:
    """Capture a run, with a fault in it if `plant` makes one, and localize."""
    shutil.rmtree(folder, ignore_errors=True)

    def work(group: Group) -> None:
        engine = engine_on(model, family, dtype, quant, group)
        if plant is not None:
            plant(engine.model)
        capture(engine, folder, ROWS, THEN)

    with reference.on_chip(family):
        on_ranks(size, work)
    return localize(read_capture(folder))
