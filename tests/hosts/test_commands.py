"""The command `cluster`, on hosts that are made up."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neoxlib.__main__ import cli
from neoxlib.hosts import checks, survey
from neoxlib.hosts.profile import HostsProfile, read_profile
from neoxlib.hosts.rows import HostsReport
from neoxlib.hosts.slurm import Partition
from neoxlib.hosts.ways import Mpiexec
from tests.hosts.made_up import answers


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["cluster", *words])


def found(**changes: dict) -> survey.Survey:
    report = HostsReport(tuple(checks.judge(answers(**changes))))
    profile = HostsProfile({"host1": 2, "host2": 2}, "10.77.0.0/24", "10.77.0.1")
    return survey.Survey(report, None if report.worst == "FAIL" else profile)


@pytest.fixture(autouse=True)
def ipython_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))


def test_good_hosts_end_in_a_profile_and_the_parameters_for_it(monkeypatch):
    monkeypatch.setattr(survey, "survey", lambda wanted: found())
    done = run("--ssh", "host1:2", "host2:2", "--profile", "two")
    assert done.exit_code == 0, done.output
    assert "-p cluster_profile two -p world_size 4" in done.output
    assert read_profile("two").hosts == {"host1": 2, "host2": 2}


def test_a_fault_ends_with_1_and_writes_no_profile(monkeypatch, tmp_path):
    monkeypatch.setattr(survey, "survey", lambda wanted: found(host2={"source": None}))
    done = run("--ssh", "host1:2", "host2:2")
    assert done.exit_code == 1 and "not installed" in done.output
    assert not list(tmp_path.glob("profile_*"))


def test_what_cannot_be_read_ends_with_2(monkeypatch):
    assert run("--ssh", "host1").exit_code == 2
    assert run("host1:2").exit_code == 2
    assert run().exit_code == 2
    assert run("--ssh", "host1:2", "--slurm", "npu", "--nodes", "1").exit_code == 2
    monkeypatch.setattr(survey, "survey", lambda wanted: found())
    assert run("--ssh", "host1:2", "--profile", "no name").exit_code == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "in one way: --ssh host1:4 host2:4, --mpi HOSTFILE or --slurm"),
        (("--ssh", "--mpi", "file", "host1:2"), "in one way"),
        (("--mpi", "file", "host1:2"), "host1:2: hosts are named with --ssh alone"),
        (("--mpi", "file", "--nodes", "2"), "go with --slurm"),
        (("--ssh", "host1:2", "--ranks-per-node", "2"), "go with --slurm"),
        (("--slurm", "npu"), "--nodes and --ranks-per-node go with --slurm"),
        (("--mpi", "nowhere"), "hostfile nowhere cannot be read"),
        (("--slurm", "npu", "--nodes", "0"), "0 is not in the range"),
    ],
)
def test_a_form_that_is_none_is_refused_with_those_there_are(words, told):
    done = run(*words)
    assert done.exit_code == 2 and told in " ".join(done.output.split()), done.output


def test_each_form_asks_for_its_own_way(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(survey, "survey", lambda wanted: (asked.append(wanted), found())[1])
    monkeypatch.setattr("neoxlib.hosts.ways.mpiexec", lambda: Mpiexec(("mpiexec", "--host")))
    file = tmp_path / "hostfile"
    file.write_text("host1 slots=2\n")
    run("--mpi", str(file), "--network", "10.77.0.0/24")
    run("--slurm", "npu", "--nodes", "3", "--sha256")
    run("--ssh", "host1:2")
    mpi, slurm, ssh = asked
    assert (mpi.hosts, mpi.mpi.name, mpi.network) == ({"host1": 2}, "mpiexec", "10.77.0.0/24")
    assert (slurm.slurm, slurm.hosts, slurm.sha256) == (Partition("npu", 3, 0), {}, True)
    assert (ssh.hosts, ssh.mpi, ssh.slurm) == ({"host1": 2}, None, None)
