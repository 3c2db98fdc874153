"""The run folder: parameters, results that survive, checks that count."""

import csv
import getpass
import inspect
import json
import platform
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest

from neoxlib import Session
from neoxlib.errors import CheckFailed, ParameterError
from neoxlib.inference.sampling import RULES
from neoxlib.machine import environment
from neoxlib.workbook import parameters
from neoxlib.workbook.param import Param
from neoxlib.workbook.parameter_table import NOTEBOOKS, PARAMETERS
from neoxlib.workbook.run import Run, new_folder, outputs_root

matplotlib.use("Agg")
NOTEBOOK_FILES = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.delenv("NEOXLIB_RUN_DIR", raising=False)
    return tmp_path / "outputs"


def start(**given):
    """A run of a notebook that is not in the table: it takes the known names that it finds."""
    return Run.start("some", {"world_size": 2, "plan_only": False, "prompts": []} | given)


def defaults(notebook):
    return {name: PARAMETERS[name].default for name in NOTEBOOKS[notebook]}


def results(run):
    return json.loads((run.folder / "results.json").read_text(encoding="utf-8"))


# --- parameters


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=lambda path: path.stem)
def test_parameters_cell_agrees_with_the_table(path):
    """JupyterLab uses the defaults of the table, papermill those of the cell: they must agree."""
    notebook = nbformat.read(path, as_version=4)
    cells = [
        cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(cells) == 1
    namespace = {}
    exec(cells[0], namespace)
    kinds = {
        name: kind if isinstance(kind, str) else kind.__name__
        for name, kind in namespace["__annotations__"].items()
    }
    assert kinds == {name: PARAMETERS[name].type for name in NOTEBOOKS[path.stem]}
    assert {name: namespace[name] for name in kinds} == {
        name: PARAMETERS[name].default for name in kinds
    }
    assert all("  # " in line and line.count("=") == 1 for line in cells[0].splitlines()), (
        "papermill cannot read it"
    )


def test_defaults_pass_their_own_checks_and_run_on_what_is_shipped():
    assert (
        parameters.complaints(
            {name: param.default for name, param in PARAMETERS.items()}, PARAMETERS
        )
        == []
    )
    resolved = start(model_dir="", data_dir="", prompts=[]).params
    assert (Path(resolved.model_dir) / "config.json").is_file() and (
        Path(resolved.data_dir) / "val"
    ).is_dir()
    assert all(isinstance(prompt, str) for prompt in resolved.prompts) and resolved.prompts


def test_every_bad_value_is_listed_at_once():
    bad = {
        "world_size": "2",
        "dtype": "fp16",
        "prompts": ["a", 3],
        "top_p": 3.0,
        "seed": True,
        "model_dir": "/nope",
        "temperature": float("nan"),
        "case_pair": [[1]],
        "min_len_exp": 9,
        "max_len_exp": 8,
        "limit": -1,
    }
    with pytest.raises(ParameterError) as error:
        Run.start("some", bad)
    said = str(error.value)
    assert all(f"\n  {name}: " in said for name in bad if name != "max_len_exp"), said
    assert "'2', which is str, expected int" in said and "expected auto or float32" in said


def test_a_bad_run_leaves_no_folder(outputs):
    with pytest.raises(ParameterError):
        start(world_size=0)
    assert not outputs.exists()


def test_missing_names_are_listed():
    with pytest.raises(ParameterError, match=r"(?s)model_dir: missing.*seed: missing"):
        Run.start("02_inference", {})


def test_a_folder_without_a_model_is_refused_and_one_with_config_or_manifest_taken(tmp_path):
    with pytest.raises(ParameterError, match=r"no config.json or manifest.json"):
        start(model_dir=str(tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert start(model_dir=str(tmp_path)).params.model_dir == str(tmp_path)


def test_empty_values_resolve_to_what_they_stand_for():
    run = start(model_dir="", top_k=0, stop=[], limit=0, temperature=1)
    assert run.params.model_dir == PARAMETERS["model_dir"].stands_for
    assert (run.params.top_k, run.params.stop, run.params.limit) == (None, None, None)
    assert type(run.params.temperature) is float
    assert results(run)["parameters"]["top_k"] == 0, "the results keep what was asked"


def test_params_show_value_source_and_meaning_and_escape():
    run = start(prompts=["<script>"])
    row = next(line for line in repr(run.params).splitlines() if line.startswith("prompts"))
    assert "given" in row and PARAMETERS["prompts"].help in row
    assert "default" in next(
        line for line in repr(run.params).splitlines() if line.startswith("world_size")
    )
    assert (
        "&lt;script&gt;" in run.params._repr_html_() and "<script>" not in run.params._repr_html_()
    )


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "4", 4),
        ("int", "four", "four"),
        ("float", "1e-3", 1e-3),
        ("float", "2", 2),
        ("bool", "true", True),
        ("bool", "1", True),
        ("str", "1e5", "1e5"),
        ("list", "[1, 2]", [1, 2]),
        ("list", "月亮", ["月亮"]),
        ("list", "[[32, 16]]", [[32, 16]]),
        ("list", "[a", "[a"),
    ],
)
def test_text_from_the_command_line_is_read_by_type(kind, text, value):
    read = parameters.read_text(Param(kind, None, ""), text)
    assert read == value and type(read) is type(value)


