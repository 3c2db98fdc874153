"""The commands about notebooks: names, listings, copies."""

import json
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.setup import notebook_commands
from neoxlib.workbook import arguments
from neoxlib.workbook.parameter_table import NOTEBOOKS, PARAMETERS
from tests.support.small_notebooks import start, write


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args], catch_exceptions=False)


def test_the_help_of_report_names_every_notebook_and_exit_code():
    said = run("report", "--help").output
    assert notebook_commands.NAMES.split() == list(NOTEBOOKS)
    assert not [name for name in NOTEBOOKS if name not in said]
    assert not [code for code in (0, 1, 2, 3, 4, 130, 143, 129) if f"{code}" not in said]


@pytest.mark.parametrize("name", ["04", "04_prof", "profile"])
def test_parameters_of_a_notebook_are_listed_with_their_defaults_and_the_presets(name):
    said = run("parameters", name)
    lines = said.output.splitlines()
    assert said.exit_code == 0 and lines[0] == "04_profile"
    blank = lines.index("")
    assert sorted(line.split()[0] for line in lines[2:blank]) == sorted(NOTEBOOKS["04_profile"])
    (row,) = [line for line in lines if line.startswith("repeats ")]
    assert row.split()[:3] == ["repeats", "int", "6"] and row.endswith(PARAMETERS["repeats"].help)
    assert [line.split()[0] for line in lines[blank + 2 :]] == arguments.all_presets()
    (preset,) = [line for line in lines if line.startswith("910b3-tp8 ")]
    assert preset.endswith("device npu, world_size 8, dtype float16, max_seq_len 2048")


def test_parameters_of_all_notebooks_are_listed_without_a_name():
    said = run("parameters").output
    assert [line for line in said.splitlines() if line in NOTEBOOKS] == list(NOTEBOOKS)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("0", "'0' is the beginning of 7 notebooks: 00_setup, 01_shard"),
        ("s", "'s' is the beginning of 2 notebooks: 00_setup, 01_shard\n"),
        ("04_profle", "no notebook '04_profle'; did you mean '04_profile'? in"),
        ("", "no notebook ''; in"),
    ],
)
def test_a_name_that_is_none_or_many_is_told_with_what_there_is(name, told):
    for command in ("parameters", "report"):
        said = run(command, name)
        assert said.exit_code == 2 and said.stdout == "" and told in said.stderr


def test_notebooks_are_copied_once_and_never_replaced(tmp_path: Path):
    said = run("copy-notebooks", tmp_path / "new" / "books")
    files = sorted(path for path in (tmp_path / "new" / "books").rglob("*") if path.is_file())
    assert said.exit_code == 0 and len(files) == 7 + len(arguments.all_presets())
    files[0].write_text("mine")
    again = run("copy-notebooks", tmp_path / "new" / "books")
    assert again.output.startswith("0 files were copied") and files[0].read_text() == "mine"
    assert run("copy-notebooks", files[0]).exit_code == 2


def test_an_edited_copys_defaults_are_its_own(tmp_path: Path):
    run("copy-notebooks", tmp_path)
    path = tmp_path / "04_profile.ipynb"
    path.write_text(path.read_text().replace("world_size: int = 2", "world_size: int = 4"))
    assert arguments.declared_in(path)["world_size"].default == 4
    assert [job.values["world_size"] for job in arguments.asked([str(path)], [], [])] == [4]


def test_a_copy_in_chinese_has_the_same_code_and_its_reports_are_in_chinese(tmp_path: Path):
    assert run("copy-notebooks", tmp_path, "--lang", "zh").exit_code == 0
    for path in arguments.all_notebooks():
        pair = [nbformat.read(one, as_version=4).cells for one in (path, tmp_path / path.name)]
        for ours, its in zip(*pair, strict=True):
            if ours.cell_type == "markdown":
                assert re.search(r"[\u4e00-\u9fff]", its.source), path.name
            elif "parameters" not in ours.metadata.get("tags", ()):
                assert its.source == ours.source
        values, told = (
            {name: one.default for name, one in arguments.declared_in(book).items()}
            for book in (path, tmp_path / path.name)
        )
        assert told == values | {"lang": "zh"}


