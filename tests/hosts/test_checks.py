"""Whether hosts can work together, on hosts that are made up."""

from dataclasses import replace

import pytest

from neoxlib.hosts import checks
from neoxlib.hosts.checks import HERE, Answers
from neoxlib.hosts.rows import HostsReport
from neoxlib.hosts.ways import Mpiexec, Srun
from tests.hosts.made_up import answers, answers_of

MPI = Mpiexec(("mpiexec", "-n", "1", "--host"))


def statuses(all_: list[Answers]) -> dict[tuple[str, str], str]:
    return {(row.host, row.check): row.status for row in checks.judge(all_)}


def test_hosts_that_are_alike_pass_every_check():
    rows = checks.judge(answers())
    assert {row.status for row in rows} == {"OK"} and not any(row.repair for row in rows)
    assert {row.host for row in rows} == {HERE, "host1", "host2"}


@pytest.mark.parametrize(
    ("check", "change", "status"),
    [
        ("Python", {"python": "3.11.2"}, "FAIL"),
        ("neoxlib", {"source": None}, "FAIL"),
        ("neoxlib", {"source": "another" * 9}, "FAIL"),
        ("packages", {"packages": {"torch": "2.12.0"}}, "FAIL"),
        ("packages", {"packages": {"torch": None}}, "FAIL"),
        ("packages", {"packages": {"pyzmq": "1.0"}}, "WARN"),
        ("name", {"name": "host1"}, "FAIL"),
        ("name", {"name": "desk"}, "FAIL"),
        ("NPUs", {"cores": 1}, "WARN"),
        ("ports", {"npus": 8, "listening": [60003]}, "WARN"),
    ],
)
def test_a_host_that_differs_is_named_with_the_fault_and_a_repair(check, change, status):
    all_ = answers(host2=change)
    rows = [row for row in checks.judge(all_) if row.host == "host2" and row.check == check]
    assert [row.status for row in rows] == [status]
    assert rows[0].needed and rows[0].repair


@pytest.mark.parametrize(
    ("theirs", "ours", "repair"),
    [
        ({"torch": "2.12.0"}, {}, "pip install torch==1.2.3"),
        ({"torch": None, "pyzmq": "9"}, {}, "pip install torch==1.2.3 pyzmq==1.2.3"),
        ({}, {"torch": "2.13.0+cpu"}, "pip install torch==2.13.0"),
        ({}, {"torch_npu": None}, "pip uninstall torch_npu"),
    ],
)
def test_packages_that_differ_are_repaired_by_the_versions_of_this_machine(theirs, ours, repair):
    all_ = [answers_of(HERE, 1, packages=ours), answers_of("host2", 3, packages=theirs)]
    (row,) = [row for row in checks.judge(all_) if row.check == "packages"]
    assert row.repair == f"ssh host2 /opt/neoxlib/bin/python -m {repair}"


def test_a_fault_of_one_host_is_not_laid_to_another():
    found = statuses(answers(host2={"python": "3.12.1"}))
    assert [key for key, status in found.items() if status != "OK"] == [("host2", "Python")]


def test_hosts_with_npus_need_one_for_each_rank():
    found = statuses(answers(host1={"npus": 2}, host2={"npus": 1}))
    assert (found["host1", "NPUs"], found["host2", "NPUs"]) == ("OK", "FAIL")


def test_the_machine_that_asks_may_be_one_of_the_hosts():
    here = answers()[0]
    all_ = [*answers(), replace(here, host="desk", ranks=2)]
    assert statuses(all_)["desk", "name"] == "OK"


@pytest.mark.parametrize(
    ("offset", "unsure", "status"),
    [(0.4, 0.0, "OK"), (-0.8, 0.01, "WARN"), (0.8, 0.5, "OK"), (90.0, 0.5, "WARN")],
)
def test_a_clock_is_off_only_by_more_than_the_answer_took(offset, unsure, status):
    all_ = answers()
    all_[1] = replace(all_[1], offset=offset, unsure=unsure)
    assert statuses(all_)["host1", "clock"] == status


def test_a_host_that_others_do_not_reach_is_told_with_the_reason():
    all_ = answers()
    all_[2] = replace(all_[2], reached={"host1": "timed out", HERE: ""})
    (row,) = [row for row in checks.judge(all_) if row.status == "FAIL"]
    assert (row.host, row.check) == ("host2", "network")
    assert "10.77.0.3" in row.found and "host1: timed out" in row.found
    assert "--add-source=10.77.0.0/24" in row.repair


