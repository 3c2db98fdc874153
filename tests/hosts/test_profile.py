"""The profile of a set of hosts, as it is written and as Session reads it."""

import sys
from pathlib import Path

import pytest
from traitlets.config import Config

from neoxlib.errors import SettingsError
from neoxlib.hosts import profile
from neoxlib.hosts.profile import HostsProfile, profile_table, read_profile, write_profile
from neoxlib.hosts.slurm import Partition

PLACE = "10.77.0.0/24", "10.77.0.1"
TWO = HostsProfile({"host1": 4, "u@host2": 2}, "10.77.0.0/24", "10.77.0.1", "/opt/bin/python")


@pytest.fixture(autouse=True)
def ipython_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    return tmp_path


def test_a_profile_is_read_as_it_was_written_and_only_its_user_enters_it():
    path = write_profile("two", TWO)
    assert read_profile("two") == TWO and path.parent.stat().st_mode & 0o777 == 0o700
    assert write_profile("two", TWO) == path
    assert "neoxlib cluster --ssh host1:4 u@host2:2 --network 10.77.0.0/24" in path.read_text()


@pytest.mark.parametrize(
    ("one", "command", "room"),
    [
        (HostsProfile({"a": 2}, *PLACE, mpi=("mpiexec", "-n", "1", "--host")), "--mpi HOSTFILE", 2),
        (
            HostsProfile({}, *PLACE, slurm=Partition("npu", 2, 4)),
            "--slurm npu --nodes 2 --ranks-per-node 4",
            8,
        ),
    ],
)
def test_profiles_of_mpi_and_slurm_are_read_as_they_were_written(one, command, room):
    path = write_profile("one", one)
    assert read_profile("one") == one and one.room == room
    assert f"neoxlib cluster {command} --network" in path.read_text()


def test_the_nodes_of_slurm_have_no_names_before_a_session():
    write_profile("nodes", HostsProfile({}, *PLACE, slurm=Partition("npu", 2, 4)))
    assert [row[:3] for row in profile_table("nodes").rows] == [
        ("npu, node 1", "4", "0 to 3"),
        ("npu, node 2", "4", "4 to 7"),
    ]


def test_a_profile_of_another_program_stays_as_it_is(ipython_dir: Path):
    path = ipython_dir / "profile_mine" / "ipcluster_config.py"
    path.parent.mkdir()
    path.write_text("c.Cluster.engine_launcher_class = 'mpi'\n")
    with pytest.raises(SettingsError, match="not by neoxlib and stays"):
        write_profile("mine", TWO)
    assert path.read_text() == "c.Cluster.engine_launcher_class = 'mpi'\n"
    assert read_profile("mine") is None and "mine are not by neoxlib" in profile_table("mine")


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x"])
def test_a_name_that_is_none_is_refused(name: str):
    with pytest.raises(SettingsError, match="use letters"):
        write_profile(name, TWO)


def test_a_missing_profile_is_told_with_those_there_are_and_how_to_make_it():
    write_profile("two", TWO)
    with pytest.raises(SettingsError, match=r"there are two\. Make one with: neoxlib cluster"):
        read_profile("three")


def test_a_table_says_which_rank_sits_where():
    write_profile("two", TWO)
    assert [row[:3] for row in profile_table("two").rows] == [
        ("host1", "4", "0 to 3"),
        ("u@host2", "2", "4 to 5"),
    ]
    assert "start on this machine" in profile_table("")


def test_a_profile_that_cannot_be_run_is_named(ipython_dir: Path):
    folder = ipython_dir / "profile_bad"
    folder.mkdir()
    assert profile.read_config(folder) == Config()
    (folder / "ipcluster_config.py").write_text("c.Cluster.n = 1 / 0\n")
    with pytest.raises(SettingsError, match=r"ipcluster_config.py cannot be read: ZeroDivision"):
        profile.read_config(folder)


def test_the_python_of_this_process_is_the_one_of_every_host_unless_named():
    assert HostsProfile({"a": 1}, "10.0.0.0/8", "10.0.0.1").python == sys.executable
