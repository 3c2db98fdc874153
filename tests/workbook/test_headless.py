"""Headless runs: however a notebook ends, there are results, an offline report and an exit code."""

import json
from base64 import b64decode

import nbformat
import papermill
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.workbook import ci_files, kernel
from neoxlib.workbook import results as workbook_results
from tests.support.pages import Loads
from tests.support.small_notebooks import start, write

PARAMETERS = """\
world_size: int = 2  # ranks
prompts: list = []  # texts
plan_only: bool = False  # stop
colour: str = "red"  # known to this notebook alone"""

FIGURE = """\
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
ax.set_title("月亮")
run.figure("moon", fig)"""

STREAM = """\
import sys, time
for piece in ("The ", "moon ", "turns"):
    print(piece, end="", flush=True)
    time.sleep(0.05)
print("\\r 10 %\\r100 %", file=sys.stderr)
"""

ANSWER = 'run.verdict("It runs: \\x1b[2J.")\n'

TABLE = """\
import pandas as pd
run.metrics(first_token_ms=2.5)
run.check("parity", True, "1e-06 < 1e-04")
run.save("answers", pd.DataFrame({"text": ["<b>bold</b><script>alert(1)</script>"], "p": [0.5]}))"""

DIES_WITH_ITS_RANK = """\
from neoxlib.errors import RankError
(run.logs / "rank1.log").write_text("rank 1 says <boom>")
raise RankError("rank 1 of 2 died")"""

BOOK = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'

TITLE = """# Does it <i>run</i>?

A [link](https://example.org) and ![a picture](https://example.org/x.png).

## Part"""


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """One notebook for each way to end."""
    folder = tmp_path_factory.mktemp("books")
    ends = {
        "fine": (FIGURE, ANSWER + STREAM + TABLE, "run.stop_if_plan_only()", "run.finish()"),
        "raises": (TABLE, DIES_WITH_ITS_RANK, "run.finish()"),
        "doubts": ('run.check("top-1 agreement", False, "96 %")', "run.finish()"),
        "dies": ("import os; os.write(2, b'last words\\n'); os._exit(3)", "run.finish()"),
    }
    return {
        name: write(folder, name, TITLE, PARAMETERS, start(name), *cells)
        for name, cells in ends.items()
    }


@pytest.fixture(scope="module")
def ran(books, tmp_path_factory):
    """Run all of them: the exit code and output, and of each notebook its folder, results and page.

    The installed kernel python3 is a broken one: reports use the Python that makes them.
    """
    spec = tmp_path_factory.mktemp("jupyter") / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        '{"argv": ["false"], "display_name": "broken", "language": "python"}', encoding="utf-8"
    )
    outputs = tmp_path_factory.mktemp("a {brace}") / "outputs"
    given = [
        "-p",
        "prompts",
        '["月亮", "</pre><script>alert(2)</script>"]',
        "--outputs",
        str(outputs),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(spec.parents[2]))
        said = CliRunner().invoke(cli, ["report", *books.values(), *given], catch_exceptions=False)
    runs = {}
    for name in books:
        (folder,) = (outputs / name).iterdir()
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        runs[name] = (folder, results, (folder / "report.html").read_text(encoding="utf-8"))
    return said, outputs, runs


def test_exit_code_is_the_worst_and_all_were_run(ran):
    said, outputs, runs = ran
    assert said.exit_code == ci_files.FAILED
    statuses = {name: results["status"] for name, (_, results, _) in runs.items()}
    assert statuses == {
        "fine": "ok",
        "raises": "failed",
        "doubts": "check-failed",
        "dies": "failed",
    }
    *_, end = said.stdout.partition("\n\n")
    lines = end.splitlines()
    assert lines[-1] == str(outputs / "index.html")
    flush_left = [line.split(maxsplit=1) for line in lines[:-1] if not line.startswith(" ")]
    ends = [(status, str(runs[name][0] / "report.html")) for name, status in statuses.items()]
    assert list(map(tuple, flush_left)) == ends


def test_progress_is_one_plain_line_per_cell(ran):
    said, _, runs = ran
    lines = [line for line in said.output.splitlines() if line.startswith("  [")]
    assert lines[0].startswith("  [1/7] parameters … ") and "\r" not in said.output
    assert (
        sum("stopped" in line for line in lines) == 2
        and sum("broken off" in line for line in lines) == 1
    )
    cells = [
        cell for name in runs for cell in nbformat.read(runs[name][0] / "notebook.ipynb", 4).cells
    ]
    assert len(lines) == sum(cell.cell_type == "code" for cell in cells) - 2, (
        "all but the two after a failure"
    )


