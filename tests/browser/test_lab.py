"""Each notebook in JupyterLab, as a person runs it: `make test-browser` asks for it by --lab."""

import json

import pytest
from bs4 import BeautifulSoup

from tests.browser.conftest import ROOT
from tests.support.browser import Seen
from tests.support.lab import lab, run_all, run_cells, saved, wait_until_idle
from tests.support.small_notebooks import start, write

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def running(request, tmp_path_factory):
    """JupyterLab's address, and its folder."""
    if not request.config.getoption("lab", False):
        pytest.skip("minutes long: pytest tests/browser --lab, or make test-browser")
    folder = tmp_path_factory.mktemp("lab")
    with lab(folder) as address:
        yield address, folder


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    yield context.new_page()
    context.close()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_leaves_no_error(running, page, shots, notebook):
    address, folder = running
    seen = Seen(page)
    run_all(page, address, notebook)
    try:
        wait_until_idle(page)
    finally:
        page.screenshot(path=shots / f"lab-{notebook.removesuffix('.ipynb')}.png")
    cells = saved(page, folder, notebook)
    outputs = [output for cell in cells for output in cell["outputs"]]
    errors = [o for o in outputs if o["output_type"] == "error" and o["ename"] != "SystemExit"]
    assert errors == []
    assert [o["text"] for o in outputs if o.get("name") == "stderr"] == [], "a pink box"
    assert all(cell["execution_count"] for cell in cells if cell["source"])
    assert seen.errors == []
    run = max((folder / "outputs" / notebook.removesuffix(".ipynb")).iterdir())
    assert (run / "report.html").is_file() and (folder / "outputs" / "index.html").is_file()
    assert page.locator(f'.jp-OutputArea a[href*="{run.name}/report.html"]').count() == 1


@pytest.mark.timeout(600)
def test_the_report_of_code_just_typed_is_linked_and_opens(running, page, shots):
    address, folder = running
    write(folder / "notebooks", "small", "seed: int = 0  # s", start("small"), "", "run.finish()")
    page.goto(address.format("small.ipynb"))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
    page.locator(".jp-CodeCell .cm-content").nth(2).click()
    page.keyboard.type("print('typed', 6 * 7)")
    run_cells(page)
    wait_until_idle(page)
    page.screenshot(path=shots / "lab-report-link.png")
    (run,) = (folder / "outputs" / "small").iterdir()
    text = BeautifulSoup((run / "report.html").read_text("utf-8"), "html.parser").get_text(" ")
    assert "typed 42" in text and "small.ipynb as saved at" in text
    page.locator('.jp-OutputArea a:has-text("report.html")').click()
    shown = page.frame_locator("iframe.jp-HTMLViewer, .jp-HTMLViewer iframe")
    shown.locator("text=typed 42").first.wait_for(timeout=60_000, state="attached")
    page.screenshot(path=shots / "lab-report-open.png")


@pytest.mark.timeout(600)
def test_a_run_can_be_interrupted_and_run_again(running, page, shots):
    address, folder = running
    run_all(page, address, "04_profile.ipynb")
    page.wait_for_selector('.jp-InputPrompt:has-text("[7]")', timeout=300_000)
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.keyboard.press("i")
    wait_until_idle(page, 120)
    page.screenshot(path=shots / "lab-interrupted.png")
    (run,) = sorted((folder / "outputs" / "04_profile").iterdir())[-1:]
    assert json.loads((run / "results.json").read_text())["status"] in ("running", "interrupted")
    run_all(page, address, "02_inference.ipynb")
    wait_until_idle(page)
    cells = saved(page, folder, "02_inference.ipynb")
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
