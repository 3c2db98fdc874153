"""Asking hosts: over an ssh that runs commands here, so that nothing leaves this machine."""

import os
import socket
import sys
from pathlib import Path

import pytest

from neoxlib.errors import SettingsError
from neoxlib.hosts import asking, survey
from neoxlib.hosts.asking import Probe, Silent
from neoxlib.hosts.checks import HERE
from neoxlib.hosts.profile import HostsProfile, write_profile
from neoxlib.hosts.survey import Wanted, parse_hosts
from tests.support.ssh_to_here import ssh_to_here


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SSH", ssh_to_here(tmp_path))


@pytest.fixture
def probe(fake_ssh: None):
    probe = Probe("there", sys.executable)
    yield probe
    probe.close()


def test_a_host_says_what_it_is_after_its_shells_greeting(probe: Probe):
    facts = probe.ask("facts", ["torch", "none-such"])
    assert facts["name"] == socket.gethostname() and facts["reached_from"] == "127.0.0.1"
    assert facts["python"] == sys.version.split()[0] and facts["packages"]["none-such"] is None
    assert ["lo", "127.0.0.1", 8] in facts["interfaces"] and facts["cores"] >= 1
    assert facts["packages"]["torch"] and len(facts["source"]) == 64


def test_hosts_listen_for_each_other_and_an_error_there_is_an_error_here(probe: Probe):
    port = probe.ask("listen", "127.0.0.1")
    own, seconds = probe.ask("connect", "127.0.0.1", port)
    assert own == "127.0.0.1" and 0 < seconds < 3
    with pytest.raises(OSError, match="refused"):
        probe.ask("connect", "127.0.0.1", 1)


def test_a_model_is_described_by_its_files_and_hashed_whole_if_asked(probe: Probe, tmp_path: Path):
    assert probe.ask("model", str(tmp_path), False)["there"] is False
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights").write_bytes(bytes(3 << 20))
    (tmp_path / "dead").symlink_to("nowhere")
    quick, whole = (probe.ask("model", str(tmp_path), everything) for everything in (False, True))
    assert quick["files"]["weights"] == [3 << 20, ""] and len(whole["files"]["weights"][1]) == 64
    assert quick["files"]["config.json"] == whole["files"]["config.json"]
    assert quick["files"]["dead"] is None and quick["kind"]


def test_a_host_that_ends_or_is_late_is_silent_with_its_last_words(fake_ssh: None):
    away = Probe("away", sys.executable)
    with pytest.raises(Silent, match="timed out") as caught:
        away.ask("facts", [])
    away.close()
    assert caught.value.code == 255
    late = Probe("mute", sys.executable)
    with pytest.raises(Silent, match=r"no answer within 0\.2 s"):
        late.ask("facts", [], limit=0.2)
    late.close()


def test_a_survey_has_rows_of_every_host_and_a_profile_if_all_is_well(fake_ssh: None):
    found = survey.survey(Wanted({"there": 1}, network="127.0.0.0/8"))
    assert found.report.worst != "FAIL", found.report
    assert found.profile.hosts == {"there": 1} and found.profile.address == "127.0.0.1"
    assert {row.host for row in found.report.rows} == {HERE, "there"}


def test_the_hosts_of_a_profile_are_asked_again(fake_ssh: None, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    write_profile("one", HostsProfile({"there": 1}, "127.0.0.0/8", "127.0.0.1"))
    report = survey.survey_profile("one", str(tmp_path))
    rows = {row.check: row for row in report.rows if row.host == "there"}
    assert rows["Python"].status == "OK" and rows["model"].found.startswith("no model in")
    assert survey.survey_profile("") is None


def test_a_survey_goes_on_without_the_hosts_that_do_not_answer(fake_ssh: None):
    found = survey.survey(Wanted({"there": 1, "away": 1}))
    told = {(row.host, row.check): row.status for row in found.report.rows}
    assert found.profile is None and told["away", "reached"] == "FAIL"
    assert told["there", "Python"] == "OK"


def test_a_python_that_is_not_there_is_named(fake_ssh: None):
    found = survey.survey(Wanted({"there": 1}, python="/no/python"))
    (row,) = found.report.rows
    assert (row.check, row.needed) == ("Python", "/no/python") and "not found" in row.found


def test_the_network_is_the_one_of_ssh_or_the_one_named(fake_ssh: None):
    assert survey.survey(Wanted({"there": 1})).profile.network == "127.0.0.0/8"
    assert survey.survey(Wanted({"there": 1}, network="lo")).profile.network == "127.0.0.0/8"
    none = survey.survey(Wanted({"there": 1}, network="198.51.100.0/24")).report
    rows = [row for row in none.rows if row.status == "FAIL"]
    assert {row.host for row in rows} == {HERE, "there"}
    assert all("198.51.100.0/24" in row.needed for row in rows)


def test_hosts_are_read_with_their_ranks():
    assert parse_hosts(["a:4", "u@b:2", "10.0.0.1:1"]) == {"a": 4, "u@b": 2, "10.0.0.1": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no host is named"),
        (["a"], "'a' has no number of ranks"),
        (["a:0", "b:x", ":3"], "'a:0' has.*'b:x' has.*':3' has"),
        (["a:1", "a:2"], "a is named twice"),
        (["-oProxyCommand=x:1"], "has no number"),
    ],
)
def test_hosts_that_cannot_be_read_are_all_named(words, told):
    with pytest.raises(SettingsError, match=told):
        parse_hosts(words)


def test_nothing_of_a_host_runs_in_the_working_directory(fake_ssh, tmp_path, monkeypatch):
    (tmp_path / "socket.py").write_text("raise SystemExit('not mine')")
    monkeypatch.chdir(tmp_path)
    probe = Probe("there", sys.executable)
    assert probe.ask("clock") > 0
    probe.close()
    assert os.getcwd() == str(tmp_path)
