"""Programs that are not there, as small scripts at the front of PATH."""

import os
from pathlib import Path

import pytest


def programs(folder: Path, patch: pytest.MonkeyPatch, **scripts: str) -> Path:
    """Write shell scripts by the names of programs, and have them found first."""
    place = folder / "programs"
    place.mkdir(exist_ok=True)
    for name, text in scripts.items():
        script = place / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    patch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place
