"""Headless runs: every way a notebook can end leaves results, an offline report and the right exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import papermill
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from nbformat import v4

from neoxlib.__main__ import cli
from neoxlib.compare import Pair, latest
from neoxlib.errors import ParameterError
from neoxlib.workbook import arguments, headless, pages, reasons
from neoxlib.workbook import results as workbook_results
from neoxlib.workbook.past_run import open_run
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

TITLE = "# Does it <i>run</i>?\n\nA [link](https://example.org) and ![a picture](https://example.org/x.png).\n\n## Part"


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """One notebook for each way to end."""
    folder = tmp_path_factory.mktemp("books")
    ends = {
        "fine": (FIGURE, STREAM + TABLE, "run.stop_if_plan_only()", "run.finish()"),
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
    """All of them in one go: the exit code and what was said, and per notebook its folder, results and page.

    The kernel that is installed by the name python3 is a broken one: reports run the Python that makes them.
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
    assert said.exit_code == headless.CELL_FAILED
    statuses = {name: results["status"] for name, (_, results, _) in runs.items()}
    assert statuses == {
        "fine": "ok",
        "raises": "failed",
        "doubts": "check-failed",
        "dies": "failed",
    }
    lines = said.output.strip().splitlines()
    assert lines[-1] == str(outputs / "index.html")
    assert [line.split()[0] for line in lines[-5:-1]] == list(statuses.values())


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


def test_a_run_that_does_not_end_well_says_why_and_where_more_is_told(ran):
    said, _, runs = ran
    folder = runs["raises"][0]
    assert "  RankError in cell 5: rank 1 of 2 died\n" in said.output
    log = folder / "logs" / "rank1.log"
    page = folder / "report.html"
    assert f"  log: {log}\n  report: {page}\n" in said.output
    assert "  CheckFailed: top-1 agreement: 96 %\n" in said.output
    assert "  DeadKernelError in cell 4: The notebook's process ended without" in said.output
    assert "    last words\n" in said.output
    assert said.output.count("  report: ") == 3, "none of the run that went well"


def test_of_a_long_error_the_last_lines_are_said(tmp_path, outputs):
    cell = "raise ValueError('first\\n' + 'and\\n' * 99 + 'last')"
    path = write(tmp_path, "long", "seed: int = 0  # s", cell)
    said = CliRunner().invoke(cli, ["report", path], catch_exceptions=False).output
    assert "ValueError in cell 2: first\n    …\n    and\n" in said
    assert "    last\n  report: " in said
    assert said.count("    and\n") == reasons.LAST_LINES - 1


def test_results_keep_what_was_known_before_the_failure(ran):
    _, results, _ = ran[2]["raises"]
    assert results["metrics"] == {"first_token_ms": 2.5} and results["checks"][0]["passed"]
    error = results["error"]
    assert (error["type"], error["message"], error["cell"]) == ("RankError", "rank 1 of 2 died", 5)
    assert results["finished"] and results["seconds"] > 0


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
    assert page.select_one("h1 .badge").text == "check failed" and not page.select_one(".cause")
    assert "FAIL" in page.text and "top-1 agreement" in page.text


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
            "</pre><script>alert(2)</script>"
            in page.select_one("#parameters").find_next("td").find_next("td").text
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
    assert (
        "first_token_ms" in page.select_one(".metrics").text
        and "2.5" in page.select_one(".metrics").text
    )
    assert "PASS" in page.select_one("#checks").find_next("table").text
    assert "月亮" in page.select_one("main figure svg").text, (
        "figures are inline and their text is text"
    )
    assert "月亮" in page.select_one("#parameters").find_next("table").text
    assert all("open" not in part.attrs for part in page.select("details.code")), "code is folded"
    assert page.select_one(".contents a")["href"] == "#" + page.select_one("main h2")["id"]
    assert (
        len(page.select(".times tr")) == 7
        and page.select_one("#environment").find_next("td").text == "cpu"
    )


def test_streamed_text_is_one_piece_and_a_progress_bar_its_last_state(ran):
    page = BeautifulSoup(ran[2]["fine"][2], "html.parser")
    assert [part.text.strip() for part in page.select("main .output_stream pre")] == [
        "The moon turns",
        "100 %",
    ]


def test_links_of_the_index_lead_to_files(ran):
    _, outputs, runs = ran
    page = BeautifulSoup((outputs / "index.html").read_text(encoding="utf-8"), "html.parser")
    links = [a["href"] for a in page.select("table a")]
    assert len(links) == 3 * len(runs) and all((outputs / link).is_file() for link in links)
    rows = [row.text for row in page.select("tbody tr")]
    assert "dies" in rows[0] and "fine" in rows[-1], "newest first"
    assert "月亮" in rows[0] and "first_token_ms" in rows[-1]


