"""Single headless runs: odd names, long errors, time limits and full disks."""

import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote
from xml.etree import ElementTree

import nbformat
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from nbclient import NotebookClient
from nbformat import v4

from neoxlib.__main__ import cli
from neoxlib.workbook import ci_files, headless, pages, terminal
from neoxlib.workbook import results as workbook_results
from tests.support.small_notebooks import start, write


def test_of_a_long_error_the_last_lines_are_said(tmp_path, outputs):
    cell = "raise ValueError('first\\n' + 'and\\n' * 99 + 'last')"
    path = write(tmp_path, "long", "seed: int = 0  # s", cell)
    said = CliRunner().invoke(cli, ["report", path], catch_exceptions=False).output
    assert "ValueError in cell 2: first\n    …\n    and\n" in said
    # a slow kernel may have written a log, which is named first
    assert re.search(r"^    last\n(  log: .*\n)?  report: ", said, re.M), said
    assert said.count("    and\n") == terminal.LAST_LINES - 1


@pytest.mark.filterwarnings(
    "ignore:the file is not specified with any extension"
)  # papermill, of a ? in a name
def test_a_notebook_of_an_odd_name_runs_and_is_linked(tmp_path, outputs):
    path = write(tmp_path, "a#b? 50% 'q' 月", "seed: int = 0  # s", "print(seed)")
    said = CliRunner().invoke(cli, ["report", path, "-p", "seed", "3"], catch_exceptions=False)
    assert said.exit_code == 0
    page = BeautifulSoup((outputs / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert all((outputs / unquote(a["href"])).is_file() for a in page.select("tbody a"))


def test_a_request_that_turns_out_not_to_be_servable_is_a_bad_parameter(tmp_path, outputs):
    cells = "from neoxlib.errors import SettingsError", "raise SettingsError('too long')"
    path = write(tmp_path, "late", "seed: int = 0  # s", *cells)
    assert headless.report([path], [], [], say=print) == ci_files.BAD_PARAMETERS


def test_cells_after_plan_only_are_shown_as_skipped_and_the_stop_is_not_shown(tmp_path):
    nb = v4.new_notebook(
        cells=[v4.new_code_cell("run.stop_if_plan_only()"), v4.new_code_cell("session.work()")]
    )
    stop = v4.new_output("error", ename="SystemExit", evalue="0", traceback=["x"])
    nb.cells[0].update(execution_count=1, outputs=[stop])
    nbformat.write(nb, tmp_path / "notebook.ipynb")
    results = {"status": "ok", "parameters": {"plan_only": True}}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    text = pages.write_report(tmp_path).read_text(encoding="utf-8")
    assert "skipped because of plan_only" in text and "SystemExit" not in text


def test_a_cell_that_takes_too_long_is_told(tmp_path, outputs, monkeypatch):
    """Only the cell that waits has a limit: the others may take long on a busy machine."""
    limit = NotebookClient._get_timeout
    waits = "sleep"
    monkeypatch.setattr(
        NotebookClient,
        "_get_timeout",
        lambda client, cell: limit(client, cell) if cell and waits in cell.source else None,
    )
    path = write(tmp_path, "slow", "seed: int = 0  # s", "import time; time.sleep(60)")
    said = CliRunner().invoke(cli, ["report", path, "--timeout", "1"], catch_exceptions=False)
    assert said.exit_code == ci_files.FAILED
    (folder,) = (outputs / "slow").iterdir()
    results = workbook_results.read_results(folder)
    assert results["error"]["type"] == "CellTimeoutError" and results["parameters"] == {"seed": 0}


def test_a_kernel_never_imports_from_the_current_folder(tmp_path, outputs, monkeypatch):
    for name in ("random", "torch_npu", "beside"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not the one you want')\n")
    cell = (
        "import importlib.util, random; random.random()\n"
        "assert importlib.util.find_spec('beside') is None"
    )
    path = write(tmp_path, "imports", "seed: int = 0  # s", cell)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    assert headless.report([path], [], [], say=print) == ci_files.OK


FULL = """
import resource, sys
from neoxlib.__main__ import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # a report is larger
cli(["report", *sys.argv[1:]])
"""


def test_a_disk_that_fills_up_is_one_message_and_leaves_nothing_half_written(tmp_path):
    path = write(tmp_path, "prints", "seed: int = 0  # s", "print('x' * 30000)")
    command = [sys.executable, "-c", FULL, path, "--outputs", str(tmp_path / "outputs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == ci_files.FAILED and "Traceback" not in done.stderr, done.stderr
    assert "/report.html cannot be written: File too large" in done.stderr
    (folder,) = (tmp_path / "outputs" / "prints").iterdir()
    nbformat.read(folder / "notebook.ipynb", as_version=4)
    assert workbook_results.read_results(folder)["status"] == "failed" and not list(
        folder.glob("*.part")
    )


def test_a_run_whose_page_cannot_be_written_has_failed_everywhere(tmp_path):
    path = write(tmp_path, "fine", "seed: int = 0  # s", start("fine"), "run.finish()")
    asked = [path, "--outputs", tmp_path / "outputs", "--json", "--junit", tmp_path / "j.xml"]
    command = [sys.executable, "-c", FULL, *map(str, asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    said = json.loads(done.stdout)
    (folder,) = (tmp_path / "outputs" / "fine").iterdir()
    why = f"{folder / 'report.html'} cannot be written: File too large"
    (run,) = said["runs"]
    assert done.returncode == said["exit_code"] == run["exit_code"] == ci_files.FAILED
    assert (run["status"], run["error"]["message"], run["report"]) == ("failed", why, None)
    assert workbook_results.read_results(folder)["error"]["message"] == why
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert root.get("errors") == "1" and root.find(".//error").get("message") == why
    summary = (tmp_path / "outputs" / "summary.md").read_text(encoding="utf-8")
    assert "0 of 1 notebooks went well" in summary and "cannot be written" in summary
    assert f"  OSError: {why}\n" in done.stderr and f"{'failed':<14}{folder}\n" in done.stderr
    index = tmp_path / "outputs" / "index.html"  # larger than that limit as well
    assert f"{index} cannot be written: File too large" == said["error"] and not index.exists()
    assert said["index.html"] is None and not done.stderr.endswith(f"{index}\n")


def test_a_run_whose_folder_is_deleted_has_failed_and_no_page_of_it_is_named(tmp_path):
    deletes = "import shutil; shutil.rmtree(run.folder)"
    path = write(tmp_path, "gone", "seed: int = 0  # s", start("gone"), deletes)
    asked = ["report", path, "--outputs", str(tmp_path / "outputs"), "--json"]
    said = CliRunner().invoke(cli, asked, catch_exceptions=False)
    (run,) = json.loads(said.stdout)["runs"]
    assert said.exit_code == run["exit_code"] == ci_files.FAILED and run["error"]["message"]
    assert run["report"] is None and "report.html" not in said.stderr.rpartition("\n\n")[2]
    assert f"\n{'failed':<14}gone\n" in said.stderr


def test_a_check_that_cannot_be_judged_has_an_exit_code_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = ('run.check("no case is slower", None, "load 2.3 on 2 cores")', "run.finish()")
    book = write(tmp_path, "unsure", "# Fast?", "world_size: int = 2", start("unsure"), *cells)
    asked = ["report", str(book), "--outputs", str(tmp_path / "outputs")]
    said = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert said.exit_code == 4
    assert "NotJudged: no case is slower: load 2.3 on 2 cores" in said.output


@pytest.mark.parametrize("out", ["pipe", "full"])
def test_a_report_goes_on_where_its_output_cannot_be_written(tmp_path, out):
    cells = 'run.check("enough", False, "2 of 3")', "run.finish()"
    path = write(tmp_path, "bad", "seed: int = 0  # s", start("bad"), *cells)
    command = [sys.executable, "-m", "neoxlib", "report", path, "--outputs", tmp_path / "outputs"]
    with _closed_pipe() if out == "pipe" else open("/dev/full", "w") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    (folder,) = (tmp_path / "outputs" / "bad").iterdir()
    assert done.returncode == ci_files.CHECK_FAILED and "Traceback" not in done.stderr, done.stderr
    assert ("standard output cannot be" in done.stderr) == (out == "full")
    assert "CheckFailed: enough: 2 of 3" in done.stderr and "Broken pipe" not in done.stderr
    assert workbook_results.read_results(folder)["status"] == "check-failed"
    pages_made = (folder / "report.html", *(tmp_path / "outputs").glob("*.*"))
    assert {path.name for path in pages_made} == {"report.html", "index.html", "summary.md"}
    assert (folder / "report.html").is_file()


def _closed_pipe():
    """The end for writing of a pipe that nobody reads."""
    read, written = os.pipe()
    os.close(read)
    return os.fdopen(written, "w")
