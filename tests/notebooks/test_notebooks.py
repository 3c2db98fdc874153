"""Every notebook runs headless on the shipped model over two ranks, as its results.json shows."""

import csv
import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from safetensors.torch import load_file, save_file

from neoxlib.demo import MODEL_DIR
from neoxlib.inference.parity import FIRST, FLOAT32, UNSPLIT
from neoxlib.languages import speaking
from neoxlib.languages.sentences import is_left
from neoxlib.workbook import arguments, headless, pages
from neoxlib.workbook.metrics import METRICS, is_interval
from tests.support import page_texts

pytestmark = pytest.mark.timeout(900)  # the first test waits for all seven notebooks
SMALL = [("case_pair", "[[8, 4], [16, 1]]"), ("max_new_tokens", "12"), ("world_size", "2")]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    names = [str(path) for path in arguments.all_notebooks()]
    code = headless.report(names, [], SMALL, outputs=folder, say=lambda line: None)
    assert code == 0, [
        read(path.parent.parent, path.parent.name) for path in folder.glob("*/*/results.json")
    ]
    return folder


def read(outputs: Path, notebook: str) -> dict:
    return json.loads(only(outputs, notebook, "results.json").read_text())


def only(outputs: Path, notebook: str, name: str) -> Path:
    found = list((outputs / notebook).glob(f"*/{name}"))
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    "notebook", ["00_setup", "01_shard", "02_inference", "03_ceval", "04_profile"]
)
def test_a_notebook_passes_its_checks_and_parity_is_among_them(outputs: Path, notebook: str):
    results = read(outputs, notebook)
    assert results["status"] in ("ok", "noisy") and results["model"]["world_size"] == 2
    checks = {check["name"]: check["passed"] for check in results["checks"]}
    parity = {name for name in checks if name in (UNSPLIT, FLOAT32, FIRST)}
    assert all(checks.values())
    assert len(parity) == (2 if notebook == "04_profile" else 3)  # 04 compares no answers


ANSWERS = {  # how the shipped model's answers begin
    "00_setup": "Yes, you can start: 2 ranks started and wrote text, and the split model equals",
    "01_shard": "Yes, the cut is whole: all 76 tensors equal the source bit for bit, and loaded",
    "02_inference": "To “The panda is” it says “a mammal.",
    "03_ceval": "93.8 % right (95 % interval",
    "04_profile": "Right, and ",
    "05_compare": "There are no two finished runs of one notebook yet: nothing to compare.",
    "06_align": "every step that was seen is right",
}


@pytest.mark.parametrize("notebook", ANSWERS)
def test_a_notebook_answers_its_title_and_records_declared_figures_only(
    outputs: Path, notebook: str
):
    results = read(outputs, notebook)
    assert results["verdict"].startswith(ANSWERS[notebook])
    metrics = results["metrics"]
    assert {name for name in metrics if not is_interval(name, metrics)} <= set(METRICS)
    page = BeautifulSoup(only(outputs, notebook, "report.html").read_text("utf-8"), "html.parser")
    assert page.select_one(".verdict .badge") and len(page.select("h1")) == 1
    assert len(page.select(".cards li")) <= 5 and "not asked for" not in page.main.text