def test_index_shows_broken_and_partial_folders(tmp_path):
    for name, content in {
        "a": None,
        "b": "{",
        "c": "[]",
        "d": '{"metrics": 3}',
        "e": '{"status": "running"}',
    }.items():
        folder = tmp_path / "02_inference" / name
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "results.json").write_text(content, encoding="utf-8")
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert [badge.text for badge in page.select("td .badge")] == ["running", *["broken"] * 4]
    assert "no results.json" in page.select("tbody tr")[-1].text


def nested(depth):
    return b'{"status": "ok", "metrics": {"a": ' + b"[" * depth + b"]" * depth + b"}}"


DAMAGED = {
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "null": b"null",
    "empty": b"",
    "binary": bytes(range(256)),
    "half": b'{"status": "ok", "metr',
    "deep": nested(100_000),
    "deeper than shown": nested(400),
    "error is text": b'{"status": "failed", "error": "x"}',
    "checks of text": b'{"checks": ["x"]}',
    "given of lists": b'{"given": [["x"]]}',
    "status is none": b'{"status": null}',
    "long number": b'{"seconds": ' + b"9" * 5000 + b"}",
}
ODD = {
    "no files": b'{"status": "ok", "notebook": "02_inference"}',
    "bare": b'{"status": "ok", "given": ["gone"]}',
    "nameless check": b'{"status": "check-failed", "checks": [{"passed": false}]}',
    "error": b'{"error": {}}',
    "half a character": b'{"status": "ok", "metrics": {"\\ud800": "\\udfff"}, "given": ["\\ud800"]}',
}


def damaged(root, contents):
    for name, content in contents.items():
        folder = root / "02_inference" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_bytes(content)
    return root


@pytest.mark.parametrize("name", DAMAGED)
def test_index_and_comparison_survive_a_damaged_run_and_name_it(name, tmp_path, capsys):
    damaged(tmp_path, {name: DAMAGED[name]} | dict.fromkeys(("1", "2"), ODD["no files"]))
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    rows = {row.select_one("small").text: row.text for row in page.select("tbody tr")}
    assert (
        "broken" in rows[name]
        and "cannot be read: " in rows[name]
        and "broken" not in rows["1"] + rows["2"]
    )
    pair = latest(tmp_path)
    assert (pair.a.folder.name, pair.b.folder.name) == ("1", "2")
    said = capsys.readouterr().out
    assert (
        said.startswith("Left out: ") and f"{name}/results.json" in said and said.count("\n") == 1
    )


@pytest.mark.parametrize("name", ODD)
def test_results_that_lack_something_are_shown_with_what_they_have(name, tmp_path):
    damaged(tmp_path, {"1": ODD[name], "2": ODD["no files"]})
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert len(page.select("tbody tr")) == 2 and "cannot be read" not in page.text
    if name != "error":  # which has no status either
        pair = Pair(*(open_run(tmp_path / "02_inference" / run) for run in "12"))
        for view in (pair.names, pair.parameters, pair.environment, pair.accuracy, pair.speed):
            assert repr(view)


@pytest.mark.parametrize(
    "name", ["a#b", "a?b", "50%", "a b", "a'b", 'a"b', "a&amp;b", "<b>", "月亮", "a:b", "%41"]
)
def test_links_lead_to_runs_of_notebooks_of_any_name(name, tmp_path):
    folder = tmp_path / name / "1"
    folder.mkdir(parents=True)
    for file, content in (
        ("results.json", '{"status": "ok"}'),
        ("notebook.ipynb", BOOK),
        ("x#y.csv", "a\n"),
    ):
        (folder / file).write_text(content, encoding="utf-8")
    report_page = BeautifulSoup(
        pages.write_report(folder).read_text(encoding="utf-8"), "html.parser"
    )
    index = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert name in index.select_one("tbody b").text
    for page, place in (
        (index.select_one("tbody"), tmp_path / "index.html"),
        (report_page, folder / "report.html"),
    ):
        links = [urljoin(place.as_uri(), a["href"]) for a in page.select("td a, .files a")]
        paths = [
            Path(unquote(urlsplit(link).path)) for link in links if not urlsplit(link).fragment
        ]
        assert len(paths) == len(links) == 3 and all(path.is_file() for path in paths), links


def test_a_name_whose_bytes_are_no_text_breaks_neither_index_nor_links(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "1"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"status": "ok"}', encoding="utf-8")
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert page.select_one("tbody td:last-child a")["href"] == "caf%E9/1/results.json"