def test_unknown_name_gets_the_nearest_and_all_known():
    said = parameters.unknown("wrold_size", ["world_size", "seed"])
    assert "did you mean 'world_size'? known are seed, world_size" in said


# --- the folder


def test_each_run_gets_its_own_folder_even_in_the_same_second(outputs):
    folders = {new_folder(outputs, "some", {"seed": 0}) for _ in range(5)}
    assert len(folders) == 5


def test_folder_named_by_the_environment_is_used_once(tmp_path, monkeypatch):
    """A kernel that calls start twice would otherwise write over its first results."""
    monkeypatch.setenv("NEOXLIB_RUN_DIR", str(tmp_path / "named"))
    assert start().folder == tmp_path / "named"
    assert start().folder.parent.parent == outputs_root()


def test_outputs_are_those_of_the_checkout_also_from_its_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("NEOXLIB_OUTPUTS")
    (tmp_path / "notebooks").mkdir()
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert outputs_root() == tmp_path / "outputs"


def test_results_are_on_disk_as_soon_as_they_are_known():
    run = start()
    assert results(run)["status"] == "running"
    run.metric("first_token_ms", np.float32(2.5))
    run.metrics(questions=np.int64(12), ratio=float("nan"))
    run.check("parity", np.bool_(True), "1e-06")
    assert results(run)["metrics"] == {"first_token_ms": 2.5, "questions": 12, "ratio": None}
    assert results(run)["checks"] == [{"name": "parity", "passed": True, "detail": "1e-06"}]
    assert sorted(path.name for path in run.folder.iterdir()) == ["logs", "results.json"], (
        "nothing half-written stays"
    )


def test_finish_raises_with_every_failed_check_and_says_so_in_the_results():
    run = start()
    for name, passed in (("one", False), ("two", True), ("three", False)):
        run.check(name, passed, "x")
    with pytest.raises(CheckFailed, match="one: x; three: x"):
        run.finish()
    assert results(run)["status"] == "check-failed"
    assert results(run)["seconds"] >= 0 and results(run)["finished"]


def test_a_check_made_again_counts_once():
    run = start()
    run.check("parity", False)
    run.check("parity", True)
    run.finish()
    assert results(run)["status"] == "ok"


def test_plan_only_ends_well_and_without_it_nothing_happens(capsys):
    start(plan_only=False).stop_if_plan_only()
    run = start(plan_only=True)
    with pytest.raises(SystemExit) as stop:
        run.stop_if_plan_only()
    assert stop.value.code == 0 and results(run)["status"] == "ok"
    assert "plan_only" in capsys.readouterr().out
    assert results(run)["verdict"] == "Stopped here because of plan_only."


def test_a_run_goes_on_while_no_check_has_failed_and_ends_here_otherwise():
    run = start()
    run.check("one", True)
    run.stop_if_failed()
    assert results(run)["status"] == "running"
    run.check("two", False, "x")
    with pytest.raises(CheckFailed, match="two: x"):
        run.stop_if_failed()
    assert results(run)["status"] == "check-failed"


def test_tables_are_utf8_csv_and_come_back():
    run = start()
    frame = pd.DataFrame({"subject": ["月亮"], "p": [0.5]})
    assert run.save("answers", frame) is frame
    assert (run.folder / "answers.csv").read_text(encoding="utf-8") == "subject,p\n月亮,0.5\n"
    run.save("named", frame.set_index("subject"))
    assert (run.folder / "named.csv").read_text(encoding="utf-8") == "subject,p\n月亮,0.5\n"
    assert results(run)["files"] == ["answers.csv", "named.csv"]


@pytest.mark.parametrize(
    "text", ["a\rb", "\r", "a\r\nb", 'a\r"b"', "a,b\r", "\n\r", "\ra\nb\r\n", "\x0b\x85\u2028"]
)
def test_a_table_comes_back_whatever_line_breaks_its_cells_have(text):
    run = start()
    frame = pd.DataFrame({"id": ["1", text, "3"], f"p{text}": [text, "plain", 'a "b"']})
    for name, saved in {"questions": frame, "named": frame.set_index("id")}.items():
        run.save(name, saved)
        path = run.folder / f"{name}.csv"
        read = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        assert read.columns.tolist() == frame.columns.tolist()
        assert read.to_numpy().tolist() == frame.to_numpy().tolist()
        with path.open(encoding="utf-8", newline="") as file:
            assert [*csv.reader(file)] == [[*frame.columns], *frame.to_numpy().tolist()]


def test_rows_end_in_a_line_feed_and_only_cells_that_need_it_are_quoted():
    run = start()
    run.save("answers", pd.DataFrame({"a": ["x", "y\rz"], "p": [0.5, 1.5]}))
    assert (run.folder / "answers.csv").read_bytes() == b'a,p\nx,0.5\n"y\rz",1.5\n'


