"""Small readings of this machine."""

import socket
import sys

import pytest

from neoxlib.machine import probes


def test_a_port_in_use_is_seen():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not probes.can_bind(taken.getsockname()[1])
    assert probes.can_bind(0)


def test_a_port_that_listens_is_in_use_on_any_address_and_one_that_has_ended_is_not(tmp_path):
    table = tmp_path / "tcp"
    table.write_text(
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 0100007F:EA60 00000000:0000 0A 00000000:00000000\n"
        "   1: 0A0A0A01:EA61 0A0A0A02:1F90 01 00000000:00000000\n"
        "   2: 0A0A0A01:EA62 0A0A0A02:1F90 06 00000000:00000000\n"
    )
    assert probes.ports_in_use((str(table), str(tmp_path / "none"))) == {60000, 60001}


def test_this_machines_listening_port_is_in_use():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert server.getsockname()[1] in probes.ports_in_use()


@pytest.mark.parametrize("build", ["2.13.0+cu130", "2.13.0+cpu"])
def test_torchs_build_is_read_from_its_own_file_and_torch_is_not_run(build, tmp_path, monkeypatch):
    """PyPI's wheel has `Version: 2.13.0` in its metadata and `2.13.0+cu130` in this file."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '{build}'\ndebug = False\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert probes.torch_version() == build
