"""A run that a signal ends is told as such, with a report, and leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from neoxlib.workbook import pages
from neoxlib.workbook import results as workbook_results
from neoxlib.workbook.kernel import Interrupted, Signals, ThisPython
from neoxlib.workbook.run import Run
from tests.support.small_notebooks import write

OPENS_RANKS = """\
import json, os, pathlib, time
from neoxlib import Session
session = Session({checkpoint!r}, device="cpu")
pathlib.Path({ready!r}).write_text(json.dumps([os.getpid(), *map(int, session.ranks.pid)]))
time.sleep(60)"""

WAITS = """\
import json, os, pathlib, time
pathlib.Path({ready!r}).write_text(json.dumps([os.getpid()]))
time.sleep(60)"""


@pytest.fixture(autouse=True)
def hears_hangups():
    """As in a terminal: below nohup the tests' processes would inherit that SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def report_of(tmp_path: Path, cell: str) -> tuple[subprocess.Popen, list[int], Path]:
    """`report` of two notebooks whose first waits: the process, the pids it told, the outputs."""
    ready = tmp_path / "ready"
    outputs = tmp_path / "outputs"
    cells = "seed: int = 0  # s", cell.replace("{ready!r}", repr(str(ready)))
    books = [write(tmp_path, "one", *cells), write(tmp_path, "two", cells[0])]
    command = [sys.executable, "-m", "neoxlib", "report", *books, "--outputs", str(outputs)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 100
    while not (ready.is_file() and ready.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process, json.loads(ready.read_text()), outputs


@pytest.mark.parametrize(
    ("number", "cell", "code"),
    [
        (signal.SIGINT, OPENS_RANKS, 130),
        (signal.SIGTERM, WAITS, 143),
        (signal.SIGHUP, WAITS, 129),
    ],
)
def test_a_signal_ends_the_run_as_interrupted_and_leaves_a_report(
    tmp_path, checkpoint, number, cell, code
):
    process, pids, outputs = report_of(
        tmp_path, cell.replace("{checkpoint!r}", repr(str(checkpoint)))
    )
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == code and "Traceback" not in said, said
    (folder,) = outputs.glob("*/*")  # the second notebook was not begun
    results = workbook_results.read_results(folder)
    assert (results["status"], results["error"]["type"]) == (
        "interrupted",
        "Interrupted",
    ) and results["finished"]
    assert number.name in results["error"]["message"] and number.name in said
    assert all(
        "badge interrupted" in page.read_text()
        for page in (folder / "report.html", outputs / "index.html")
    )
    assert len(below) >= len(pids) and not psutil.wait_procs(below, timeout=60)[1]
    assert f"{'not run':<14}two\n" in said, "what did not start is told"
    assert "- not run: two\n" in (outputs / "summary.md").read_text()
    assert not list(tmp_path.glob("neoxlib-*")), "no temporary folder is left"


def test_the_keys_of_a_kernel_are_in_no_file_once_it_runs(tmp_path):
    process, _, _ = report_of(tmp_path, WAITS)
    left = sorted(path.name for path in tmp_path.iterdir())
    process.kill()
    process.communicate(timeout=100)
    assert left == ["one.ipynb", "outputs", "ready", "two.ipynb"]


def test_a_signal_while_a_kernel_starts_leaves_no_keys(monkeypatch):
    with Signals() as signals:
        monkeypatch.setattr(ThisPython, "signals", signals, raising=False)
        with pytest.raises(Interrupted), signals.running():
            ThisPython().write_connection_file()
            folder = Path(signals.folder)
            assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
            assert folder.stat().st_mode & 0o777 == 0o700
            signal.raise_signal(signal.SIGTERM)
    assert not folder.exists()


def test_a_signal_in_the_kernel_is_told_as_such(tmp_path):
    process, (kernel,), outputs = report_of(tmp_path, WAITS)
    os.kill(kernel, signal.SIGINT)
    said = process.communicate(timeout=100)[0]
    statuses = {
        folder.parent.name: workbook_results.read_results(folder)["status"]
        for folder in outputs.glob("*/*")
    }
    assert process.returncode == 130 and statuses == {"one": "interrupted", "two": "ok"}, said


def test_a_run_whose_process_was_killed_is_not_running_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path))
    begun = "import os; from neoxlib.workbook.run import Run; Run.start('one', {'seed': 0})"
    command = f"{begun}; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == -signal.SIGKILL
    Run.start("two", {"seed": 0})  # runs on, in this process
    text = pages.write_index(tmp_path).read_text(encoding="utf-8")
    assert text.count("badge interrupted") == 1 and text.count("badge running") == 1
    assert "ended without a word" in text


def test_a_run_that_its_process_leaves_in_the_middle_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path))
    command = (
        "import os; from neoxlib.workbook.run import Run; Run.start('one', {'seed': 0}); os.fork()"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
    (folder,) = tmp_path.glob("one/*")
    assert workbook_results.read_results(folder)["status"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_kernel_in_the_middle_of_a_run_is_noted(tmp_path, number):
    """A kernel of JupyterLab, whose run nobody ends from outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEOXLIB_OUTPUTS", str(tmp_path))
        manager, client = start_new_kernel()
    client.execute(
        "from neoxlib.workbook.run import Run; Run.start('one', {'seed': 0})", reply=True
    )
    client.execute("import time; time.sleep(60)")
    process = manager.provisioner.process
    process.send_signal(number)
    assert process.wait(100) == -number
    client.stop_channels()
    manager.cleanup_resources()
    (folder,) = tmp_path.glob("one/*")
    assert workbook_results.read_results(folder)["status"] == "interrupted"


HOLDS_A_LOCK = """\
import os, signal
from neoxlib import process
process.EXIT_SECONDS = 2
get_ipython().history_manager.db_input_cache_lock.acquire()
os.kill(os.getpid(), signal.SIGTERM)"""


def test_a_kernel_ends_though_the_signal_came_while_it_held_a_lock_of_its_exit(tmp_path):
    """IPython holds it as a cell begins, and waits for it as the process ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEOXLIB_OUTPUTS", str(tmp_path))
        manager, client = start_new_kernel()
    client.execute(
        "from neoxlib.workbook.run import Run; Run.start('one', {'seed': 0})", reply=True
    )
    client.execute(HOLDS_A_LOCK)
    assert manager.provisioner.process.wait(100) == -signal.SIGTERM
    client.stop_channels()
    manager.cleanup_resources()
    (folder,) = tmp_path.glob("one/*")
    assert workbook_results.read_results(folder)["status"] == "interrupted"


def test_a_run_whose_folder_is_gone_needs_no_end(tmp_path):
    begun = "from neoxlib.workbook.run import Run; run = Run.start('one', {'seed': 0})"
    command = [sys.executable, "-c", f"{begun}; import shutil; shutil.rmtree(run.folder)"]
    env = os.environ | {"NEOXLIB_OUTPUTS": str(tmp_path)}
    assert subprocess.run(command, env=env, capture_output=True, check=True).stderr == b""
