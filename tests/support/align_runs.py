"""Captures of a small model, broken or healthy, and what is found in them."""

import shutil
from pathlib import Path

import neoxlib
from neoxlib.align.capture import capture
from neoxlib.align.localize import Alignment, localize
from neoxlib.align.reader import read_capture
from neoxlib.model.group import Group
from tests.support.faults import Fault
from tests.support.oracle_models import make_oracle, save_tokenizer
from tests.support.planted import Spot
from tests.support.thread_ranks import on_ranks

# Heads of 32, half of each rotated; every width takes int4's groups on up to four ranks.
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "rope_parameters": {
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "rope_type": "default",
    },
}
ROWS = [list(range(60, 76)), list(range(228, 237))]  # the second is padded on the left
THEN = [[5, 6], [7, 8]]


def save_model(folder: Path, **changes: object) -> Path:
    """A random checkpoint of three layers."""
    make_oracle(**SHAPE | changes).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def dtype_of(form: str) -> dict[str, str | None]:
    """`load`'s arguments for a dtype, or for a quantization of float32."""
    packed = form.startswith("int")
    return {"dtype": "float32" if packed else form, "quant": form if packed else None}


def run(
    model: Path,
    folder: Path,
    form: str,
    size: int,
    fault: Fault | None = None,
    spot: Spot | None = None,
    compiled: bool = False,
) -> Alignment:
    """Capture a run with a fault in it, and localize."""
    shutil.rmtree(folder, ignore_errors=True)

    def work(group: Group) -> None:
        engine = neoxlib.load(model, group=group, compile=compiled, **dtype_of(form))
        if fault is not None:
            engine.wait_until_resident()
            fault.plant(engine.model, spot)
        capture(engine, folder, ROWS, THEN)

    on_ranks(size, work)
    return localize(read_capture(folder))


def expected_place(fault: Fault, spot: Spot, size: int) -> tuple[str, int, list[int]]:
    """Full name, pass and ranks where a fault must be found."""
    step = fault.step[1:] if fault.step.startswith("/") else None
    name = step or f"gpt_neox.layers.{spot.layer}.{fault.step}".rstrip(".")
    return name, fault.pass_, [spot.rank] if fault.one else list(range(size))


def found_place(found: Alignment) -> tuple[str, int, list[int]] | None:
    """What was found first; None if nothing was."""
    if not found.first:
        return None
    one = found.first[0]
    return one.name, one.pass_, [each.rank for each in found.first]
