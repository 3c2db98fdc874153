"""How a rank joins: alone without a group, and with others by the interface that they see."""

import os
import socket
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import zmq

from neoxlib.inference import load
from neoxlib.machine.chips import CHIPS
from neoxlib.ranks import two_levels, worker
from neoxlib.ranks.collectives import Alone

HERE = worker.host()
PLACE = "where they meet"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `join` loads with, and what its group is made of, on a make-believe NPU."""
    seen: dict[str, Any] = {}

    def loading(group: Any, **settings: Any) -> SimpleNamespace:
        seen.update(settings, group=group)
        return SimpleNamespace(describe=lambda: {"device": settings["device"]})

    class Made(Alone):
        def __init__(self, *args: Any) -> None:
            super().__init__()
            seen["made"] = args

    monkeypatch.setattr(load, "load", loading)
    monkeypatch.setattr(two_levels, "TorchGroup", Made)
    monkeypatch.setattr(two_levels, "store_at", lambda place, size: place)
    monkeypatch.setattr(worker, "_place", lambda *_: ("npu", "npu:0", "hccl"))
    monkeypatch.setattr(worker, "chip_for", lambda device: CHIPS["910B3"])
    monkeypatch.setattr(worker, "_held", SimpleNamespace(store=None, engine=None))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that what a test leaves is taken back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    return seen


def test_one_rank_opens_no_group(joined):
    worker.join(0, [HERE], PLACE, {"device": "npu"})
    assert type(joined["group"]) is Alone and "made" not in joined
    assert joined["device"] == "npu"


def test_ranks_of_one_machine_meet_on_its_loopback(joined, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    worker.join(1, [HERE] * 2, PLACE, {"device": "npu"})
    assert joined["made"] == (1, 2, PLACE, "hccl", "npu:0", "A2")
    assert interface_of(os.environ["GLOO_SOCKET_IFNAME"]) == "127.0.0.1"


def test_ranks_of_several_machines_meet_where_the_others_see_this_one(joined, monkeypatch):
    monkeypatch.setattr(worker, "address_seen_by", lambda hosts: "127.0.0.1")
    worker.join(0, [HERE, "another"], PLACE, {"device": "npu"})
    assert interface_of(os.environ["GLOO_SOCKET_IFNAME"]) == "127.0.0.1"
    assert joined["made"][-1] == ""  # no setting for chips of one server
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")  # the user's own choice
    worker.join(0, [HERE, "another"], PLACE, {"device": "npu"})
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_an_address_that_no_interface_has_names_none(joined, monkeypatch):
    monkeypatch.setattr(worker, "address_seen_by", lambda hosts: "192.0.2.1")  # RFC 5737: examples
    worker.join(0, [HERE, "another"], PLACE, {"device": "npu"})
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def interface_of(name: str) -> str:
    rows = psutil.net_if_addrs()[name]
    return next(row.address for row in rows if row.family == socket.AF_INET)


def test_a_port_of_a_controller_goes_to_nobody_else_before_it_listens_there(monkeypatch):
    monkeypatch.setattr(worker._held, "ports", [])
    ports = worker.kept_ports(3)
    assert len(set(ports)) == 3 and not set(ports) & set(worker.kept_ports(2))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", ports[0]))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as controller:
        controller.bind(f"tcp://127.0.0.1:{ports[0]}")
        socket.create_connection(("127.0.0.1", ports[0]), timeout=10).close()
    for keeper in worker._held.ports:
        keeper.close()