def test_a_folder_named_notebooks_without_ours_is_somebody_elses(tmp_path: Path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "holiday.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert arguments.notebooks_folder() == arguments.SHIPPED.resolve()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A notebook with a check that failed and one with none, run with --json and --junit."""
    folder = tmp_path_factory.mktemp("runs")
    cells = {"good": 'run.verdict("All is well.")', "bad": 'run.check("enough", False, "2 of 3")'}
    books = [
        write(folder, name, "seed: int = 0  # s", start(name), cell, "run.finish()")
        for name, cell in cells.items()
    ]
    given = ["--outputs", folder / "outputs", "--json", "--junit", folder / "junit.xml"]
    return run("report", *books, *given), folder


def test_json_is_one_document_on_stdout_and_all_else_on_stderr(ran):
    said, _ = ran
    found = json.loads(said.stdout)
    assert said.exit_code == found["exit_code"] == 3 and found["meaning"] == "a check failed"
    verdicts = [(one["status"], one["exit_code"], one["verdict"]) for one in found["runs"]]
    assert verdicts == [("ok", 0, "All is well."), ("check-failed", 3, "")]
    pages = [found["index.html"], found["summary.md"], *(one["report"] for one in found["runs"])]
    assert all(Path(page).is_file() for page in pages)
    assert "notebook 2 of 2: bad" in said.stderr and "CheckFailed: enough: 2 of 3" in said.stderr


def test_junit_is_written_of_the_same_runs(ran):
    root = ElementTree.parse(ran[1] / "junit.xml").getroot()
    assert [suite.get("name") for suite in root] == ["good", "bad"]
    assert root.get("failures") == "1" and root.find(".//failure").get("message") == "2 of 3"


def test_a_refusal_is_in_junit_and_json_too(tmp_path):
    asked = ["report", "02", "-p", "world_size", "0", "--json", "--junit", tmp_path / "j.xml"]
    said = run(*asked)
    assert said.exit_code == 2 and "found 0" in said.stderr
    assert "found 0" in json.loads(said.stdout)["error"]
    assert "found 0" in ElementTree.parse(tmp_path / "j.xml").getroot().find(".//error").text
    nowhere = run("report", "02", "--junit", tmp_path / "none" / "j.xml")
    assert nowhere.exit_code == 2 and "there is no folder" in nowhere.stderr


@pytest.mark.parametrize(
    ("place", "why"), [("{}", "it is a folder"), ("/proc/j.xml", "cannot be written")]
)
def test_a_junit_file_that_cannot_be_written_is_refused_before_a_run(tmp_path, place, why):
    junit = place.format(tmp_path)
    said = run("report", "02", "--outputs", tmp_path / "runs", "--json", "--junit", junit)
    assert said.exit_code == 2 and f"--junit {junit}" in said.stderr and why in said.stderr
    assert why in json.loads(said.stdout)["error"] and not (tmp_path / "runs").exists()


def test_a_junit_file_on_a_full_disk_is_told_and_the_json_is_there(tmp_path):
    book = write(tmp_path, "good", "seed: int = 0  # s")
    asked = ["--outputs", tmp_path / "runs", "--json", "--junit", "/dev/full"]
    said = run("report", book, *asked)
    found = json.loads(said.stdout)
    why = "/dev/full cannot be written: No space left on device"
    assert said.exit_code == found["exit_code"] == 1 and found["runs"][0]["exit_code"] == 0
    assert found["error"] == why and said.stderr.endswith(f"\n{why}\n")


def test_the_page_of_a_run_and_the_index_are_made_anew(ran, tmp_path):
    shutil.copytree(ran[1] / "outputs", tmp_path / "outputs")
    (folder,) = (tmp_path / "outputs" / "good").iterdir()
    first = (folder / "report.html").read_bytes()
    for page in (folder / "report.html", tmp_path / "outputs" / "index.html"):
        page.unlink()
    for named in (folder, folder / "results.json"):
        said = run("report", "--from", named)
        assert said.exit_code == 0 and said.output == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_bytes() == first
    said = run("index", tmp_path / "outputs")
    assert said.output == f"{tmp_path / 'outputs' / 'index.html'}\n" and said.exit_code == 0
    assert "good" in (tmp_path / "outputs" / "index.html").read_text(encoding="utf-8")


def test_a_run_that_kept_no_notebook_has_a_page_of_its_results_and_figures(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.svg").write_text('<svg role="img" aria-label="seen"></svg>')
    os.mkfifo(tmp_path / "figures" / "b.svg")
    os.mkfifo(tmp_path / "notebook.ipynb")
    found = {"status": "interrupted", "metrics": {"next_token_ms": 2.5}}
    (tmp_path / "results.json").write_text(json.dumps(found))
    said = run("report", "--from", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said.exit_code == 0 and "2.50" in page and 'alt="seen"' in page
    assert "This run kept no notebook" in page


def test_what_is_no_run_and_no_folder_of_runs_is_refused(tmp_path):
    for asked in (["report", "--from", tmp_path], ["index", tmp_path / "none"]):
        said = run(*asked)
        assert said.exit_code == 2 and "is not " in said.stderr and said.stdout == ""
    for asked in (["--from", tmp_path, "02"], ["--from", tmp_path, "--json"]):
        assert run("report", *asked).exit_code == 2
