"""The processes of a session: how they start, how a lost one is told, and that none is left."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

import neoxlib
from neoxlib.errors import RankError, SettingsError, WeightsError
from neoxlib.ranks import launch, worker
from tests.support import rank_faults as faults
from tests.support.sessions import gone, open_session

ROOT = Path(__file__).parents[2]
PROMPTS = ["A rank is", "Zwei Ränge, 两个"]
IDS = torch.tensor([[5, 9, 2, 17], [7, 3, 250, 1]])

pytestmark = pytest.mark.usefixtures("plain_environment")


DRIVER = """
import asyncio, sys, time
import neoxlib

async def cell():  # a notebook's cell runs inside a loop that is already running
    session = neoxlib.Session(sys.argv[1], device="cpu")
    print(session._ranks._scratch, "torch" in sys.modules, flush=True)
    time.sleep(60)

asyncio.run(cell())
"""


FORKS = """
import os, sys
import neoxlib

session = neoxlib.Session(sys.argv[1], device="cpu")
for way in ("exit", "drop", "close", "ask"):
    child = os.fork()
    if child:
        print(way, os.waitpid(child, 0)[1], flush=True)
    elif way == "exit":
        sys.exit()  # its handlers run
    elif way == "ask":
        try:
            session.logits([[1]])
        except neoxlib.errors.RankError as error:
            os._exit("of process" not in str(error))
    elif way == "drop":
        del session
        os._exit(0)
    else:
        with session:
            pass
        os._exit(0)
print(session.logits([[5, 9]]).shape, len(list(session.log_dir.iterdir())))
"""


@pytest.fixture
def mortal(checkpoint: Path, tmp_path: Path, new_processes: Callable) -> Iterator[neoxlib.Session]:
    """A session that a test may break."""
    session = open_session(checkpoint, tmp_path)
    yield session
    session.close()


def test_an_idle_rank_that_is_killed_is_an_error_of_the_next_call(mortal, new_processes):
    pid = int(mortal.ranks.pid[1])
    left = new_processes()
    os.kill(pid, signal.SIGKILL)
    assert gone([pid])
    with pytest.raises(
        RankError, match=rf"rank 1 \(pid {pid}\) was killed by SIGKILL, not by the kernel's out-of"
    ) as error:
        mortal.logits(IDS)
    assert "very likely" not in str(error.value)
    assert str(mortal.log_dir / "rank1.log") in str(error.value)
    with pytest.raises(RankError, match=rf"has ended: rank 1 \(pid {pid}\) was killed"):
        mortal.logits(IDS)
    assert gone(left)


def test_a_crash_in_a_call_is_an_error_with_the_last_words_of_that_rank(mortal):
    with pytest.raises(
        RankError, match=r"rank 1 .* segmentation fault \(SIGSEGV\) \(during crash_alone\)"
    ) as error:
        mortal._ranks.call(faults.crash_alone)
    assert "last words, 最后" in str(error.value) and "faults.py" in str(error.value)
    assert "ended" in repr(mortal)


def test_a_rank_that_raises_alone_ends_the_session_with_its_traceback(mortal, new_processes):
    left = new_processes()
    with pytest.raises(RankError, match=r"rank 1 .* raised in fail_alone") as error:
        mortal._ranks.call(faults.fail_alone)
    assert 'raise ValueError("only here")' in str(error.value)
    with pytest.raises(RankError, match="has ended: rank 1"):
        mortal.generate(PROMPTS)
    assert gone(left)


def test_ranks_that_raise_different_errors_are_told_so(mortal):
    with pytest.raises(
        RankError, match=r"rank [01] .* in disagree and the other .* other errors"
    ) as error:
        mortal._ranks.call(faults.disagree)
    assert f"{str(error.value)[:6]} says no" in str(error.value)


def test_a_model_that_cannot_be_loaded_is_the_error_of_load_and_leaves_nothing(
    checkpoint, tmp_path, new_processes
):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(WeightsError) as told:
        neoxlib.load(model)
    with pytest.raises(WeightsError) as error:
        neoxlib.Session(model, device="cpu", log_dir=tmp_path / "logs")
    assert str(error.value) == str(told.value)
    assert gone(new_processes())


@pytest.mark.parametrize("stopped", ["nothing", "a rank and the controller"])
def test_a_killed_driver_leaves_no_process_and_no_folder_but_the_users(
    checkpoint, tmp_path, stopped
):
    script = tmp_path / "driver.py"
    mine = tmp_path / "mine"
    script.write_text(DRIVER)
    mine.mkdir()
    command = [sys.executable, "-W", "error", str(script), str(checkpoint)]
    env = os.environ | {"TMPDIR": str(tmp_path), "NEOXLIB_SCRATCH": str(mine)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as driver:
        scratch, torch_is_here = driver.stdout.readline().split()
        pids = [process.pid for process in psutil.Process(driver.pid).children(recursive=True)]
        assert len(pids) >= 3 and all(map(worker.alive, pids))
        for pid in pids[: 0 if stopped == "nothing" else -1]:
            os.kill(pid, signal.SIGSTOP)
        driver.kill()
        assert gone(pids)
    assert not Path(scratch).exists() and mine.is_dir()
    assert torch_is_here == "False"


def test_a_forked_copy_of_the_driver_ends_nothing(checkpoint, tmp_path):
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FORKS, str(checkpoint)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    said = ["exit 0", "drop 0", "close 0", "ask 0", "torch.Size([1, 2, 300]) 2"]
    assert done.stdout.splitlines() == said, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("neoxlib-")] == []


@pytest.fixture
def shadows(tmp_path: Path) -> Path:
    """A folder whose modules have the names of Python's own and of those that ranks import."""
    for name in ("random", "secrets", "yaml", "torch", "torch_npu", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not the one you want')\n")
    (tmp_path / "own").mkdir()
    helpers = "import os, sys\ndef where(engine):\n    return os.getcwd(), sys.path\n"
    (tmp_path / "own" / "helpers.py").write_text(helpers)
    return tmp_path


def test_ranks_never_import_from_the_current_folder(checkpoint, shadows, monkeypatch):
    """Nor where an empty entry of PYTHONPATH names it, as after CANN's set_env.sh."""
    monkeypatch.chdir(shadows)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}::")
    monkeypatch.setattr(sys, "path", [*sys.path, "", str(shadows / "own")])
    where = importlib.import_module("helpers").where  # from a folder that the driver names
    with open_session(checkpoint, shadows / "logs") as session:
        folder, path = session.apply(where)
    assert folder == str(shadows) and str(shadows / "own") in path
    assert not {"", ".", str(shadows)} & set(path)