FILES = {"config.json": [500, "aa"], "model.safetensors": [9, ""]}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"there": False, "path": "/m"}, "no model in /m"),
        ({"files": {"config.json": [500, "aa"]}}, "missing files: model.safetensors"),
        ({"files": FILES | {"config.json": [500, "bb"]}}, "other or missing files: config.json"),
        ({"files": FILES | {"model.safetensors": [8, ""]}}, "model.safetensors"),
        ({"files": FILES | {"more.bin": None}}, "more.bin"),
    ],
)
def test_a_model_that_is_not_the_same_on_a_host_fails_there(model, words):
    whole = {"there": True, "path": "/m", "files": FILES, "kind": "ext4", "free": 1}
    all_ = [replace(one, model=whole) for one in answers()]
    all_[2] = replace(all_[2], model=whole | model)
    (row,) = [row for row in checks.judge(all_) if row.status == "FAIL"]
    assert (row.host, row.check) == ("host2", "model") and words in row.found
    assert row.repair.startswith("rsync -a")


def test_what_was_compared_of_a_model_is_said():
    for digest, words in (("", "sizes, and sha256 of the small files"), ("cc", "every file")):
        files = {"config.json": [500, "aa"], "model.safetensors": [9, digest]}
        whole = {"there": True, "path": "/m", "files": files, "kind": "nfs4", "free": 1}
        rows = checks.judge([replace(one, model=whole) for one in answers()])
        assert words in rows[-1].found and "nfs4" in rows[-1].found


@pytest.mark.parametrize(
    ("said", "code", "repair"),
    [
        ("u@h: Permission denied (publickey).", 255, "ssh-copy-id h"),
        ("Host key verification failed.", 255, "ssh h true"),
        ("REMOTE HOST IDENTIFICATION HAS CHANGED!", 255, "ssh-keygen -R h"),
        ("Could not resolve hostname h", 255, "getent hosts h"),
        ("port 22: Connection refused", 255, "systemctl"),
        ("port 22: Connection timed out", 255, "ping h"),
        ("port 22: No route to host", 255, "ip route get h"),
        ("sh: 1: python9: not found", 127, "--python"),
        ("", 1, "ssh -v h"),
    ],
)
def test_a_host_that_does_not_answer_is_told_what_repairs_it(said, code, repair):
    row = checks.silent("h", code, said, "python9")
    assert row.status == "FAIL" and repair in row.repair and row.found


@pytest.mark.parametrize(
    ("way", "said", "code", "repair"),
    [
        (MPI, "could not access\nor execute an executable: python9", 1, "cluster --python"),
        (Srun("7", "npu"), "slurmstepd: error: execve(): python9: No such file", 2, "--python"),
        (Srun("7", "npu"), "srun: error: Unable to create step", 1, "srun -p npu -w h python9"),
        (MPI, "ssh: connect to host h port 22: Connection refused", 1, "systemctl"),
        (MPI, "", 1, "mpiexec -n 1 --host h python9 --version"),
    ],
)
def test_each_way_is_repaired_in_its_own_words(way, said, code, repair):
    assert repair in checks.silent("h", code, said, "python9", way).repair


def test_repairs_on_nodes_of_slurm_need_no_ssh():
    all_ = answers(host2={"source": None, "packages": {"torch": "2.12.0"}})
    gone = {"there": False, "path": "/m"}
    all_ = [replace(one, way=Srun("7", "npu"), model=gone) for one in all_]
    rows = [row for row in checks.judge(all_) if row.host == "host2" and row.status == "FAIL"]
    repairs = {row.check: row.repair for row in rows}
    assert {"neoxlib", "packages", "model"} <= set(repairs)
    for check in ("neoxlib", "packages", "model"):
        assert "srun -p npu -w host2" in repairs[check] and "ssh" not in repairs[check]


def test_a_host_outside_the_network_of_the_ranks_is_told_with_its_addresses():
    one = answers_of("host1", 2)
    row = checks.outside(one, checks.IPv4Network("10.99.0.0/16"))
    assert row.status == "FAIL" and "10.77.0.2/24 (hpc0)" in row.found
    assert checks.address_in(one, checks.IPv4Network("10.99.0.0/16")) is None
    assert checks.address_in(one, checks.IPv4Network("10.77.0.0/24")) == ("10.77.0.2", "hpc0")


def test_a_report_shows_like_rows_as_one_and_ends_in_the_counts():
    report = HostsReport(tuple(checks.judge(answers(host2={"python": "3.12.1"}))))
    lines = repr(report).splitlines()
    assert report.worst == "FAIL" and lines[-1] == report.summary
    assert sum("packages" in line for line in lines) == 1
    assert len(report.frame) == len(report.rows) and "<table" in report._repr_html_()
