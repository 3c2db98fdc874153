"""docs/ci.md: the jobs are whole, and their scripts run as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from neoxlib.demo import MODEL_DIR
from neoxlib.workbook import arguments

PAGE = (Path(__file__).parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")
GITHUB, GITLAB = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
(NIGHTLY,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
QUICK = {"NOTEBOOKS": "05", "OPTIONS": ""}  # it needs no model
PLANNED = {"NOTEBOOKS": "02", "OPTIONS": "-p plan_only true -p world_size 1"}


@pytest.fixture
def shell(tmp_path: Path):
    """Run a script with bash, in an empty folder, with this Python's neoxlib as the command."""
    command = tmp_path / "bin" / "neoxlib"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m neoxlib "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name != "NEOXLIB_OUTPUTS"}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"

    def run(script: str, *args: str, **variables: str) -> subprocess.CompletedProcess:
        env = inherited | {"PATH": path} | variables
        strict = [] if script.startswith("#!") else ["-e"]  # as the runners do with their steps
        line = ["bash", *strict, "-c", script, "script", *args]
        return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True)

    return run, folder


def step(name: str) -> str:
    """The command of a step of the GitHub job."""
    return next(s["run"] for s in GITHUB["jobs"]["report"]["steps"] if s.get("name") == name)


def test_the_github_job_runs_and_fills_its_page_and_its_list_of_tests(shell):
    run, folder = shell
    done = run(step("Run"), **QUICK)
    assert done.returncode == 0, done.stderr
    page = folder / "page.md"
    assert run(step("Summary"), GITHUB_STEP_SUMMARY=str(page)).returncode == 0
    assert page.read_text().startswith("## neoxlib: 1 of 1 notebooks went well")
    suite = ElementTree.parse(folder / "junit.xml").getroot()[0]
    assert suite.get("name") == "05_compare" and suite.get("errors") == "0"
    kept = next(s for s in GITHUB["jobs"]["report"]["steps"] if "upload" in s.get("uses", ""))
    assert all((folder / name).exists() for name in kept["with"]["path"].split())


def test_the_gitlab_job_runs_and_keeps_what_it_names(shell):
    run, folder = shell
    (line,) = GITLAB["report"]["script"]
    done = run(line, **QUICK)
    assert done.returncode == 0, done.stderr
    kept = GITLAB["report"]["artifacts"]
    assert all((folder / name).exists() for name in [*kept["paths"], kept["reports"]["junit"]])
    refused = run(line, NOTEBOOKS="05", OPTIONS="-p run_a nowhere")
    assert refused.returncode == 2 and "run_a" in (folder / "junit.xml").read_text()


@pytest.mark.parametrize(
    "variables", [GITHUB["jobs"]["report"]["env"], GITLAB["report"]["variables"]]
)
def test_the_notebooks_and_presets_of_the_jobs_exist(variables):
    names = variables["NOTEBOOKS"].split()
    preset = variables["OPTIONS"].split()[1]
    jobs = arguments.asked(names, [preset], [])
    assert [job.name[:2] for job in jobs] == names


def test_the_nightly_batch_runs_on_the_shipped_model_and_again_with_a_baseline(shell):
    run, folder = shell
    done = run(NIGHTLY, str(MODEL_DIR), "runs", **PLANNED)
    assert done.returncode == 0 and done.stdout == "all went well\n", done.stderr
    found = json.loads((folder / "runs" / "last.json").read_text())
    assert found["exit_code"] == 0 and found["runs"][0]["notebook"] == "02_inference"
    assert (folder / "runs" / "history.txt").read_text().startswith("02_inference/")
    (folder / "runs" / "baseline").mkdir()
    (folder / "runs" / "baseline" / "results.json").write_text("{}")
    refused = run(NIGHTLY, str(MODEL_DIR), "runs", NOTEBOOKS="04", OPTIONS="")
    assert refused.returncode == 2 and "runs/baseline/results.json" in refused.stdout
    assert ElementTree.parse(folder / "runs" / "junit.xml").getroot().get("errors") == "1"