def test_ranks_take_the_signals_that_the_thread_of_the_driver_blocks(checkpoint, tmp_path):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        session = open_session(checkpoint, tmp_path / "logs", 1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with session:
        status = Path(f"/proc/{session.ranks.pid[0]}/status").read_text()
    assert "SigBlk:\t0000000000000000" in status


def test_warnings_that_are_errors_here_are_none_in_ranks(checkpoint, tmp_path, monkeypatch):
    """ipyparallel uses what ipykernel deprecates: its ranks could not start."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with open_session(checkpoint, tmp_path / "logs") as session:
        assert session.logits(IDS).shape == (2, 4, 300)


def test_ranks_that_cannot_start_say_why(checkpoint, shadows, monkeypatch, new_processes):
    monkeypatch.setenv("PYTHONPATH", str(shadows))  # it comes first, as its owner wants it
    with pytest.raises(RankError, match=r"has ended \(while starting\)(.|\n)*not the one you want"):
        open_session(checkpoint, shadows / "logs")
    assert gone(new_processes())


def test_a_profile_chooses_the_launchers(checkpoint, tmp_path, monkeypatch, new_processes):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with pytest.raises(SettingsError, match="cluster_profile 'mine' is not in"):
        neoxlib.Session(checkpoint, cluster_profile="mine")
    profile = tmp_path / "profile_mine"
    profile.mkdir()
    (profile / "ipcluster_config.py").write_text("c.Cluster.engine_launcher_class = 'local'\n")
    with neoxlib.Session(
        checkpoint, device="cpu", cluster_profile="mine", log_dir=tmp_path / "logs"
    ) as session:
        assert session.logits(IDS).shape == (2, 4, 300)
        os.kill(int(session.ranks.pid[0]), signal.SIGKILL)
        with pytest.raises(RankError, match=r"rank 0 .* has ended"):
            session.logits(IDS)
    assert gone(new_processes())


def test_ranks_that_register_while_the_driver_connects_are_asked_for_again(
    checkpoint, monkeypatch, new_processes
):
    """The first client hears of no rank, as one that listens a moment too late."""
    connect, clients = launch.connect, []

    def deaf_at_first(*args):
        clients.append(connect(*args))
        if len(clients) == 1:
            clients[0]._notification_handlers["registration_notification"] = lambda _: None
        return clients[-1]

    monkeypatch.setattr(launch, "connect", deaf_at_first)
    monkeypatch.setattr(launch, "ASK_SECONDS", 2.0)
    monkeypatch.setattr(launch, "START_SECONDS", 60)
    with neoxlib.Session(checkpoint, 2, device="cpu") as session:
        assert sorted(clients[-1].ids) == [0, 1] and len(clients) >= 2
        assert session.logits(IDS).shape[:2] == (2, 4)
    assert gone(new_processes())


def test_calls_leave_nothing_behind_in_the_driver_or_the_controller(checkpoint):
    with neoxlib.Session(checkpoint, 2, device="cpu") as session:
        for _ in range(9):
            session.logits(IDS)
        ranks = session._own
        kept = [ranks._client.results, ranks._client.outstanding]
        kept += [one.history for one in (ranks._client, *ranks._views)]
        assert [len(one) for one in kept] == [0, 0, 2, 1, 1], "those of the last call alone"
        there = ranks._client.queue_status()
        assert {there[r]["completed"] for r in range(2)} == {0} and there["unassigned"] == 0


def test_a_session_that_is_closed_during_a_call_ends_the_call(mortal, new_processes):
    """By another thread, while the caller's function for the pieces also closes it."""
    left = new_processes()
    other = threading.Thread(target=mortal.close)

    def close(row: int, piece: str) -> None:
        if not other.ident:
            other.start()
        mortal.close()

    with pytest.raises(RankError, match="this session has ended: it was closed"):
        mortal.generate(PROMPTS, max_new_tokens=60, stream=close)
    other.join()
    assert gone(left)


def test_interrupts_while_a_session_is_closed_leave_nothing_of_it(
    checkpoint, tmp_path, new_processes
):
    session = open_session(checkpoint, tmp_path)
    scratch = Path(session._own._scratch)

    def interrupt() -> None:
        for _ in range(3):
            time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        session.close()
        thread.join()
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert not scratch.exists() and gone(new_processes(), 5)
