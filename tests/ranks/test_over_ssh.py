"""Ranks over ssh, by an ssh that runs commands here: `make verify-hosts` has real hosts."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import neoxlib
from neoxlib.errors import RankError
from neoxlib.hosts.profile import HostsProfile, write_profile
from neoxlib.hosts.shares import GROUP
from neoxlib.ranks.over_ssh import HostsLauncher, Link
from tests.support.programs import programs
from tests.support.sessions import descendants, gone
from tests.support.ssh_to_here import ssh_to_here

IDS = torch.tensor([[5, 9, 2, 17], [7, 3, 250, 1]])
TWO = HostsProfile({"one": 1, "two": 1}, "127.0.0.0/8", "127.0.0.1", sys.executable)

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture(scope="module")
def session(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, plain_environment: None
) -> Iterator[neoxlib.Session]:
    folder = tmp_path_factory.mktemp("over_ssh")
    before = set(descendants())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)
        path = write_profile("two", TWO)
        ssh = list(ssh_to_here(folder))
        path.write_text(f"{path.read_text()}c.HostsLauncher.ssh_cmd = {ssh!r}\n")
        logs = folder / "logs"
        with neoxlib.Session(checkpoint, 2, cluster_profile="two", log_dir=logs) as opened:
            opened.before = before  # processes of other sessions
            yield opened


def test_a_session_over_ssh_answers_as_one_process(session: neoxlib.Session, checkpoint: Path):
    alone = neoxlib.load(checkpoint, device="cpu")
    assert (session.logits(IDS) - alone.logits(IDS)).abs().max() < 1e-4
    assert session.ranks["pid"].is_unique and len(session.ranks) == 2


def test_the_logs_of_ranks_come_to_this_host(session: neoxlib.Session):
    deadline = time.monotonic() + 30
    texts = []
    while time.monotonic() < deadline and not all("is ready" in text for text in texts or [""]):
        texts = [(session.log_dir / f"rank{r}.log").read_text() for r in range(2)]
    assert all(f"rank {r} of 2 is ready" in text for r, text in enumerate(texts))


def test_a_call_that_is_broken_off_stops_on_ranks_over_ssh_and_they_stay(session: neoxlib.Session):
    def break_off(row: int, piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.generate(["A rank is"], max_new_tokens=60, stream=break_off)
    assert session.logits(IDS).shape == (2, 4, 300)


def test_connection_files_are_this_users_alone_and_encryption_is_on(session: neoxlib.Session):
    folder = Path(session._ranks._scratch)
    files = list(folder.rglob("ipcontroller*.json"))
    assert files and {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert all('"curve_serverkey": "' in file.read_text() for file in files)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_rank_that_is_killed_between_calls_ends_all_and_is_told(session, caplog):
    """The last test of this session: it ends it."""
    started = [pid for pid in descendants() if pid not in session.before]
    ranks = session.ranks.pid.tolist()
    os.kill(ranks[1], signal.SIGKILL)
    assert gone(ranks)
    deadline = time.monotonic() + 30
    while "killed" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "the session over one, two has ended: rank 1 on two was killed by SIGKILL" in caplog.text
    with pytest.raises(RankError, match=r"rank 1 \(pid \d+\) was killed by SIGKILL"):
        session.logits(IDS)
    assert gone(started)


def test_a_host_that_ssh_does_not_reach_is_told_with_its_words(tmp_path: Path):
    away = Link("away", [2, 3], [*ssh_to_here(tmp_path), "--", "away", "true"], tmp_path)
    away.process.wait()
    told = away.ended()
    away.close()
    away.end()
    assert set(told) == {2, 3} and "exit code 255" in told[2] and "Connection timed out" in told[2]


def test_a_host_hears_a_beat_however_busy_this_process_is(tmp_path: Path):
    """The other end is cat here: it says what it hears, the log of rank 2 and then beats."""
    link = Link("there", [2], ["cat"], tmp_path)
    link.tell(log=2, text="a line, ")
    process = link.process
    deadline = time.monotonic() + 30
    heard = []
    link._take = heard.append
    while len(heard) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert heard[-1] == {"beat": 1} and process.poll() is None
    link.close()
    assert process.wait(30) == 0
    link.end()


def test_a_relay_that_loses_its_process_ends(tmp_path: Path):
    link = Link("there", [2], ["sh", "-c", "exit 7"], tmp_path)
    assert link.process.wait(30) == 7
    assert "ended with exit code 7" in link.ended()[2]
    link.close()
    link.end()


def reached(launcher: HostsLauncher, ranks: int) -> tuple[list[str], dict[str, int]]:
    """The beginning of the command that reaches a host, and the ranks of each."""
    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop of the browser's tests
        way, hosts = pool.submit(asyncio.run, launcher._reached(ranks)).result()
    return way.reach("there", ["python"]), hosts


def test_hosts_are_reached_by_what_the_profile_names():
    two = {"a": 2, "b": 2}
    words, hosts = reached(HostsLauncher(hosts=two, mpi_cmd=["mpiexec", "--host"]), 3)
    assert words == ["mpiexec", "--host", "there", "python"] and hosts == two
    words, hosts = reached(HostsLauncher(hosts=two, ssh_cmd=["ssh", "-T"]), 3)
    assert words == ["ssh", "-T", "--", "there", "python"] and hosts == two


def test_a_session_takes_no_more_nodes_of_slurm_than_its_ranks_need(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    asked = 'echo "$@" >> {folder}/asked; while [ "${1#--}" != "$1" ]; do shift; done; '
    job = "SLURM_JOB_ID=7 SLURM_JOB_NODELIST=n exec "
    salloc = asked.replace("{folder}", str(tmp_path)) + job + '"$@"'
    programs(tmp_path, monkeypatch, salloc=salloc, scontrol="printf 'n1\\nn2\\n'")
    launcher = HostsLauncher(slurm=["npu", 4, 2], environment={GROUP: "1,2"})
    words, hosts = reached(launcher, 3)
    assert "--nodes=2" in (tmp_path / "asked").read_text()
    assert words[:2] == ["srun", "--jobid=7"] and hosts == {"n1": 2, "n2": 2}
    assert launcher._group() == (0, 1), "a job of its own is not divided"
    launcher.job.close()
    assert HostsLauncher(environment={GROUP: "1,2"})._group() == (1, 2)
