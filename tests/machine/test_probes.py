"""Small readings of this machine."""

import socket

from neoxlib.machine import probes


def test_a_port_in_use_is_seen():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not probes.can_bind(taken.getsockname()[1])
    assert probes.can_bind(0)
