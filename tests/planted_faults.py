"""Every kind of fault in every number format and world size, and healthy runs: `make test-align`.

Writes the table of where each was found into docs/verification.md. Exit code 1 if a fault was not
found at its place or a healthy run was accused.
"""

import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from neoxlib.kernels.cpu import build
from tests.support.align_runs import expected_place, found_place, run, save_model
from tests.support.compiled_faults import COMPILED
from tests.support.faults import ALL, FAULTS, SIZES, Fault
from tests.support.planted import Spot

PAGE = Path(__file__).parents[1] / "docs" / "verification.md"
START = "<!-- planted faults: from here on written by `make test-align` -->"
END = "<!-- planted faults: end -->"
PLAIN_LAYERS, COMPILED_KERNELS = "plain layers", "compiled kernels"
MODELS = {  # healthy runs are over these; faults are planted in the first
    "as GPT-NeoX-20B": {},
    "one branch after the other": {"use_parallel_residual": False},
    "no attention bias": {"attention_bias": False},
    "tied": {"tie_word_embeddings": True},
    "gelu": {"hidden_act": "gelu"},
    "relu": {"hidden_act": "relu"},
    "vocabulary not divisible": {"vocab_size": 301},
}


@dataclass
class Tally:
    """Counts and the greatest errors of healthy runs."""

    planted: int = 0
    found: int = 0
    healthy: int = 0
    accused: int = 0
    greatest: float = 0.0
    rms: float = 0.0


def is_found(model: Path, folder: Path, fault: Fault, form: str, size: int, compiled: bool) -> bool:
    """Whether a fault in layer 1, on the last rank if it is one's, is found exactly."""
    spot = Spot(1, size - 1)
    found = run(model, folder, form, size, fault, spot, compiled)
    said = fault.said.format(rank=spot.rank) in "; ".join(found.said.values())
    return found_place(found) == expected_place(fault, spot, size) and said


def rows(model: Path, folder: Path, tally: Tally) -> Iterator[str]:
    """The table's row of each kind of fault and executor."""
    for executor, fault in planted():
        cells = []
        compiled = executor == COMPILED_KERNELS
        for form in ALL:
            sizes = [size for size in fault.sizes if form in fault.dtypes]
            good = [s for s in sizes if is_found(model, folder, fault, form, s, compiled)]
            tally.planted += len(sizes)
            tally.found += len(good)
            lost = [f"**not at {size}**" for size in sizes if size not in good]
            cells.append(" ".join([*map(str, good), *lost]) or "–")
        step = fault.step.lstrip("/") or "(layer output)"
        when = f", decode step {fault.pass_}" if fault.pass_ else ""
        ranks = "the rank" if fault.one else "all ranks"
        yield f"| {fault.kind} | {executor} | `{step}`{when}, {ranks} | {' | '.join(cells)} |"
        print(executor, fault.kind, *cells, sep=" · ", flush=True)


def planted() -> list[tuple[str, Fault]]:
    """Executor and fault of all rows; compiled kernels only where they can be compiled."""
    found = [(PLAIN_LAYERS, fault) for fault in FAULTS]
    if build.compiled("forward"):
        found += [(COMPILED_KERNELS, fault) for fault in COMPILED]
    return found


def healthy(root: Path, tally: Tally) -> None:
    """Runs without a fault over all models, formats, sizes and both ways of running on a CPU."""
    ways = (False, True) if build.compiled("forward") else (False,)
    for name, changes in MODELS.items():
        model = save_model(root / name, **changes)
        for form in ALL:
            for size in SIZES:
                for compiled in ways:
                    found = run(model, root / "capture", form, size, compiled=compiled)
                    errors = [each.error for each in found.findings]
                    tally.healthy += 1
                    tally.accused += bool(found.first)
                    tally.greatest = max(tally.greatest, *(e.greatest for e in errors))
                    tally.rms = max(tally.rms, *(e.rms for e in errors))
                    if found.first:
                        print("accused:", name, form, size, compiled, found.first, flush=True)
        print(name, tally, flush=True)


def report(lines: list[str], tally: Tally) -> str:
    """The text between the two markers."""
    told = (
        f"{tally.found} of {tally.planted} planted faults of {len(FAULTS)} kinds in plain layers "
        f"and {len(COMPILED)} in compiled kernels were found at "
        f"their step, pass and ranks. {tally.accused} of {tally.healthy} healthy runs "
        f"({len(MODELS)} architectures, plain layers and compiled kernels) were accused; their "
        f"greatest own error was {tally.greatest:.1f} roundings (limit 8), the greatest root mean "
        f"square {tally.rms:.2f} (limit 1.5)."
    )
    head = [
        textwrap.fill(told, 99),
        "",
        "A cell has the world sizes at which a fault was planted and found; – means that it does\n"
        "not apply there, or was not planted since its effect is of the size of a rounding.",
        "",
        f"| planted | in | found at | {' | '.join(ALL)} |",
        f"|---|---|---|{'---|' * len(ALL)}",
    ]
    return "\n".join([*head, *lines])


def main() -> int:
    """Plant all faults, run the healthy runs, write the table."""
    torch.set_num_threads(1)
    tally = Tally()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        lines = list(rows(save_model(root / "model"), root / "capture", tally))
        healthy(root, tally)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    assert after, f"{PAGE} lacks the marker lines"
    text = f"{before}{START}\n\n{report(lines, tally)}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")
    return int(tally.found < tally.planted or tally.accused > 0)


if __name__ == "__main__":
    sys.exit(main())
