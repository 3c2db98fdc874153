"""Fixtures of the tests of sessions: the environment of the ranks, and the processes of a test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.sessions import descendants

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plain_environment() -> Iterator[None]:
    """One thread per rank, and ranks that can import this package's faults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture
def new_processes() -> Callable[[], list[int]]:
    """A function that lists the processes that this test has started."""
    before = set(descendants())
    return lambda: [pid for pid in descendants() if pid not in before]
