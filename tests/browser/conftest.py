"""One browser for all, and a folder for the screenshots."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import launched

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def browser() -> Iterator:
    with launched() as running:
        yield running


@pytest.fixture(scope="session")
def shots() -> Path:
    """Screenshots are kept in outputs/browser."""
    folder = ROOT / "outputs" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--lab", action="store_true", help="also JupyterLab and hostile runs, for minutes"
    )
    parser.addoption("--runs", help="a folder of runs, whose pages are looked at")
