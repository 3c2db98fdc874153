"""The commands about notebooks: names, listings, copies."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.setup import notebook_commands
from neoxlib.workbook import arguments
from neoxlib.workbook.parameter_table import NOTEBOOKS, PARAMETERS


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
    assert sorted(line.split()[0] for line in lines[2:-2]) == sorted(NOTEBOOKS["04_profile"])
    (row,) = [line for line in lines if line.startswith("repeats ")]
    assert row.split()[:3] == ["repeats", "int", "6"] and row.endswith(PARAMETERS["repeats"].help)
    assert "910b3-tp8" in lines[-1]


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


def test_a_folder_named_notebooks_without_ours_is_somebody_elses(tmp_path: Path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "holiday.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert arguments.notebooks_folder() == arguments.SHIPPED.resolve()
