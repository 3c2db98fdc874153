"""JupyterLab as `make lab` starts it, with settings of its own, and one notebook in a browser."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import nbformat

from neoxlib.setup import lab as setup_lab

ROOT = Path(__file__).parents[2]
START_SECONDS = 600
RUN_SECONDS = 3600  # the longest notebook, on a busy machine


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """Start JupyterLab on a copy of the notebooks in `folder`; the address with its token."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    _show_all_cells(folder / "settings")
    places = {
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "NEOXLIB_OUTPUTS": folder / "outputs",
    }
    with patch.dict(os.environ, {name: str(path) for name, path in places.items()}):
        # JupyterLab's root is the folder that holds both the notebooks and the runs.
        command = setup_lab.command(folder / "notebooks", setup_lab.free_port(None), browser=False)
        environment = setup_lab.environment(os.environ)
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield _address(folder / "runtime", server)
        finally:
            server.terminate()
            server.wait(30)


def _show_all_cells(settings: Path) -> None:
    """Keep JupyterLab from drawing only the cells in the window."""
    extension = settings / "@jupyterlab" / "notebook-extension"
    extension.mkdir(parents=True)
    (extension / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')


def _address(runtime: Path, server: subprocess.Popen) -> str:
    """Wait until the server has written where it listens."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        for path in runtime.glob(f"jpserver-{server.pid}.json"):
            told = json.loads(path.read_text())
            return f"{told['url']}lab/tree/notebooks/{{}}?reset&token={told['token']}"
        time.sleep(0.5)
    raise AssertionError("JupyterLab did not start; see lab.log")


def run_all(page, address: str, notebook: str) -> None:
    """Open a notebook and run all of its cells."""
    page.goto(address.format(notebook))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=START_SECONDS * 1000)
    page.wait_for_selector(
        '.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=START_SECONDS * 1000
    )
    page.get_by_text("| Idle").first.wait_for(timeout=START_SECONDS * 1000)  # of the status bar
    run_cells(page)


def run_cells(page) -> None:
    """Run all cells of the open notebook."""
    page.keyboard.press("Escape")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    started = ".jp-InputPrompt:text-matches('\\\\[(\\\\*|[0-9]+)\\\\]')"
    page.wait_for_selector(started, timeout=START_SECONDS * 1000)


def wait_until_idle(page, seconds: int = RUN_SECONDS) -> None:
    """Wait until no cell waits or runs."""
    page.wait_for_function(
        """() => {
            const texts = [...document.querySelectorAll('.jp-InputPrompt')].map(e => e.textContent);
            return texts.length && !texts.some(text => text.includes('[*]'));
        }""",
        polling=1000,
        timeout=seconds * 1000,
    )


def saved(page, folder: Path, notebook: str) -> list[dict]:
    """Save the notebook; its code cells as the file has them."""
    page.keyboard.press("Control+s")
    time.sleep(3)
    cells = json.loads((folder / "notebooks" / notebook).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def write_cells(folder: Path, name: str, *sources: str) -> None:
    """Write a notebook of these code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(made, folder / "notebooks" / name)


def output(page, number: int):
    """The output of a code cell, from 0."""
    return page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea")
