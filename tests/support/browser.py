"""Debian's Chromium, driven by Playwright: pages from files, without a network."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # a container has no user namespaces
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
)
WIDTHS = {"desk": 1280, "phone": 390}
HEIGHT = 800  # of the first screen
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
    size = {"width": WIDTHS[width], "height": HEIGHT}
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


def sideways(page) -> int:
    """How many pixels of a page lie beyond its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def ground(png: bytes) -> str:
    """The colour of most pixels of a picture."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    most = max(picture.getcolors(picture.width * picture.height))
    return "#" + "".join(f"{part:02x}" for part in most[1])


class Printed(NamedTuple):
    """A page of a PDF: its text, and the colours of its pixels with their number."""

    text: str
    colours: dict[str, int]


def printed(page, path: Path) -> list[Printed]:
    """Print a page on A4 into the file `path`; its pages as another program than Chromium sees
    them.
    """
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2, which reads PDFs, is missing")
    page.pdf(path=path, format="A4", print_background=True)
    with pdfium.PdfDocument(path) as document:
        return [_printed(sheet) for sheet in document]


def _printed(sheet) -> Printed:
    picture = sheet.render(scale=1).to_pil().convert("RGB")
    counted = picture.getcolors(picture.width * picture.height)
    colours = {"#" + "".join(f"{part:02x}" for part in rgb): count for count, rgb in counted}
    return Printed(sheet.get_textpage().get_text_range().replace("\xa0", " "), colours)
