"""Why ranks ended: the first to fail is named, with cause and cure, from logs and plogs."""

import os
import time
from pathlib import Path

import pytest

import neoxlib
from neoxlib.errors import RankError
from neoxlib.machine.explain import explain
from neoxlib.machine.log_text import LogText
from neoxlib.ranks import worker
from neoxlib.ranks.post_mortem import RankLogs, first_of, tail, together, told
from tests.support import rank_faults as faults

ROOT = Path(__file__).parents[2]
WAITED = "EI0006: Getting socket times out."
MEMORY = "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB"


def members(pids: list[int]) -> list[dict]:
    return [{"rank": r, "pid": pid, "host": worker.host()} for r, pid in enumerate(pids)]


def write(folder: Path, *texts: str) -> None:
    for r, text in enumerate(texts):
        with worker.log_file(folder, r).open("a") as file:
            file.write(text + "\n")


def test_the_ranks_logs_name_the_first_and_its_cure(tmp_path: Path):
    logs = RankLogs(tmp_path, 3)
    write(tmp_path, WAITED, MEMORY, WAITED)
    found = logs.explain(members([1, 2, 3]))
    assert found.culprit == "rank 1" and "expandable_segments" in told(found)
    assert "only waited: rank 0, rank 2" in told(found)


def test_what_an_earlier_session_wrote_is_not_of_this_one(tmp_path: Path):
    write(tmp_path, MEMORY, "")
    logs = RankLogs(tmp_path, 2)
    assert logs.explain(members([1, 2])).first is None
    write(tmp_path, WAITED, "Fatal Python error: Segmentation fault")
    assert logs.explain(members([1, 2])).culprit == "rank 1"


def test_the_plog_of_a_ranks_process_is_that_ranks(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ASCEND_PROCESS_LOG_PATH", str(tmp_path / "cann"))
    plogs = tmp_path / "cann" / "debug" / "plog"
    plogs.mkdir(parents=True)
    logs = RankLogs(tmp_path, 2)
    write(tmp_path, WAITED, "quiet")
    old = plogs / "plog-72_1.log"
    old.write_text("EZ1001: of a process that had this pid before")
    os.utime(old, (time.time() - 9999,) * 2)
    (plogs / "plog-72_2.log").write_text("[ERROR] RUNTIME(72,python): EL0004: no memory")
    (plogs / "plog-999_1.log").write_text("EL0003: of a process that is no rank")
    found = logs.explain(members([71, 72]))
    assert (found.culprit, found.first.code) == ("rank 1", "EL0004")
    assert {one.code for one in found.findings} == {"EL0004", "EI0006"}


def test_of_failed_ranks_one_that_did_not_wait_is_the_first():
    logs = [LogText("rank0.log", WAITED, rank="rank 0"), LogText("r", "quiet", rank="rank 1")]
    assert first_of(explain(logs), {0, 1}) == 1
    assert first_of(explain(logs), {0}) == 0
    assert first_of(explain([]), {2, 1}) == 1


def test_ranks_that_ended_alike_are_told_together_the_first_one_first():
    names = {r: f"rank {r} (pid 9{r})" for r in range(4)}
    how = ("is lost", "was killed", "is lost", "is lost")
    dead = {r: f"{names[r]} {how[r]}" for r in names}
    assert together(dead, names, 2) == (
        "rank 2 (pid 92) is lost; likewise rank 0 (pid 90), rank 3 (pid 93); "
        "rank 1 (pid 91) was killed"
    )
    assert together({1: dead[1]}, names, 1) == "rank 1 (pid 91) was killed"


def test_of_a_log_only_so_much_is_quoted_as_is_read_in_a_message(tmp_path: Path):
    write(tmp_path, "y" * 300_000 + "\nlast words")
    quoted = tail(worker.log_file(tmp_path, 0))
    assert quoted.endswith("y\nlast words") and len(quoted) < 2000


def test_an_error_of_the_program_is_in_the_message_already():
    assert told(explain([LogText("rank0.log", "ValueError: only here")])) == ""
    assert told(explain([])) == ""


@pytest.fixture
def mortal(checkpoint: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    session = neoxlib.Session(checkpoint, 2, device="cpu", log_dir=tmp_path / "logs")
    yield session
    session.close()


def test_a_session_names_the_rank_that_failed_and_not_the_first_to_answer(mortal):
    """Rank 0 answers first, with the time-out that rank 1's failure causes."""
    with pytest.raises(RankError, match=r"^rank 1 .* raised in run_out_of_memory") as error:
        mortal._ranks.call(faults.run_out_of_memory)
    assert "failed first: rank 1, NPU out of memory" in str(error.value)
    assert "expandable_segments" in str(error.value) and "only waited: rank 0" in str(error.value)


def test_a_rank_that_hangs_is_named_by_the_one_that_waited(mortal, monkeypatch):
    monkeypatch.setattr("neoxlib.ranks.cluster.GRACE_SECONDS", 1)
    with pytest.raises(RankError) as error:
        mortal._ranks.call(faults.hang_alone)
    assert "look first at: rank 1" in str(error.value)
    pid = mortal._ranks.members[1]["pid"]
    assert str(error.value).startswith(f"rank 1 (pid {pid}) did not come to where other ranks")
    assert "its process is asleep (state S)" in str(error.value)
