"""One browser for all, and a folder for the screenshots."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import launched
from tests.support.lab import lab

ROOT = Path(__file__).parents[2]
SHORT = [("case_pair", "[[16, 4], [32, 4]]"), ("min_seconds", "0.01"), ("retry_noisy", "0")]


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


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """JupyterLab's address, and its folder."""
    if not request.config.getoption("lab", False):
        pytest.skip("minutes long: pytest tests/browser --lab, or make test-browser")
    folder = tmp_path_factory.mktemp("lab")
    with lab(folder) as address:
        yield address, folder


@pytest.fixture
def page(browser) -> Iterator:
    """A page of a window that JupyterLab fits into."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    yield context.new_page()
    context.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--lab", action="store_true", help="also JupyterLab and hostile runs, for minutes"
    )
    parser.addoption("--runs", help="a folder of runs, whose pages are looked at")
