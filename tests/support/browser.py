"""Debian's Chromium, driven by Playwright: pages from files, without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # a container has no user namespaces
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
)
WIDTHS = {"desk": 1100, "phone": 390}
SCHEMES = ("light", "dark")


def find_browser() -> str | None:
    """The program's path, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator:
    """A running browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Seen:
    """What a page did that no page may do: errors on the console, and addresses asked for."""

    def __init__(self, page) -> None:
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def _said(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def beyond(self, *schemes: str) -> list[str]:
        """The addresses asked for that do not begin with one of `schemes`."""
        return [url for url in self.asked if not url.startswith(schemes)]


@contextmanager
def opened(browser, path: Path, width: str = "desk", scheme: str = "light") -> Iterator[tuple]:
    """A file in a window of its own, with the network off: the page, and what it did."""
    size = {"width": WIDTHS[width], "height": 800}
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    page = context.new_page()
    seen = Seen(page)
    page.goto(path.absolute().as_uri())
    page.wait_for_load_state("networkidle")
    try:
        yield page, seen
    finally:
        context.close()


def serious(page) -> list[str]:
    """What axe-core calls serious or critical on a page: rule, and the elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:120] for node in rule['nodes'][:3]]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
