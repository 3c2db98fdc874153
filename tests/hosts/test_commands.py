"""The command `cluster`, on hosts that are made up."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neoxlib.__main__ import cli
from neoxlib.hosts import checks, survey
from neoxlib.hosts.profile import HostsProfile, read_profile
from neoxlib.hosts.rows import HostsReport
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
    monkeypatch.setattr(survey, "survey", lambda wanted: found())
    assert run("--ssh", "host1:2", "--profile", "no name").exit_code == 2
