"""A run in a kernel of JupyterLab: its report is of its own cells, also if the kernel is killed."""

import json
import signal
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from jupyter_client.manager import start_new_kernel

from neoxlib import history
from neoxlib.__main__ import cli
from neoxlib.workbook import pages
from neoxlib.workbook.past_run import open_run
from neoxlib.workbook.results import read_results, read_run

START = """\
from neoxlib.workbook.run import Run
run = Run.start("one", {"seed": 1})
run.params"""
SHOWS = """\
from IPython.display import HTML, display
shown = display(HTML("first <b>state</b>"), display_id=True)
print("one", end=""); print(" line")
shown.update(HTML("second <b>state</b>"))
run.metric("next_token_ms", 2.5)
6 * 7"""
SAVED = {  # the notebook as it is on disk: id -> its text or code
    "title": "# One — does it work?",
    "imports": "import time",
    "start": START,
    "work-text": "## The work\n\nText of the file.",
    "work": "print('as it was saved')",
    "long-text": "## The long part",
    "long": "time.sleep(600)",
    "finish": "run.finish()",
}


class Kernel:
    """A kernel as JupyterLab starts it for a notebook: it is told the name, and each cell's id."""

    def __init__(self, folder: Path) -> None:
        self.book = folder / "one.ipynb"
        cells = [
            nbformat.v4.new_markdown_cell(source, id=name)
            if source.startswith("#")
            else nbformat.v4.new_code_cell(source, id=name, outputs=[OLD])
            for name, source in SAVED.items()
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), self.book)
        self.outputs = folder / "outputs"
        places = {"JPY_SESSION_NAME": str(self.book), "NEOXLIB_OUTPUTS": str(self.outputs)}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in places.items():
                patch.setenv(name, value)
            self.manager, self.client = start_new_kernel(cwd=str(folder))
        self.client.allow_stdin = False

    def run(self, name: str, source: str = "", reply: bool = True) -> dict:
        """Run a cell, with other code than the file has if there is any."""
        content = {"code": source or SAVED[name], "silent": False, "store_history": True}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False}
        message = self.client.session.msg("execute_request", content, metadata={"cellId": name})
        self.client.shell_channel.send(message)
        while reply:
            found = self.client.get_shell_msg(timeout=280)
            if found["parent_header"]["msg_id"] == message["header"]["msg_id"]:
                return found["content"]
        return {}

    def last(self) -> Path:
        return max((self.outputs / "one").iterdir())

    def end(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


OLD = nbformat.v4.new_output("stream", text="output of an earlier run")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    running = Kernel(tmp_path_factory.mktemp("lab"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def finished(kernel):
    """A run whose notebook was changed and not saved."""
    for name in ("imports", "start"):
        assert kernel.run(name)["status"] == "ok"
    kernel.run("work", SHOWS)
    kernel.run("new", "print('a cell that no file has')")
    kernel.run("work-again", "1 / 0")
    assert kernel.run("finish")["status"] == "ok"
    return kernel.last()


def page_of(folder: Path) -> BeautifulSoup:
    return BeautifulSoup((folder / "report.html").read_text("utf-8"), "html.parser")


@pytest.mark.timeout(600)
def test_finish_in_jupyterlab_makes_the_report_of_what_ran_saved_or_not(finished, kernel):
    text = page_of(finished).get_text(" ", strip=True)
    assert "second state" in text and "first state" not in text
    assert "one line" in text and "42" in text and "ZeroDivisionError" in text
    assert "a cell that no file has" in text and "Text of the file." in text
    assert "as it was saved" not in text and "earlier run" not in text
    assert "Code and outputs are those of this run; the texts are those of one.ipynb" in text
    assert "2.50" in text and (kernel.outputs / "index.html").is_file()


def test_the_cells_of_a_run_stand_where_the_notebook_has_them(finished):
    book = nbformat.read(finished / "notebook.ipynb", as_version=4)
    nbformat.validate(book)
    names = [cell.id for cell in book.cells]
    expected = [*SAVED]
    expected[5:5] = ["new", "work-again"]
    assert names == expected
    code = {cell.id: cell for cell in book.cells if cell.cell_type == "code"}
    assert code["work"].source == SHOWS and code["imports"].execution_count == 1
    assert code["long"].execution_count is None and code["long"].outputs == []
    states = {name: cell.metadata.get("papermill", {}).get("status") for name, cell in code.items()}
    assert (states["work"], states["work-again"], states["long"]) == ("completed", "failed", None)
    assert len([one for one in code["work"].outputs if one.output_type == "stream"]) == 1


def test_a_finished_run_has_no_heartbeat(finished):
    assert read_results(finished)["status"] == "ok"
    assert [path.name for path in (finished / "logs").iterdir()] == []


@pytest.mark.timeout(600)
def test_a_run_that_another_replaces_and_one_whose_kernel_is_killed_are_broken_off(
    finished, kernel, tmp_path
):
    kernel.run("start")
    replaced = kernel.last()
    kernel.run("start")
    found = read_results(replaced)
    assert found["status"] == "interrupted"
    assert "another run was started in its place" in found["error"]["message"]
    folder = kernel.last()
    kernel.run("work", SHOWS)
    kernel.run("long", "time.sleep(600)", reply=False)
    wait_for_cell(folder, "time.sleep(600)")
    assert read_run(folder)["status"] == "running"
    kernel.manager.provisioner.process.send_signal(signal.SIGKILL)
    psutil.wait_procs([psutil.Process(kernel.manager.provisioner.pid)], timeout=60)
    assert read_results(folder)["status"] == "running", "nobody could write more"
    run = read_run(folder)
    about = {"type": "Interrupted", "cell": 4, "heading": "The long part"}
    assert run["status"] == "interrupted" and about.items() <= run["error"].items()
    assert run["finished"] >= run["started"] and run["metrics"] == {"next_token_ms": 2.5}
    pages.write_index(kernel.outputs)
    said = (kernel.outputs / "index.html").read_text("utf-8")
    assert "in “The long part”, cell 4" in said
    page = page_of(folder).get_text(" ", strip=True)
    assert "broken off" in page and "second state" in page and "2.50" in page
    (folder / "report.html").unlink()
    made = CliRunner().invoke(cli, ["report", "--from", str(folder)])
    assert made.exit_code == 0 and (folder / "report.html").is_file(), made.output
    assert open_run(folder).results["status"] == "interrupted"
    (told,) = history.histories(kernel.outputs)
    assert told.left_out["broken off"] == 2


def wait_for_cell(folder: Path, source: str) -> None:
    """Wait until the record has a cell that runs."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        book = json.loads((folder / "notebook.ipynb").read_text("utf-8"))
        states = [
            cell["metadata"].get("papermill", {}).get("status")
            for cell in book["cells"]
            if "".join(cell["source"]) == source
        ]
        if "running" in states:
            return
        time.sleep(0.2)
    raise AssertionError("the cell that runs was not recorded")