def test_a_files_name_may_have_dots_but_leads_nowhere_else():
    """The vendor's CSV is named after the model's folder."""
    run = start()
    run.text("performance_test_cpu_a..b_bs1.csv", "x")
    assert (run.folder / "performance_test_cpu_a..b_bs1.csv").read_text() == "x"
    with pytest.raises(AssertionError, match="not a file name"):
        run.text("../x.csv", "x")


def test_figures_are_svg_with_text_as_text_and_are_closed():
    import matplotlib.pyplot as plt

    run = start()
    fig, ax = plt.subplots()
    ax.set_title("每个词的时间 < 1 ms")
    run.figure("steps", fig)
    svg = (run.folder / "figures" / "steps.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "每个词的时间 &lt; 1 ms" in svg and "<metadata" not in svg
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("alt", "said"),
    [
        ("", "Figure first steps: time: ms over length; memory; GB"),
        ('the "time" of 8 < 9', "the &quot;time&quot; of 8 &lt; 9"),
    ],
)
def test_a_figure_says_what_it_shows_in_words_by_default_by_its_axes(alt, said):
    import matplotlib.pyplot as plt

    fig, (left, middle, right) = plt.subplots(1, 3)
    left.set(title="time", xlabel="length", ylabel="ms")
    middle.set(title="memory")
    right.set(xlabel="GB")
    run = start()
    run.figure("first_steps", fig, alt)
    svg = (run.folder / "figures" / "first_steps.svg").read_text(encoding="utf-8")
    assert svg.startswith(f'<svg role="img" aria-label="{said}"')


def test_environment_names_the_machine_but_no_person(monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(Path.home() / "Ascend"))
    found = environment.describe("cpu")
    assert found["device"] == "cpu" and found["cores"] >= 1 and found["torch"].startswith("2.")
    said = json.dumps(found)
    assert found["variables"]["ASCEND_HOME_PATH"] == "~/Ascend"
    assert platform.node() not in said.replace(found["platform"], "") or len(platform.node()) < 4
    assert str(Path.home()) not in said or getpass.getuser() == "root"


def test_what_the_engine_says_is_recorded_without_home_paths():
    class Fake:
        def describe(self):
            return {"model_dir": str(Path.home() / "models" / "x"), "parameters": np.int64(7)}

    run = start()
    run.describe(Fake())
    assert results(run)["model"] == {"model_dir": "~/models/x", "parameters": 7}


class Opened:
    """A session that keeps how it was opened."""

    def __init__(self, model_dir, **given):
        self.model_dir = model_dir
        self.given = given

    def describe(self):
        return {"model_dir": self.model_dir}


def test_a_session_has_the_runs_parameters_and_logs_and_is_recorded():
    run = Run.start("01_shard", defaults("01_shard") | {"world_size": 3, "deterministic": True})
    opened = run.session(Opened)
    assert opened.model_dir == run.params.model_dir and opened.given["log_dir"] == run.logs
    assert opened.given["world_size"] == 3 and opened.given["deterministic"] is True
    assert results(run)["model"] == {"model_dir": "shipped model"}
    assert run.session(Opened, "cut").model_dir == "cut"


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if name != "05_compare"])
def test_a_session_gets_all_that_it_takes_of_a_notebooks_parameters(notebook):
    given = Run.start(notebook, defaults(notebook)).session(Opened).given
    takes = set(inspect.signature(Session).parameters) - {"model_dir"}
    assert set(given) - {"log_dir"} == takes & set(NOTEBOOKS[notebook])


def test_the_sampling_settings_are_those_that_generate_takes():
    run = Run.start("02_inference", defaults("02_inference") | {"top_k": 5})
    assert set(run.params.sampling) == set(RULES)
    assert run.params.sampling["top_k"] == 5 and run.params.sampling["stop"] is None


def test_a_place_for_runs_that_cannot_be_written_to_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "file"))
    with pytest.raises(ParameterError, match=r"file/some.* cannot be written to: Not a directory"):
        start()
    assert (tmp_path / "file").read_text() == "mine"


# --- how a run ends


@pytest.mark.parametrize(
    ("verdicts", "noise", "status"),
    [
        ([True], [], "ok"),
        ([True], ["load 2.3 on 2 cores"], "noisy"),
        ([True, None], ["load 2.3 on 2 cores"], "not-judged"),
    ],
)
def test_a_run_ends_as_the_worst_that_is_true_of_it(verdicts, noise, status):
    run = start()
    for number, passed in enumerate(verdicts):
        run.check(f"check {number}", passed)
    for why in noise:
        run.noisy(why)
    run.finish()
    assert results(run)["status"] == status
    assert results(run)["noise"] == noise


def test_a_failed_check_outweighs_one_that_cannot_be_judged():
    run = start()
    run.check("fast", None, "the machine was busy")
    run.check("right", False, "off by one")
    with pytest.raises(CheckFailed, match="right"):
        run.finish()
    assert results(run)["status"] == "check-failed"


def test_the_verdict_is_recorded_as_it_is_shown():
    run = start()
    shown = run.verdict("Right, and 1,081 tokens/s.")
    assert shown == results(run)["verdict"] == "Right, and 1,081 tokens/s."