def test_the_answer_and_the_key_figures_stand_below_each_run_at_the_end(ran):
    said, _, runs = ran
    *_, end = said.stdout.partition("\n\n")
    folder = runs["fine"][0]
    first = f"{'ok':<14}{folder / 'report.html'}\n"
    assert end.startswith(first + f"{'':<14}It runs: ⟨U+001B⟩[2J.\n{'':<14}first token 2.50 ms\n")


def test_notebooks_are_counted_and_sections_named_as_they_are_reached(ran):
    said, _, runs = ran
    lines = said.stdout.splitlines()
    for number, name in enumerate(runs, start=1):
        place = lines.index(f"notebook {number} of 4: {name} → {runs[name][0]}")
        assert lines[place + 1] == "  Part" and lines[place + 2].startswith("  [1/")


def test_a_summary_for_a_ci_job_stands_beside_the_index(ran):
    _, outputs, _ = ran
    text = (outputs / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("## neoxlib: 1 of 4 notebooks went well\n")
    assert "| fine | ok | It runs: ⟨U+001B⟩\\[2J. | first token 2.50 ms | 1 of 1 passed |" in text
    assert "- **raises**: RankError: rank 1 of 2 died\n" in text
    assert "- **doubts**: CheckFailed: top-1 agreement: 96 %\n" in text


def test_a_run_that_does_not_end_well_says_why_and_where_more_is_told(ran):
    said, _, runs = ran
    folder = runs["raises"][0]
    assert "rank 1 of 2 died" not in said.stdout, "reasons go to stderr"
    assert "  RankError in cell 5: rank 1 of 2 died\n    rank 1 says <boom>\n" in said.stderr
    log = folder / "logs" / "rank1.log"
    page = folder / "report.html"
    assert f"  log: {log}\n  report: {page}\n" in said.output
    assert "  CheckFailed: top-1 agreement: 96 %\n" in said.output
    assert "  DeadKernelError in cell 4: The notebook's process ended without" in said.output
    assert "    last words\n" in said.output
    assert said.output.count("  report: ") == 3, "none of the run that went well"


def test_results_keep_what_was_known_before_the_failure(ran):
    _, results, _ = ran[2]["raises"]
    assert results["metrics"] == {"first_token_ms": 2.5} and results["checks"][0]["passed"]
    error = results["error"]
    assert (error["type"], error["message"], error["cell"]) == ("RankError", "rank 1 of 2 died", 5)
    assert results["finished"] and results["seconds"] >= 0


def test_results_hold_parameters_with_the_given_ones_named(ran):
    _, results, _ = ran[2]["fine"]
    assert (
        results["parameters"]["prompts"][0] == "月亮" and results["parameters"]["world_size"] == 2
    )
    assert results["given"] == ["prompts"] and results["schema_version"] == 1


def test_failed_report_opens_with_the_cause_and_the_logs(ran):
    page = BeautifulSoup(ran[2]["raises"][2], "html.parser")
    cause = page.select_one(".cause")
    assert (
        "RankError" in cause.h2.text
        and cause.h2.a["href"] == "#cell-5"
        and page.select_one("#cell-5")
    )
    assert "rank 1 of 2 died" in cause.text and "rank 1 says <boom>" in cause.text
    assert (
        "not run" in page.select_one("#cell-6").text
        and "Traceback" in page.select_one("#cell-5").text
    )
    assert "papermill-error-cell" not in ran[2]["raises"][2]


def test_a_dead_kernel_is_explained_at_its_cell(ran):
    _, results, text = ran[2]["dies"]
    assert (
        results["error"]["type"] == "DeadKernelError" and "os._exit" in results["error"]["source"]
    )
    assert (
        "ended without a Python error"
        in BeautifulSoup(text, "html.parser").select_one(".cause").text
    )


def test_failed_check_is_shown_as_such(ran):
    page = BeautifulSoup(ran[2]["doubts"][2], "html.parser")
    assert page.select_one(".verdict.bad .badge").text == "check failed"
    assert page.select_one(".said").text.endswith("Not met: top-1 agreement (96\xa0%)")
    assert (
        not page.select_one(".cause") and "top-1 agreement: no" in page.select_one("#checks").text
    )


def test_pages_load_and_run_nothing_from_elsewhere(ran):
    _, outputs, runs = ran
    pages_made = [text for *_, text in runs.values()] + [
        (outputs / "index.html").read_text(encoding="utf-8")
    ]
    for text in pages_made:
        loads = Loads(text)
        assert loads.found == [] and loads.scripts == 1, "only our own few lines run"
        assert "default-src 'none'" in text


def test_what_models_and_users_write_stays_text(ran):
    for *_, text in ran[2].values():
        page = BeautifulSoup(text, "html.parser")
        assert (
            "</pre><script>alert(2)</script>" in page.select_one("#parameters").find_next("td").text
        )
        assert "alert(" not in "".join(script.text for script in page.find_all("script"))
    fine = BeautifulSoup(ran[2]["fine"][2], "html.parser")
    assert any("<b>bold</b>" in cell.text for cell in fine.select("main td")) and not fine.select(
        "main td b"
    )
    assert fine.h1.i is None and "<i>run</i>" in fine.h1.text


def test_report_has_what_a_colleague_looks_for(ran):
    page = BeautifulSoup(ran[2]["fine"][2], "html.parser")
    assert (
        "2 ranks" in page.select_one(".what").text and "torch 2." in page.select_one(".what").text
    )
    card = page.select_one(".cards li")
    assert "first token" in card.text and "2.50 ms" in card.text
    assert "yes" in page.select_one("#checks li").text
    drawing = page.select_one("main figure img")
    svg = b64decode(drawing["src"].removeprefix("data:image/svg+xml;base64,")).decode()
    assert "月亮" in drawing["alt"] and "月亮" in svg, "figures are inline and their text is text"
    assert "月亮" in page.select_one("#parameters").find_next("table").text
    assert all("open" not in part.attrs for part in page.select("details.code")), "code is folded"
    assert page.select_one(".contents a")["href"] == "#" + page.select_one(".part h2")["id"]
    assert (
        len(page.select(".times tr")) == 7
        and page.select_one("#environment").find_next("td").text == "cpu"
    )


def test_streamed_text_is_one_piece_and_a_progress_bar_its_last_state(ran):
    page = BeautifulSoup(ran[2]["fine"][2], "html.parser")
    assert [part.text.strip() for part in page.select("main .output_stream pre")] == [
        "The moon turns\n100 %"
    ]


def test_links_of_the_index_lead_to_files(ran):
    _, outputs, runs = ran
    page = BeautifulSoup((outputs / "index.html").read_text(encoding="utf-8"), "html.parser")
    links = [a["href"] for a in page.select("table a")]
    assert len(links) == len(runs) and all((outputs / link).is_file() for link in links)
    rows = [row.text for row in page.select("tbody tr")]
    assert "dies" in rows[0] and "fine" in rows[-1], "newest first"
    assert "月亮" in rows[0] and "first token" in rows[-1]


def test_plain_papermill_makes_its_own_run_folder(books, outputs, tmp_path):
    papermill.execute_notebook(
        books["fine"], tmp_path / "out.ipynb", {"plan_only": True}, progress_bar=False
    )
    (folder,) = (outputs / "fine").iterdir()
    results = workbook_results.read_results(folder)
    assert results["status"] == "ok" and results["given"] == ["plan_only"]


def test_outputs_that_cannot_be_written_are_refused_before_a_kernel_starts(books, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "there")
    for place in ("file", "file/below", "dangling"):
        asked = ["report", books["fine"], "--outputs", str(tmp_path / place)]
        said = CliRunner().invoke(cli, asked)
        assert said.exit_code == ci_files.BAD_PARAMETERS and said.stdout == "", place
        (line,) = said.stderr.splitlines()
        assert line.startswith("ParameterError: no run can be written to")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_does_not_wait_for_a_kernel_that_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "STOPPED_SECONDS", 2)
    stops = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    book = write(tmp_path, "stops", TITLE, PARAMETERS, start("stops"), stops, "run.finish()")
    said = CliRunner().invoke(cli, ["report", str(book), "--outputs", str(tmp_path / "outputs")])
    why = "The notebook's process was stopped (by SIGSTOP or Ctrl-Z) for 2 s, so it was ended"
    assert said.exit_code == 1 and f"DeadKernelError in cell 3: {why}" in said.stderr
