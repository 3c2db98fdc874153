"""A run that goes on no more says so, in which cell, and when it was last alive."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nbformat import v4

from neoxlib import process
from neoxlib.workbook import front, pages
from neoxlib.workbook.results import KILLED, LOST, SILENT, read_run
from neoxlib.workbook.run_folder import Heartbeat, last_beat, stamp

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ELSEWHERE = {"host": "another", "pid": 1, "started": 0.0}
GONE = {"pid": 2**22 + 1, "started": 0.0}  # more than Linux gives


def running(folder: Path, where: dict, beat: datetime | None = None, **values) -> Path:
    """A run that its kernel left as running, with its last heartbeat."""
    (folder / "logs").mkdir(parents=True)
    found = {"status": "running", "process": where, "started": stamp(STARTED)} | values
    (folder / "results.json").write_text(json.dumps(found))
    if beat:
        (folder / Heartbeat.FILE).write_text(stamp(beat))
    return folder


def test_a_run_whose_process_lives_is_running_however_long_it_was_silent(tmp_path):
    here = process.this_process()
    assert read_run(running(tmp_path / "a", here, STARTED))["status"] == "running"
    assert read_run(running(tmp_path / "b", {}))["status"] == "running"


@pytest.mark.parametrize("change", [GONE, {"boot": "an earlier start of this machine"}])
def test_a_run_is_broken_off_when_its_process_or_its_start_of_the_machine_is_gone(tmp_path, change):
    last = STARTED + timedelta(seconds=90)
    found = read_run(running(tmp_path / "run", process.this_process() | change, last))
    assert (found["status"], found["error"]["message"]) == ("interrupted", KILLED)
    assert found["finished"] == found["error"]["at"] == stamp(last) and found["seconds"] == 90
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "running"


def test_of_another_machine_the_heartbeat_decides(tmp_path):
    now = datetime.now(UTC)
    fresh, old = (now - timedelta(seconds=SILENT * share) for share in (0.5, 2))
    assert read_run(running(tmp_path / "fresh", ELSEWHERE, fresh))["status"] == "running"
    assert read_run(running(tmp_path / "none", ELSEWHERE))["status"] == "running"
    found = read_run(running(tmp_path / "old", ELSEWHERE, old))
    assert (found["status"], found["error"]["message"]) == ("interrupted", LOST)


def test_a_torn_heartbeat_is_as_old_as_its_file_and_an_odd_one_is_none(tmp_path):
    folder = running(tmp_path / "run", ELSEWHERE)
    beat = folder / Heartbeat.FILE
    beat.write_text("2026-")
    os.utime(beat, (STARTED.timestamp(), STARTED.timestamp()))
    assert last_beat(folder) == STARTED
    beat.unlink()
    os.mkfifo(beat)
    assert last_beat(folder) is None and read_run(folder)["status"] == "running"


def test_a_heart_beats_until_it_is_stopped_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Heartbeat, "SECONDS", 0.01)
    (tmp_path / "logs").mkdir()
    heart = Heartbeat(tmp_path)
    first = last_beat(tmp_path)
    os.utime(heart.path, (0, 0))
    while heart.path.stat().st_mtime == 0:
        pass
    assert last_beat(tmp_path) >= first
    heart.stop()
    assert not heart.path.exists() and not any((tmp_path / "logs").iterdir())


def notebook(folder: Path, *states: str) -> None:
    """A notebook of a heading and two code cells for each state."""
    cells = []
    for number, state in enumerate(states):
        cells.append(v4.new_markdown_cell(f"# no\n\n## Part {number}\n\ntext"))
        about = {"papermill": {"status": state}}
        cells += [v4.new_code_cell(f"cell {number}", metadata=about, execution_count=number)]
    (folder / "notebook.ipynb").write_text(json.dumps(v4.new_notebook(cells=cells)))


def test_the_cell_that_ran_last_is_named_with_its_heading(tmp_path):
    folder = running(tmp_path / "one" / "run", process.this_process() | GONE, STARTED)
    notebook(folder, "completed", "running", "pending")
    error = read_run(folder)["error"]
    assert (error["cell"], error["heading"], error["source"]) == (2, "Part 1", "cell 1")
    said = "Broken off at 2026-01-02 03:04 UTC in “Part 1”, cell 2: Interrupted: its process ended"
    assert front.verdict(read_run(folder)).startswith(said)


@pytest.mark.parametrize("book", [b"{", b"[]", b'{"cells": 3}', b'{"cells": [3]}', None])
def test_a_notebook_that_cannot_be_read_names_no_cell(tmp_path, book):
    folder = running(tmp_path / "one" / "run", process.this_process() | GONE, STARTED)
    if book is not None:
        (folder / "notebook.ipynb").write_bytes(book)
    assert "cell" not in read_run(folder)["error"]
    assert "Broken off at 2026-01-02 03:04 UTC: " in front.verdict(read_run(folder))
    pages.write_index(tmp_path)
    assert "broken off" in (tmp_path / "index.html").read_text()


def test_the_index_makes_the_report_that_a_broken_run_could_not_make(tmp_path):
    given = {"metrics": {"accuracy": 0.75}, "parameters": {"resume": ""}, "run": "run"}
    folder = running(tmp_path / "one" / "run", process.this_process() | GONE, STARTED, **given)
    notebook(folder, "completed", "running")
    alive = running(tmp_path / "one" / "alive", process.this_process(), STARTED)
    pages.write_index(tmp_path)
    page = (folder / "report.html").read_text()
    assert "75.0" in page and "broken off" in page and "Part 1" in page
    assert "report one -p resume outputs/one/run" in page
    assert not (alive / "report.html").exists()
