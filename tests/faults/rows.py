"""What a fault is, and a program that injects those of one file."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.oracle_models import make_oracle, save_tokenizer

ROOT = Path(__file__).parents[2]
LATEST = 12.0  # seconds until the caller must know


class Row(NamedTuple):
    """A fault, and what injects it: it returns what was seen, and raises if it was not told."""

    name: str
    inject: Callable[[Path], str]


def model(folder: Path) -> Path:
    """A small checkpoint."""
    make_oracle(vocab_size=300).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def inject(rows: Sequence[Row], part: str = "") -> None:
    """Inject the faults whose name has `part`; print what was seen; exit with 1 if one failed."""
    failed = 0
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = model(Path(name))
        for row in rows:
            if part not in row.name:
                continue
            try:
                said = row.inject(folder)
            except Exception as error:
                said = f"FAILED: {type(error).__name__}: {error}"
                failed += 1
            print(f"{row.name}: {said}", flush=True)
    sys.exit(failed > 0)
