"""Sessions of real processes for tests, and whether processes have ended."""

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import neoxlib
from neoxlib.ranks import worker


def open_session(
    checkpoint: Path, log_dir: Path, world_size: int = 2, **more: Any
) -> neoxlib.Session:
    """Hide pytest from the ranks: ipykernel redirects output only if pytest is not running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")
        return neoxlib.Session(checkpoint, world_size, device="cpu", log_dir=log_dir, **more)


def gone(pids: list[int], seconds: float = 60) -> bool:
    """Whether all processes have ended, now or within `seconds`."""
    deadline = time.monotonic() + seconds
    while any(map(worker.alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(worker.alive, pids))


def descendants() -> list[int]:
    return [process.pid for process in psutil.Process().children(recursive=True)]
