"""Cores near each NPU, on made-up machines."""

import os
from pathlib import Path

import pytest

from neoxlib.machine.npu_smi import Card, Smi
from neoxlib.ranks import placement

BUSES = ("0000:C1:00.0", "0000:81:00.0", "0000:41:00.0", "0000:01:00.0")


def cards(buses: tuple[str, ...] = BUSES) -> list[Card]:
    return [Card(npu, 0, "910B3", "OK", bus, 0, 65536) for npu, bus in enumerate(buses)]


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Two nodes of six cores, in pieces; the first two cards are on node 1, others on node 0."""
    for node, text in enumerate(("0-2,6-8", "3-5,9,10-11\n")):
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(text)
    for bus, node in zip(BUSES, (1, 1, 0, 0), strict=True):
        folder = tmp_path / "bus/pci/devices" / bus.lower()
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    return tmp_path


def test_each_rank_gets_its_share_of_the_cores_near_its_npu(system):
    shares = placement.cores_of_rank(cards(), [0, 1, 2, 3], set(range(12)), system)
    assert shares == [[3, 4, 5], [9, 10, 11], [0, 1, 2], [6, 7, 8]]


def test_only_the_visible_npus_share_a_node(system):
    assert placement.cores_of_rank(cards(), [1, 3], set(range(12)), system) == [
        [3, 4, 5, 9, 10, 11],
        [0, 1, 2, 6, 7, 8],
    ]


def test_no_core_is_taken_that_the_process_may_not_use(system):
    shares = placement.cores_of_rank(cards(), [0, 1, 2, 3], {0, 1, 3, 4, 9}, system)
    assert shares == [[3], [4], [0], [1]]


def test_where_the_nodes_are_hidden_all_cores_are_shared_evenly(system):
    even = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    (system / "bus/pci/devices" / BUSES[2] / "numa_node").write_text("-1\n")  # as in a container
    assert placement.cores_of_rank(cards(), [0, 1, 2, 3], set(range(12)), system) == even
    assert placement.cores_of_rank([], [0, 1, 2, 3], set(range(12)), system) == even
    assert placement.cores_of_rank(cards(), [0, 1, 2, 3], set(range(12)), Path("/nowhere")) == even


def test_a_card_on_no_bus_is_as_one_whose_node_is_hidden(system):
    boards = [Card(npu, 0, "310B4", "OK", None, 0, 7545) for npu in range(2)]
    even = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert placement.cores_of_rank(boards, [0, 1], set(range(12)), system) == even


def test_cores_are_shared_where_there_are_fewer_than_npus(system):
    assert placement.cores_of_rank([], [0, 1, 2], {4, 7}, system) == [[4], [7], [4]]


def test_a_node_without_a_core_for_this_process_is_as_good_as_hidden(system):
    assert placement.cores_of_rank(cards(), [0, 2], {0, 1, 2, 6}, system) == [[0, 1], [2, 6]]


def test_the_number_of_cores_may_be_asked_for(system, monkeypatch):
    monkeypatch.setenv("CPU_BINDING_NUM", "2")
    assert placement.cores_of_rank(cards(), [0, 1], set(range(12)), system) == [[3, 4], [5, 9]]


@pytest.fixture
def bound(system, monkeypatch: pytest.MonkeyPatch) -> list:
    """The cores and nodes that this process would have been bound to."""
    calls = []
    monkeypatch.setattr(placement, "SYSTEM", system)
    monkeypatch.setattr(placement.npu_smi, "query", lambda: Smi(cards=tuple(cards())))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: calls.append(cores))
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return calls


def test_a_rank_is_bound_by_the_ids_that_it_sees(bound, monkeypatch):
    assert placement.bind(1, 4) == [9, 10, 11] and bound == [[9, 10, 11]]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "1,3")
    assert placement.bind(1, 2) == [0, 1, 2, 6, 7, 8]


def test_binding_can_be_turned_off_and_never_fails_a_rank(bound, monkeypatch, caplog):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,x")
    assert placement.bind(0, 2) is None and "not bound to cores" in caplog.text
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES")

    def refuse(pid: int, cores: list[int]) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert placement.bind(0, 2) is None and "not permitted" in caplog.text
    monkeypatch.setenv("BIND_CPU", "0")
    monkeypatch.setattr(placement.npu_smi, "query", None)
    assert placement.bind(0, 2) is None


def test_ranks_are_put_in_the_order_of_their_hosts_and_the_first_stays():
    assert placement.order_by_host(["b", "a", "b", "c", "a"]) == [0, 2, 1, 4, 3]
    assert placement.order_by_host(["a"] * 3) == [0, 1, 2]
