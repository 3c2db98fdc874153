"""How a command gets to a host."""

import subprocess
from pathlib import Path

import pytest

from neoxlib.errors import SettingsError
from neoxlib.hosts.ways import Mpiexec, Ssh, mpiexec
from tests.support.programs import programs


def test_ssh_hands_a_command_to_a_shell_and_keeps_its_words(tmp_path: Path):
    script = tmp_path / "ssh"
    script.write_text('#!/bin/sh\nexec sh -c "$3"\n')
    script.chmod(0o755)
    words = Ssh((str(script),)).reach("host1", ["printf", "%s|", "a b", "$HOME", "c'd"])
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "a b|$HOME|c'd|" and words[1:3] == ["--", "host1"]


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("mpiexec (OpenRTE) 4.1.4", "--host"),
        ("mpirun (Open MPI) 5.0.3", "--host"),
        ("HYDRA build details:\n    Version: 4.0.2", "-hosts"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9", "-hosts"),
    ],
)
def test_each_mpi_names_a_host_in_its_own_way(tmp_path, monkeypatch, version, option):
    programs(tmp_path, monkeypatch, mpiexec=f"cat <<'END'\n{version}\nEND")
    way = mpiexec()
    words = way.reach("host1", ["python", "-c", "a b"])
    assert words[-4:] == ["host1", "python", "-c", "a b"] and words[-5] == option
    assert way.typed("host1") == f"mpiexec -n 1 {option} host1"
    assert Mpiexec(way.command) == way


def test_another_mpi_and_none_are_refused_with_what_to_do(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, mpiexec="echo 'mpiexec of Acme 1.0'")
    with pytest.raises(SettingsError, match=r"'mpiexec of Acme 1\.0'; Open MPI, MPICH"):
        mpiexec()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match=r"no mpiexec in PATH.*--ssh host1:4"):
        mpiexec()