@pytest.mark.filterwarnings(
    "ignore:the file is not specified with any extension"
)  # papermill, of a ? in a name
def test_a_notebook_of_an_odd_name_runs_and_is_linked(tmp_path, outputs):
    path = write(tmp_path, "a#b? 50% 'q' 月", "seed: int = 0  # s", "print(seed)")
    said = CliRunner().invoke(cli, ["report", path, "-p", "seed", "3"], catch_exceptions=False)
    assert said.exit_code == 0
    page = BeautifulSoup((outputs / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert all((outputs / unquote(a["href"])).is_file() for a in page.select("tbody a"))


def test_index_of_no_runs_says_so(tmp_path):
    assert "No run yet" in pages.write_index(tmp_path / "outputs").read_text(encoding="utf-8")


# --- before a kernel starts


def refused(books, *given):
    said = CliRunner().invoke(
        cli, ["report", books["fine"], books["raises"], *given], catch_exceptions=False
    )
    assert said.exit_code == headless.BAD_PARAMETERS and not said.stdout
    return said.stderr


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def test_unknown_names_and_wrong_types_are_listed_together_and_start_nothing(books, outputs):
    said = refused(
        books, "-p", "wrold_size", "4", "-p", "colur", "blue", "-p", "plan_only", "perhaps"
    )
    assert (
        "wrold_size: unknown parameter; did you mean world_size? known are colour, plan_only, prompts"
        in said
    )
    assert "colur: unknown parameter; did you mean colour?" in said
    assert "plan_only: found 'perhaps', which is str, expected bool" in said
    assert not outputs.exists() and "Traceback" not in said


def test_values_out_of_range_are_refused(books, outputs):
    assert "world_size: found 0, expected 1 or more" in refused(books, "-p", "world_size", "0")
    assert "world_size: found 'two', which is str, expected int" in refused(
        books, "-p", "world_size", "two"
    )


def test_unknown_notebooks_and_presets_are_refused_with_what_there_is(books, outputs, tmp_path):
    said = CliRunner().invoke(cli, ["report", "05_dance"])
    assert said.exit_code == 2 and "no notebook '05_dance'" in said.stderr
    assert "no preset 'nope'" in refused(books, "-f", "nope")
    (tmp_path / "list.yaml").write_text("[1]", encoding="utf-8")
    assert "holds list, expected lines of the form name: value" in refused(
        books, "-f", str(tmp_path / "list.yaml")
    )
    (tmp_path / "typo.yaml").write_text("wrold_size: 2", encoding="utf-8")
    assert "did you mean world_size" in refused(books, "-f", str(tmp_path / "typo.yaml"))


@pytest.mark.parametrize(
    ("notebook", "given", "told"),
    [
        (
            "02_inference",
            {"temperature": "inf"},
            ["temperature: found inf, expected a finite figure"],
        ),
        ("02_inference", {"temperature": "nan", "top_p": "0"}, ["found nan", "top_p: found 0"]),
        ("02_inference", {"repetition_penalty": "0"}, ["repetition_penalty: found 0"]),
        ("01_shard", {"world_size": "3", "device": "npu"}, ["heads cannot be cut", "'npu' cannot"]),
        ("04_profile", {"max_seq_len": "5000", "plan_only": "true"}, ["max_seq_len is 5000, "]),
        ("04_profile", {"max_slowdown": "-inf"}, ["max_slowdown: found -inf"]),
        ("00_setup", {"world_size": "3"}, ["world_size may be 1, 2, 4, 8"]),
        (
            "03_ceval",
            {"subjects": "[animal]", "cluster_profile": "gone"},
            ["'animal' is", "'gone' is"],
        ),
        ("03_ceval", {"profile": "vendor", "mode": "cot"}, ["mode 'cot' is not known for profile"]),
    ],
)
def test_what_model_exam_and_machine_rule_out_is_refused_before_a_kernel_starts(
    outputs, notebook, given, told
):
    pairs = [text for pair in given.items() for text in ("-p", *pair)]
    said = CliRunner().invoke(cli, ["report", notebook, *pairs], catch_exceptions=False)
    assert said.exit_code == headless.BAD_PARAMETERS and not said.stdout and not outputs.exists()
    assert [line for line in told if line not in said.stderr] == []


def test_a_model_without_weights_is_refused_before_a_kernel_starts(outputs, checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    said = CliRunner().invoke(cli, ["report", "02_inference", "-p", "model_dir", str(tmp_path)])
    assert said.exit_code == headless.BAD_PARAMETERS and not outputs.exists()
    assert "model.safetensors" in said.stderr


def test_a_name_that_no_file_can_have_is_a_bad_parameter(books, outputs):
    assert "no preset 'xxx" in refused(books, "-f", "x" * 5000)
    said = CliRunner().invoke(cli, ["report", "02_inference", "-p", "model_dir", "x" * 5000])
    assert said.exit_code == headless.BAD_PARAMETERS and "File name too long" in said.stderr


def test_a_request_that_turns_out_not_to_be_servable_is_a_bad_parameter(tmp_path, outputs):
    cells = "from neoxlib.errors import SettingsError", "raise SettingsError('too long')"
    path = write(tmp_path, "late", "seed: int = 0  # s", *cells)
    assert headless.report([path], [], [], say=print) == headless.BAD_PARAMETERS


def test_later_values_win_and_go_only_to_notebooks_that_take_them(tmp_path):
    paths = [
        arguments.find(write(tmp_path, "one", PARAMETERS)),
        arguments.find(write(tmp_path, "two", "seed: int = 0  # s")),
    ]
    presets = [{"world_size": 4, "seed": 1}, {"world_size": 8, "case_pair": [[1, 2]]}]
    one, two = arguments.prepare(paths, presets, [("seed", "3"), ("colour", "1e5")])
    assert one.given == {"world_size": 8, "colour": "1e5"} and two.given == {"seed": 3}


def test_null_in_a_preset_means_the_default(tmp_path):
    (job,) = arguments.prepare(
        [arguments.find(write(tmp_path, "one", PARAMETERS))], [{"prompts": None}], []
    )
    assert job.given == {"prompts": []}


def test_parameters_cell_may_use_any_annotation(tmp_path):
    cell = 'a: int | None = None  # x = y\nb: "list[str]" = ["#"]  # z\nc = 3\n'
    write(tmp_path, "one", cell)
    declared = arguments.declared_in(tmp_path / "one.ipynb")
    assert {name: param.default for name, param in declared.items()} == {"a": None, "b": ["#"]}
    with pytest.raises(ParameterError, match="b: found 3, which is int, expected list"):
        arguments.prepare([tmp_path / "one.ipynb"], [{"b": 3}], [])


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content, encoding="utf-8")
    said = CliRunner().invoke(cli, ["report", str(tmp_path / "x.ipynb")])
    assert said.exit_code == 2 and "is no notebook" in said.stderr


def test_a_parameters_cell_that_computes_is_refused(tmp_path):
    """papermill would keep a derived value when the one that it is derived from is given."""
    said = CliRunner().invoke(
        cli, ["report", write(tmp_path, "one", "seed: int = 2 + len([])  # s")]
    )
    assert said.exit_code == 2 and "plain parameters" in said.stderr


# --- other ways to run


def test_plain_papermill_makes_its_own_run_folder(books, outputs, tmp_path):
    papermill.execute_notebook(
        books["fine"], tmp_path / "out.ipynb", {"plan_only": True}, progress_bar=False
    )
    (folder,) = (outputs / "fine").iterdir()
    results = workbook_results.read_results(folder)
    assert results["status"] == "ok" and results["given"] == ["plan_only"]


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


def test_a_cell_that_takes_too_long_is_told(tmp_path, outputs):
    path = write(tmp_path, "slow", "seed: int = 0  # s", "import time; time.sleep(60)")
    said = CliRunner().invoke(cli, ["report", path, "--timeout", "1"], catch_exceptions=False)
    assert said.exit_code == headless.CELL_FAILED
    (folder,) = (outputs / "slow").iterdir()
    results = workbook_results.read_results(folder)
    assert results["error"]["type"] == "CellTimeoutError" and results["parameters"] == {"seed": 0}


def test_a_kernel_looks_into_the_working_directory_last(tmp_path, outputs, monkeypatch):
    (tmp_path / "random.py").write_text("raise ImportError('not the one you want')\n")
    (tmp_path / "helpers.py").write_text("", encoding="utf-8")
    cell = "import helpers, random; random.random()"
    path = write(tmp_path, "imports", "seed: int = 0  # s", cell)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    assert headless.report([path], [], [], say=print) == headless.OK


# --- disks


def test_outputs_that_cannot_be_written_are_refused_before_a_kernel_starts(books, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "there")
    for place in ("file", "file/below", "dangling"):
        asked = ["report", books["fine"], "--outputs", str(tmp_path / place)]
        said = CliRunner().invoke(cli, asked)
        assert said.exit_code == headless.BAD_PARAMETERS and said.stdout == "", place
        (line,) = said.stderr.splitlines()
        assert line.startswith("ParameterError: no run can be written to")
    assert (tmp_path / "file").read_text() == "mine"


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
    assert done.returncode == headless.CELL_FAILED and "Traceback" not in done.stderr, done.stderr
    assert "cannot be written: [Errno 27] File too large" in done.stdout
    (folder,) = (tmp_path / "outputs" / "prints").iterdir()
    nbformat.read(folder / "notebook.ipynb", as_version=4)
    assert workbook_results.read_results(folder)["status"] == "failed" and not list(
        folder.glob("*.part")
    )
