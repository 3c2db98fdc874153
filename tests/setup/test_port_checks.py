"""The check of HCCL's ports of the host, on described machines."""

from dataclasses import replace

import pytest

from tests.support.hosts import A2, CPU, SOURCED, npu, rows

AUTO = "export HCCL_HOST_SOCKET_PORT_RANGE=auto HCCL_NPU_SOCKET_PORT_RANGE=auto"
RESERVE = "sysctl -w net.ipv4.ip_local_reserved_ports="


def row(machine, **changes):
    return rows(replace(machine, **changes)).get("HCCL ports")


@pytest.mark.parametrize(
    ("machine", "repair"),
    [(A2, AUTO), (npu("a3", 4), AUTO), (npu("310p3_duo", 2), "HCCL_IF_BASE_PORT=50000")],
)
def test_ports_that_are_taken_are_named_with_the_variable_that_the_chip_knows(machine, repair):
    found = row(machine, hccl_ports_taken=(60001, 60030))
    assert (found.status, found.found) == ("WARN", "taken: 60001, 60030")
    assert repair in found.repair


@pytest.mark.parametrize(
    ("reserved", "handed_out", "repair"),
    [
        ("60000-60031", "32768 60999", ""),
        ("22,59000-61000", "32768 60999", ""),
        ("60000-60015,60016-60031", "32768 60999", ""),
        ("", "32768 59999", ""),
        ("", "60032 65000", ""),
        ("", "32768 60999", "60000-60031"),
        ("22", "32768 60999", "22,60000-60031"),
        ("60000-60030", "32768 60999", "60000-60030,60000-60031"),
        (None, None, "60000-60031"),
    ],
)
def test_ports_that_the_kernel_may_give_away_are_to_be_reserved_beside_those_that_are(
    reserved, handed_out, repair
):
    found = row(A2, reserved_ports=reserved, port_range=handed_out)
    assert found.status == ("WARN" if repair else "OK")
    assert found.repair == (f"{RESERVE}{repair}" if repair else "")


def test_another_base_moves_the_ports_and_a_range_of_ones_own_is_not_judged():
    moved = row(A2, env=SOURCED | {"HCCL_IF_BASE_PORT": "50000"})
    assert moved.status == "WARN" and moved.repair.endswith("60000-60031,50000-50031")
    own = SOURCED | {"HCCL_HOST_SOCKET_PORT_RANGE": "auto"}
    assert row(A2, env=own, hccl_ports_taken=(60000,)) is None
    assert row(CPU, hccl_ports_taken=(60000,)) is None
