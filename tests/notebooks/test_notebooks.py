"""Every notebook runs headless on the shipped model over two ranks; its results.json says what came out."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from neoxlib.workbook import arguments, headless

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
    assert results["status"] == "ok" and results["model"]["world_size"] == 2
    checks = {check["name"]: check["passed"] for check in results["checks"]}
    parity = [name for name in checks if name.startswith("parity")]
    assert all(checks.values()) and len(parity) == (2 if notebook == "04_profile" else 3)  # it asks for no answer


@pytest.mark.parametrize(
    "notebook", ["00_setup", "01_shard", "02_inference", "03_ceval", "04_profile", "05_compare"]
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


def test_where_nothing_can_be_compared_yet_the_comparison_says_so_calmly(outputs: Path):
    results = read(outputs, "05_compare")
    assert results["status"] == "ok" and not results["checks"]
    assert "nothing to compare" in only(outputs, "05_compare", "report.html").read_text(
        encoding="utf-8"
    )


def test_two_runs_are_set_side_by_side(outputs: Path, tmp_path: Path):
    run = str(only(outputs, "04_profile", "results.json").parent)
    assert (
        headless.report(
            ["05_compare"], [], [("run_a", run), ("run_b", run)], outputs=tmp_path, say=print
        )
        == 0
    )
    assert set(pd.read_csv(only(tmp_path, "05_compare", "speed.csv"))["ratio"]) == {1.0}
