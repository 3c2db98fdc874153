"""Each notebook in JupyterLab, as a person runs it: `make test-browser` asks for it by --lab."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from neoxlib.workbook import ci_files, headless
from tests.browser.conftest import ROOT, SHORT
from tests.support.browser import Seen
from tests.support.lab import output, run_all, run_cells, saved, wait_until_idle, write_cells
from tests.support.small_notebooks import start, write

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.timeout(4000)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_leaves_no_error(running, page, shots, notebook):
    address, folder = running
    if notebook.startswith("05"):
        time_twice(folder / "outputs")
    seen = Seen(page)
    run_all(page, address, notebook)
    try:
        wait_until_idle(page)
    finally:
        page.screenshot(path=shots / f"lab-{notebook.removesuffix('.ipynb')}.png")
    cells = saved(page, folder, notebook)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error"] == []
    assert [o["text"] for o in outputs if o.get("name") == "stderr"] == [], "a pink box"
    assert all(cell["execution_count"] for cell in cells if cell["source"])
    assert seen.errors == []
    assert page.get_by_text("official Jupyter news").count() == 0
    run = max((folder / "outputs" / notebook.removesuffix(".ipynb")).iterdir())
    assert (run / "report.html").is_file() and (folder / "outputs" / "index.html").is_file()
    assert page.locator(f'.jp-OutputArea a[href*="{run.name}/report.html"]').count() == 1


def time_twice(outputs: Path) -> None:
    """Two runs for 05_compare."""
    for _ in range(2):
        assert headless.report(["04_profile"], [], SHORT, outputs=outputs, say=print) == ci_files.OK


@pytest.mark.timeout(900)
def test_a_chinese_copy_is_chinese_to_look_at_and_its_record_english(running, page, shots):
    address, folder = running
    copy = [sys.executable, "-m", "neoxlib", "copy-notebooks", "--lang", "zh"]
    subprocess.run([*copy, str(folder / "notebooks" / "zh")], check=True, capture_output=True)
    run_all(page, address, "zh/02_inference.ipynb")
    wait_until_idle(page)
    page.screenshot(path=shots / "lab-zh.png")
    shown = page.locator(".jp-Notebook").inner_text()
    assert "与不切分的模型相同" in shown and "same as the unsplit model" not in shown
    assert page.get_by_role("button", name="生成").count() == 1
    run = max((folder / "outputs" / "02_inference").iterdir())
    assert 'lang="zh-CN"' in (run / "report.html").read_text("utf-8")
    record = (run / "notebook.ipynb").read_text("utf-8")
    assert "same as the unsplit model" in record and "与不切分的模型相同" not in record


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


@pytest.mark.timeout(4000)
def test_a_run_can_be_interrupted_and_run_again(running, page, shots):
    address, folder = running
    # A copy has a kernel of its own, which counts from 1.
    shutil.copy(folder / "notebooks" / "04_profile.ipynb", folder / "notebooks" / "broken.ipynb")
    run_all(page, address, "broken.ipynb")
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


# Plain operators are slow enough to be interrupted.
TRY = (
    "from neoxlib import Session, demo, ranks\nfrom neoxlib.demo import MODEL_DIR\n"
    "session = Session(MODEL_DIR, 1, compile=False)",
    "one = session.generate(['The panda is'], max_new_tokens=900, stream=True)[0]",
    "ranks.try_it.TryIt(session, 'The panda is', one, {'max_new_tokens': 24})",
    "one.finish_reason",
)


@pytest.fixture
def tried(running, page):
    """A notebook whose long answer was interrupted, with the panel of this answer."""
    address, folder = running
    write_cells(folder, "try.ipynb", *TRY)
    run_all(page, address, "try.ipynb")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-CodeCell')[1].innerText.includes('mammal')",
        timeout=300_000,
    )
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.keyboard.press("i")
    wait_until_idle(page, 300)
    return page


def tokens(page) -> list[str]:
    return output(page, 2).locator(".widget-toggle-button").all_inner_texts()


def wait_for(page, text: str) -> None:
    output(page, 2).get_by_text(text).first.wait_for(timeout=300_000)


def wait_for_tokens(page, count: int) -> None:
    counted = "n => document.querySelectorAll('.widget-toggle-button').length === n"
    page.wait_for_function(counted, arg=count, timeout=300_000)


@pytest.mark.timeout(900)
def test_an_answer_is_interrupted_and_gone_on_with_from_another_token(tried, running, shots):
    page = tried
    _, folder = running
    said = [cell["outputs"] for cell in saved(page, folder, "try.ipynb")]
    assert "Interrupted after " in "".join(said[1][0]["text"]) and "'interrupted'" in str(said[3])
    assert "of weights on 1 rank" in output(page, 0).inner_text()
    assert "of weights on 1 rank" in str(said[0][-1]["data"]["text/html"]), "words for a report"
    panel = output(page, 2)
    panel.get_by_role("button", name="Generate").click()
    wait_for(page, "24 tokens, ended by")
    before = tokens(page)
    assert len(before) == 24 and "first token" in panel.inner_text()
    panel.locator(".widget-toggle-button").nth(6).click()
    page.wait_for_timeout(2000)  # until the alternatives are those of this token
    others = panel.get_by_role("button", name="%")
    words = others.nth(1).inner_text().rpartition(" ")[0]
    page.screenshot(path=shots / "lab-try-it-choose.png")
    others.nth(1).click()
    wait_for_tokens(page, 31)
    after = tokens(page)
    assert after[:6] == before[:6] and after[6] == words != before[6] and len(after) == 31
    page.screenshot(path=shots / "lab-try-it-gone-on.png")
    by_keyboard(page, after)
    for expected in (after, before):
        panel.get_by_role("button", name="Back").click()
        wait_for_tokens(page, len(expected))
        assert tokens(page) == expected


def by_keyboard(page, before: list[str]) -> None:
    """Move one token on by its number, and press another alternative without the mouse."""
    output(page, 2).get_by_role("spinbutton", name="go on from token").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(2000)
    output(page, 2).get_by_role("button", name="%").nth(1).focus()
    page.keyboard.press("Enter")
    wait_for_tokens(page, 32)
    assert tokens(page)[:7] == before[:7] and tokens(page)[7] != before[7]
