"""The scripts of docs/batch.md, with a neoxlib and a Slurm that only say what they are asked.

`make verify-hosts` runs them on a real Slurm.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.support.programs import programs

PAGE = Path(__file__).parents[1] / "docs" / "batch.md"
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
REPORT, PRESETS, EXAM = BLOCKS
# Says what it is asked; `report` ends as CODE says, or by SIGTERM if SLOW.
NEOXLIB = """\
echo "$@" >> asked
[ "$1" = cluster ] && exit ${CLUSTER:-0}
[ -z "$SLOW" ] && exit ${CODE:-0}
trap 'kill $!; exit 143' TERM
sleep 60 &
touch started
wait"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs(tmp_path, monkeypatch, neoxlib=NEOXLIB, scontrol='echo scontrol "$@" >> asked')
    job = {"ID": "7", "NUM_NODES": "1", "PARTITION": "npu"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(script: str, *words: str, **env: str) -> int:
    """A script's exit code."""
    command = ["bash", "-c", script, "script", *words]
    return subprocess.run(command, env=os.environ | env).returncode


def asked() -> list[str]:
    return Path("asked").read_text().splitlines()


def test_a_report_of_one_node_is_of_all_notebooks_or_those_named_and_ends_as_it_does():
    assert run(REPORT) == 0 and run(REPORT, "02", "-p", "seed", "1", CODE="3") == 3
    more = "--outputs outputs/job-7 --junit junit-7.xml"
    assert asked() == [f"report --all {more}", f"report 02 -p seed 1 {more}"]


def test_a_report_of_several_nodes_has_them_checked_and_leaves_no_profile(place: Path):
    profile = place / ".ipython" / "profile_job7"
    profile.mkdir(parents=True)
    assert run(REPORT, "02", SLURM_JOB_NUM_NODES="2", RANKS="8") == 0
    cluster, report = asked()
    assert cluster == "cluster --slurm npu --nodes 2 --ranks-per-node 8 --profile job7"
    assert report.endswith("-p cluster_profile job7") and not profile.exists()


def test_nodes_that_fail_their_checks_end_the_job_before_the_report():
    assert run(REPORT, SLURM_JOB_NUM_NODES="2", CLUSTER="1") == 1
    assert len(asked()) == 1


def test_a_task_takes_its_preset_and_one_that_is_not_there_fails(place: Path):
    for name in ("a", "b"):
        (place / f"{name}.yaml").touch()
    task = {"PRESETS": str(place), "SLURM_ARRAY_JOB_ID": "9"}
    assert run(PRESETS, "04", SLURM_ARRAY_TASK_ID="1", **task, CODE="4") == 4
    names = f"-f {place}/b.yaml --outputs outputs/job-9-1 --junit junit-9-1.xml"
    assert asked() == [f"report 04 {names}"]
    assert run(PRESETS, "04", SLURM_ARRAY_TASK_ID="2", **task) != 0 and len(asked()) == 1


def test_an_exam_that_slurm_breaks_off_goes_back_into_the_queue(place: Path):
    command = ["bash", "-c", EXAM, "script", "-p", "seed", "1"]
    with subprocess.Popen(command, env=os.environ | {"SLOW": "1"}) as script:
        deadline = time.monotonic() + 60
        while not (place / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 143
    first, requeue = asked()
    assert first == "report 03 -p seed 1 --outputs outputs/job-7 --junit junit-7.xml"
    assert requeue == "scontrol requeue 7"


def test_an_exam_that_starts_anew_resumes_its_last_run_and_then_ends_as_it_does(place: Path):
    for name in ("20260101-a", "20260102-b"):
        run_folder = place / "outputs" / "job-7" / "03_ceval" / name
        run_folder.mkdir(parents=True)
        (run_folder / "journal.jsonl").touch()
    assert run(EXAM, CODE="3") == 3
    (report,) = asked()
    assert "-p resume outputs/job-7/03_ceval/20260102-b --outputs" in report


def test_the_job_of_kubernetes_asks_for_as_many_npus_as_it_has_ranks():
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    job = yaml.safe_load(text)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = container["args"]
    ranks = words[words.index("world_size") + 1]
    assert container["resources"]["limits"]["huawei.com/Ascend910"] == int(ranks)
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert words[:2] == ["neoxlib", "report"] and all(isinstance(word, str) for word in words)
