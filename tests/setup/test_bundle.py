"""The bundle of a run: what is in it, what is not, and how large it is."""

import json
import os
import random
import zipfile
from pathlib import Path

import pytest

from neoxlib.demo import MODEL_DIR
from neoxlib.errors import DataError, ParameterError
from neoxlib.machine import libraries
from neoxlib.process import this_process
from neoxlib.setup import bundle, doctor
from neoxlib.setup.bundle import LARGEST, pack, shortened, write_bundle

FAKE = "q7Rt" + "9ZxLm2Vb"
PERSON = "bertrand"
PLACED = 20  # secrets, each another one


def secret(n: int) -> str:
    return f"{FAKE}{n:03}"


PLANTED = [  # where a run's own files may hold one
    "HF_TOKEN={}",
    "api_key: {}",
    '"client_secret": "{}"',
    "password={}",
    "https://someone:{}@example.org",
    "Authorization: Bearer {}",
    "--access-token {}",
    "GET /x?sig={}&y=1",
    "passwd = {}",
    "DB_PASS={}",
    "SECRET_KEY: '{}'",
    "credential={}",
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Path:
    """A run with secrets in its logs, its results and the environment."""
    folder = tmp_path / "outputs" / "02_inference" / "20260101T000000Z-abcdef"
    logs = folder / "logs"
    logs.mkdir(parents=True)
    log = [f"x: {text.format(secret(n))}" for n, text in enumerate(PLANTED)]
    log += ["rank 0 is process 4711 on here", f"File /home/{PERSON}/x.py", "EI0006: times out"]
    (logs / "rank0.log").write_text("\n".join(log))
    (logs / "rank1.log").write_text("NPU out of memory")
    plogs = tmp_path / "cann" / "debug" / "plog"
    plogs.mkdir(parents=True)
    (plogs / "plog-4711_2026.log").write_text(f"EI0006: of the rank, token={secret(12)}")
    (plogs / "plog-4712_2026.log").write_text("of another process")
    variables = {"NPU_PASSWORD": secret(13), "INNOCENT": f"Aa1{secret(14)}bcdefg"}
    asked = {"model_dir": str(MODEL_DIR), "world_size": 2, "hf_token": secret(15)}
    results = {
        "status": "failed",
        "notebook": "02_inference",
        "parameters": asked,
        "environment": {"variables": {"MY_SECRET": secret(16)}},
        "error": {"type": "RankError", "cell": 3, "message": f"apikey={secret(17)} {PERSON}"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    env = variables | {"TORCH_SECRET": secret(18), "WANDB_API_KEY": secret(19), "USER": PERSON}
    for name, value in (env | {"ASCEND_PROCESS_LOG_PATH": str(tmp_path / "cann")}).items():
        monkeypatch.setenv(name, value)
    return folder


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as packed:
        assert packed.testzip() is None
        return {name: packed.read(name).decode() for name in packed.namelist()}


def test_a_bundle_holds_every_part_and_none_of_twenty_secrets(run: Path):
    path = write_bundle(run)
    parts = contents(path)
    assert path == run / "bundle.zip" and path.stat().st_size < LARGEST
    everything = "\n".join([*parts, *parts.values()])
    assert [n for n in range(PLACED) if secret(n) in everything] == []
    assert FAKE not in everything and PERSON not in everything
    assert os.path.expanduser("~") + "/" not in everything
    assert {"logs/rank0.log", "logs/rank1.log", "plog/debug/plog-4711_2026.log"} <= set(parts)
    assert "plog-4712" not in everything
    assert parts["explanation.txt"].startswith("failed first: rank 1, NPU out of memory")
    assert "imported torch" in parts["libraries.txt"] and "torch==" in parts["versions.txt"]
    assert "fits" in parts["plan.txt"] or "GB" in parts["plan.txt"]
    assert "OK" in parts["doctor.txt"] and json.loads(parts["doctor.json"])["host"]
    assert json.loads(parts["environment.json"])["neoxlib"]
    kept = json.loads(parts["results.json"])
    assert kept["parameters"]["world_size"] == 2 and kept["run"] == run.name
    assert "npu-smi" in parts["npu-smi.txt"] and "could not be made" not in everything


@pytest.fixture
def quick(run: Path, monkeypatch) -> Path:
    """The run of a bundle whose slow parts are left out."""
    monkeypatch.setattr(libraries, "text", lambda: "libraries")
    monkeypatch.setattr(bundle, "_plan", lambda past: "plan")
    monkeypatch.setattr(doctor, "check", lambda folder: (_ for _ in ()).throw(OSError("broken")))
    return run


def test_a_part_that_cannot_be_made_says_why_and_the_others_are_there(quick: Path):
    parts = contents(write_bundle(quick))
    assert parts["doctor.txt"] == "this part could not be made: OSError: broken"
    assert parts["libraries.txt"] == "libraries"


def test_a_bundle_of_huge_logs_is_below_a_megabyte_and_keeps_their_ends(quick: Path):
    noise = random.Random(5)
    for r in range(12):
        lines = [f"{noise.getrandbits(600):x}" for _ in range(20_000)]
        text = "\n".join(["the beginning", *lines, "the end"])
        (quick / "logs" / f"rank{r}.log").write_text(text)
    path = write_bundle(quick)
    parts = contents(path)
    assert path.stat().st_size < LARGEST
    assert all(parts[f"logs/rank{r}.log"].startswith("the beginning") for r in range(12))
    assert all(parts[f"logs/rank{r}.log"].endswith("the end") for r in range(12))


def test_texts_that_cannot_be_packed_are_shortened_until_they_fit():
    noise = random.Random(7)
    parts = {f"{n}.txt": f"{noise.getrandbits(4_000_000):x}" for n in range(8)}
    assert len(pack(parts)) < LARGEST


def test_a_shortened_text_keeps_both_ends_and_says_what_is_missing():
    text = shortened("a" * 1000 + "b" * 1000, 100)
    assert text.startswith("a" * 25 + "\n") and text.endswith("\n" + "b" * 75)
    assert "1,900 characters left out" in text and shortened("abc", 100) == "abc"


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path: Path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match=r"is not the results\.json of a run"):
        write_bundle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_device_a_pipe_or_a_huge_file_is_refused_and_never_read(tmp_path: Path):
    os.mkfifo(tmp_path / "results.json")
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(5 * 10**9)  # a hole: takes no room on the disk
    for place in (Path("/dev/zero"), tmp_path, tmp_path / "results.json", huge):
        with pytest.raises(DataError, match=r"is not the results\.json of a run"):
            write_bundle(place)


def test_a_file_that_exists_is_not_replaced_but_a_bundle_of_before_is(quick: Path, tmp_path: Path):
    mine = tmp_path / "mine.zip"
    mine.write_text("mine")
    with pytest.raises(ParameterError, match=r"exists; name another file with -o"):
        write_bundle(quick, mine)
    assert mine.read_text() == "mine"
    assert write_bundle(quick) == write_bundle(quick)
    assert [path.name for path in quick.glob("*.part")] == []


def test_a_place_that_cannot_be_written_leaves_nothing_half_written(quick: Path, tmp_path: Path):
    with pytest.raises(ParameterError, match="cannot be written"):
        write_bundle(quick, tmp_path / "missing" / "x.zip")
    assert not (tmp_path / "missing").exists()


def test_a_link_among_the_logs_is_left_out_and_the_list_says_so(quick: Path, tmp_path: Path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "keys.log").write_text("the words of another file")
    for link, target in (("rank9.log", "private/keys.log"), ("more", "private")):
        (quick / "logs" / link).symlink_to(tmp_path / target)
    plog = tmp_path / "cann" / "debug" / "plog" / "plog-4711_2027.log"
    plog.symlink_to(tmp_path / "private" / "keys.log")
    parts = contents(write_bundle(quick))
    assert "the words of another file" not in "".join(parts.values())
    assert {"logs/rank0.log", "plog/debug/plog-4711_2026.log"} <= set(parts)
    _, _, told = parts["README.txt"].partition("Left out, because these are links")
    assert "logs/rank9.log" in told and "plog/debug/plog-4711_2027.log" in told


def test_logs_and_results_that_are_links_to_another_place_are_not_read(quick: Path, tmp_path: Path):
    (quick / "logs").rename(tmp_path / "elsewhere")
    (quick / "logs").symlink_to(tmp_path / "elsewhere")
    parts = contents(write_bundle(quick))
    assert "NPU out of memory" not in "".join(parts.values())
    assert parts["README.txt"].endswith("links and may lead to any file:\n  logs\n")
    (quick / "results.json").rename(tmp_path / "other.json")
    (quick / "results.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(DataError, match="it is no plain file"):
        write_bundle(quick)


def test_a_cell_of_a_notebook_that_is_a_link_is_not_told(quick: Path, tmp_path: Path):
    cell = {"cell_type": "code", "source": "the words of another file"}
    cell["metadata"] = {"papermill": {"status": "running"}}
    (tmp_path / "other.ipynb").write_text(json.dumps({"cells": [cell]}))
    (quick / "notebook.ipynb").symlink_to(tmp_path / "other.ipynb")
    gone = this_process() | {"started": 1.0}
    path = quick / "results.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"status": "running"} | {"process": gone})
    )
    told = json.loads(contents(write_bundle(quick))["results.json"])
    assert told["status"] == "interrupted" and "source" not in told["error"]


def test_a_run_without_logs_has_a_bundle(quick: Path):
    for path in (quick / "logs").iterdir():
        path.unlink()
    assert "nothing in these logs" in contents(write_bundle(quick))["explanation.txt"]
