"""What a person does to a kernel in JupyterLab: stop an answer, restart, and run all once more."""

import json

import psutil
import pytest

from tests.support.browser import Seen
from tests.support.lab import run_all, saved, wait_until_idle, write_cells

pytestmark = pytest.mark.timeout(4000)
PANEL = ".jp-OutputArea:has(button:text-is('Stop'))"
# Plain operators are slow enough to be stopped.
SLOW = (
    "from neoxlib import Session, ranks\nfrom neoxlib.demo import MODEL_DIR\n"
    "session = Session(MODEL_DIR, 1, compile=False)",
    "ranks.try_it.TryIt(session, 'The panda is', None, {'max_new_tokens': 500})",
)


@pytest.fixture
def opened(page, running):
    """02_inference with all cells run: the page, and the errors on its console."""
    seen = Seen(page)
    run_all(page, running[0], "02_inference.ipynb")
    wait_until_idle(page)
    return page, seen


def kernels(folder) -> set[int]:
    """The processes below JupyterLab: kernels, and what a kernel started."""
    told = json.loads(next((folder / "runtime").glob("jpserver-*.json")).read_text())
    return {child.pid for child in psutil.Process(told["pid"]).children(recursive=True)}


def test_the_panel_answers_after_the_notebook_has_come_to_its_end(opened, shots):
    page, seen = opened
    panel = page.locator(PANEL).last
    panel.scroll_into_view_if_needed()
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_text("ended by").wait_for(timeout=300_000)
    page.screenshot(path=shots / "lab-asked-again.png")
    assert seen.errors == []


def test_a_restarted_kernel_leaves_no_process_and_runs_all_again(opened, running, shots):
    page, _ = opened
    _, folder = running
    before = kernels(folder)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Restart Kernel and Run All Cells…", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    page.wait_for_selector(".jp-InputPrompt:text-is('[*]:')", timeout=120_000)
    wait_until_idle(page)
    page.screenshot(path=shots / "lab-restarted.png")
    cells = saved(page, folder, "02_inference.ipynb")
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    numbers = [cell["execution_count"] for cell in cells if cell["source"]]
    assert numbers == list(range(1, len(numbers) + 1)), "counted from 1 in a new kernel"
    left = before & set(psutil.pids())
    names = {pid: " ".join(psutil.Process(pid).cmdline())[:200] for pid in left}
    assert len(left) <= 1, names  # no process of the old kernel, but for a helper of the server
    runs = sorted((folder / "outputs" / "02_inference").iterdir())
    states = [json.loads((run / "results.json").read_text())["status"] for run in runs[-2:]]
    assert set(states) <= {"ok", "noisy"} and len(states) == 2


def test_an_answer_is_stopped_and_the_panel_goes_on(page, running, shots):
    seen = Seen(page)
    address, folder = running
    write_cells(folder, "stop.ipynb", *SLOW)
    run_all(page, address, "stop.ipynb")
    wait_until_idle(page, 300)
    panel = page.locator(PANEL).last
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_text(" tokens …").wait_for(timeout=300_000)
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("Stopped after").wait_for(timeout=300_000)
    page.screenshot(path=shots / "lab-stopped.png")
    panel.locator(".widget-slider:has(label:text-is('tokens')) [role=slider]").focus()
    page.keyboard.press("Home")
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_text("ended by").wait_for(timeout=300_000)
    assert seen.errors == []