@pytest.mark.parametrize(
    "notebook",
    ["00_setup", "01_shard", "02_inference", "03_ceval", "04_profile", "05_compare", "06_align"],
)
def test_a_report_opens_without_network(outputs: Path, notebook: str):
    page = only(outputs, notebook, "report.html").read_text(encoding="utf-8")
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?https?:""", page
    )
    assert "../../index.html" in page and (outputs / "index.html").is_file()


def test_the_vendors_files_are_there(outputs: Path):
    cache = only(outputs, "03_ceval", "test_result/cache0.csv")
    rows = list(csv.reader(cache.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == read(outputs, "03_ceval")["metrics"]["questions"] and {
        len(row) for row in rows
    } == {4}
    performance = only(outputs, "04_profile", "performance_test_*.csv").read_text().splitlines()
    assert performance[0].count(",") == 7 and len(performance) == 3


def test_the_cut_is_a_folder_per_rank_and_a_manifest(outputs: Path):
    manifest = json.loads(only(outputs, "01_shard", "sharded/manifest.json").read_text())
    assert manifest["world_size"] == 2
    parts = only(outputs, "01_shard", "sharded/part_model")
    assert sorted(path.name for path in parts.iterdir()) == ["0", "1"]


def test_a_comparison_of_fewer_than_two_runs_says_so_and_passes(outputs: Path):
    results = read(outputs, "05_compare")
    assert results["status"] == "ok" and not results["checks"]
    assert "nothing to compare" in only(outputs, "05_compare", "report.html").read_text(
        encoding="utf-8"
    )


def test_two_runs_are_set_side_by_side(outputs: Path, tmp_path: Path):
    run = str(only(outputs, "04_profile", "results.json").parent)
    given = [("run_a", run), ("run_b", run)]
    assert headless.report(["05_compare"], [], given, outputs=tmp_path, say=print) == 0
    assert set(pd.read_csv(only(tmp_path, "05_compare", "speed.csv"))["ratio"]) == {1.0}


def test_the_shipped_model_is_accused_of_nothing_and_its_capture_is_kept(outputs: Path):
    results = read(outputs, "06_align")
    checks = {check["name"]: check for check in results["checks"]}
    assert results["status"] == "ok" and results["metrics"]["guilty_steps"] == 0
    found = checks["every step is what the checkpoint says"]["detail"]
    assert found.startswith("every step that was seen is right: the greatest own error is ")
    run = only(outputs, "06_align", "results.json").parent
    assert (run / "capture" / "capture.json").is_file()
    names = {"steps.csv", "worst.csv", "lens.csv", "verdict.txt"}
    assert names <= set(results["files"]) and not (run / "reproduction").exists()


def test_a_run_is_looked_into_again_and_another_reference_shows_its_difference(
    outputs: Path, tmp_path: Path
):
    """The capture of the shipped model is held against one whose norm was changed."""
    run = str(only(outputs, "06_align", "results.json").parent)
    shutil.copytree(MODEL_DIR, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["gpt_neox.layers.3.input_layernorm.weight"] *= 1.01
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    given = [("target", run), ("reference", str(tmp_path / "other"))]
    assert headless.report(["06_align"], [], given, outputs=tmp_path / "runs", say=print) == 3
    said = only(tmp_path / "runs", "06_align", "verdict.txt").read_text()
    assert said.startswith("layer 3, every rank, prefill: input_layernorm is off by up to ")
    assert only(tmp_path / "runs", "06_align", "reproduction/reproduce.py").is_file()


NOTEBOOKS = arguments.all_notebooks()
HEADER = r"# \d\d · \w+ — .+\?\n\n\*\*In:\*\* .+ \*\*Out:\*\* .+\n\n\*\*Yes is:\*\* .+\n\n"
HEADER += r"\*\*Words:\*\* .+\n\n\*\*Headless:\*\* `python -m neoxlib report .+`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_one_form_of_header_and_ends_with_what_is_next(path: Path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert re.fullmatch(HEADER, texts[0].replace("\n", " ").replace("  ", "\n\n"))
    assert texts[0].splitlines()[0] == f"# {notebook.metadata.title}"
    assert texts[0].startswith(f"# {path.stem[:2]} · ") and path.stem in texts[0].splitlines()[-1]
    headings = re.findall("^## (.+)", "\n".join(texts), re.M)
    assert "Verdict" in headings and headings[-1] == "Next"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_name_one_kernel_and_tag_no_cell_but_the_parameters(path: Path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec == {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags == ["parameters"]


def test_the_setup_checks_the_machine_before_everything_else():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert texts[1].startswith("## The checks of this machine")


@pytest.mark.parametrize("notebook", ANSWERS)
def test_a_page_in_chinese_has_no_english_sentence_and_the_same_numbers(
    outputs: Path, notebook: str
):
    page = only(outputs, notebook, "report.html")
    before = page_texts.numbers(page)
    with speaking("zh", asked=True):
        pages.write_report(page.parent)
    assert not [text for text in page_texts.texts(page) if is_left(text)]
    assert page_texts.numbers(page) == before
    with speaking("en", asked=True):
        pages.write_report(page.parent)
