"""Names and values of a headless run: refused together, before a kernel starts."""

import shutil

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.errors import ParameterError
from neoxlib.workbook import arguments, ci_files
from tests.support.small_notebooks import start, write

PARAMETERS = """\
world_size: int = 2  # ranks
prompts: list = []  # texts
plan_only: bool = False  # stop
colour: str = "red"  # known to this notebook alone"""


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """Two notebooks with the same parameters."""
    folder = tmp_path_factory.mktemp("books")
    return {name: write(folder, name, PARAMETERS, start(name)) for name in ("fine", "raises")}


def refused(books, *given):
    said = CliRunner().invoke(
        cli, ["report", books["fine"], books["raises"], *given], catch_exceptions=False
    )
    assert said.exit_code == ci_files.BAD_PARAMETERS and not said.stdout
    return said.stderr


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def test_unknown_names_and_wrong_types_are_listed_together_and_start_nothing(books, outputs):
    said = refused(
        books, "-p", "wrold_size", "4", "-p", "colur", "blue", "-p", "plan_only", "perhaps"
    )
    known = "did you mean 'world_size'? known are colour, plan_only, prompts"
    assert f"wrold_size: unknown parameter; {known}" in said
    assert "colur: unknown parameter; did you mean 'colour'?" in said
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
    assert "did you mean 'world_size'" in refused(books, "-f", str(tmp_path / "typo.yaml"))


@pytest.mark.parametrize(
    ("notebook", "given", "told"),
    [
        (
            "02_inference",
            {"temperature": "inf"},
            ["temperature: found inf, expected a finite figure"],
        ),
        ("02_inference", {"temperature": "nan", "top_p": "0"}, ["found nan", "top_p: found 0"]),
        ("02_inference", {"temperature": "1" * 400}, ["temperature: found a number of 400 digits"]),
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
    assert said.exit_code == ci_files.BAD_PARAMETERS and not said.stdout and not outputs.exists()
    assert [line for line in told if line not in said.stderr] == []


def test_a_model_without_weights_is_refused_before_a_kernel_starts(outputs, checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    said = CliRunner().invoke(cli, ["report", "02_inference", "-p", "model_dir", str(tmp_path)])
    assert said.exit_code == ci_files.BAD_PARAMETERS and not outputs.exists()
    assert "model.safetensors" in said.stderr


def test_a_name_that_no_file_can_have_is_a_bad_parameter(books, outputs):
    assert "no preset 'xxx" in refused(books, "-f", "x" * 5000)
    said = CliRunner().invoke(cli, ["report", "02_inference", "-p", "model_dir", "x" * 5000])
    assert said.exit_code == ci_files.BAD_PARAMETERS and "File name too long" in said.stderr


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
