"""The maps, boards and topologies that npu-smi prints. The texts are made, the shapes are real."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxlib.machine import npu_smi

MAPS = {
    "today": (
        "\tNPU ID                Chip ID               Chip Logic ID         Chip Name\n"
        "\t0                     0                     0                     Ascend 910B3\n"
        "\t0                     1                     -                     Mcu\n"
        "\t2                     0                     1                     Ascend 910B3\n"
    ),
    "with Phy-ID": (
        "NPU ID      Chip ID     Chip Logic ID    Chip Phy-ID    Chip Name\n"
        "0           0           0                4              Ascend910\n"
        "0           1           -                -              Controller\n"
        "2           0           1                5              Ascend910\n"
    ),
    "950": (
        "NPU ID      Slot ID     Chip ID    Chip Phy-ID    Chip Name\n"
        "0           1           0          0              Ascend950\n"
        "0           1           1          -              Mcu\n"
        "2           2           0          1              Ascend950\n"
    ),
}


@pytest.mark.parametrize(
    ("name", "logic"), [("today", [0, 1]), ("with Phy-ID", [0, 1]), ("950", [None, None])]
)
def test_the_map_of_every_driver_gives_the_chips_without_their_controllers(name, logic):
    places = npu_smi.parse_map(MAPS[name])
    assert [(place.npu, place.chip) for place in places] == [(0, 0), (2, 0)]
    assert [place.logic for place in places] == logic
    assert all("Ascend" in place.name for place in places)


@pytest.mark.parametrize("text", ["", "dcmi module initialize failed. ret is -8005", "NPU ID\n"])
def test_a_text_without_a_map_has_no_places(text):
    assert npu_smi.parse_map(text) == ()


def test_a_board_is_read_as_pairs_whatever_the_blanks():
    text = "\tNPU ID            : 0\n\tFirmware Version  : 7.7.0.1.231\n"
    text += "\tPCIe Bus Info     : 0000:84:00.0\n\n"
    assert npu_smi.parse_pairs(text) == {
        "NPU ID": "0",
        "Firmware Version": "7.7.0.1.231",
        "PCIe Bus Info": "0000:84:00.0",
    }
    assert npu_smi.parse_pairs("") == {}


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("DDR Capacity(MB) : 0\nHBM Capacity(MB)   : 65536\nHBM Usage Rate(%) : 4", 65536),
        ("DDR Capacity(MB) : 13553\nHBM Capacity(MB) : 32768", 32768),
        ("Memory Capacity(MB)            : 7545\nMemory Usage Rate(%) : 33", 7545),
        ("DDR Capacity(MB)               : 21525\nDDR Usage Rate(%) : 8", 21525),
        ("Capacity(MB) : 11577", 11577),
        ("Aicore Usage Rate(%) : 0", None),
    ],
)
def test_memory_is_that_of_the_kind_the_chip_has(text, mib):
    assert npu_smi.memory_mib(npu_smi.parse_pairs(text)) == mib


TOPOLOGY = """
\t   NPU0       NPU1       CPU Affinity
NPU0       X          {link}        144-167
NPU1       {link}        X          0-23,48-71

Legend:

  X    = Self
  HCCS = Connection traversing HCCS.
"""


@pytest.mark.parametrize(("link", "linked"), [("HCCS", True), ("PHB", False), ("SYS", False)])
def test_the_legend_is_no_link(link, linked):
    """A search for HCCS in the whole text finds it in the legend on every machine."""
    topology = npu_smi.parse_topology(TOPOLOGY.format(link=link))
    assert topology.has_hccs is linked and topology.links["NPU1"]["NPU0"] == link
    assert topology.cores == {"NPU0": "144-167", "NPU1": "0-23,48-71"}
    assert npu_smi.parse_topology("").links == {}


DIES = """
\t   Phy-ID0    Phy-ID1    Phy-ID2    Phy-ID3    {near}
Phy-ID0    X          SIO        HCCS_SW    HCCS_SW    {cores}
Phy-ID1    SIO        X          HCCS_SW    HCCS_SW    {cores}
Phy-ID2    HCCS_SW    HCCS_SW    X          SIO        {cores}
Phy-ID3    HCCS_SW    HCCS_SW    SIO        X          {cores}

Legend:

  X    = Self
  HCCS = Connection traversing HCCS.
"""


@pytest.mark.parametrize(("near", "cores"), [("CPU Affinity", "0-63,128-191"), ("", "")])
def test_the_dies_of_a3_are_named_by_their_physical_ids_and_may_be_near_no_core(near, cores):
    topology = npu_smi.parse_topology(DIES.format(near=near, cores=cores))
    row = {"Phy-ID0": "SIO", "Phy-ID1": "X", "Phy-ID2": "HCCS_SW", "Phy-ID3": "HCCS_SW"}
    assert topology.links["Phy-ID1"] == row
    assert topology.has_hccs and len(topology.links) == 4
    assert topology.cores == ({f"Phy-ID{n}": cores for n in range(4)} if cores else {})


def test_network_cards_of_a_topology_are_no_npus():
    text = (
        "       NPU0   NPU1   NIC0     CPU Affinity\nNPU0   X      UB     PIX      0-31\n"
        "NPU1   UB     X      SYS      32-63\nNIC0   PIX    SYS    X\n"
    )
    topology = npu_smi.parse_topology(text)
    rows = {"NPU0": {"NPU0": "X", "NPU1": "UB"}, "NPU1": {"NPU0": "UB", "NPU1": "X"}}
    assert topology.links == rows
    assert topology.cores == {"NPU0": "0-31", "NPU1": "32-63"}


@given(st.integers(1, 16), st.booleans(), st.integers(1, 200), st.data())
@settings(max_examples=200, deadline=None)
def test_a_topology_is_the_same_wherever_its_lines_are_cut(count, near, width, data):
    """Sixteen columns are wider than a terminal."""
    kind = data.draw(st.sampled_from(["NPU", "Phy-ID"]))
    names = [f"{kind}{n}" for n in range(count)]
    kinds = st.sampled_from(["HCCS", "HCCS_SW", "SIO", "PIX", "PHB", "SYS", "NA"])
    links = {a: {b: "X" if a == b else data.draw(kinds) for b in names} for a in names}
    cores = {name: f"{16 * n}-{16 * n + 15}" for n, name in enumerate(names)} if near else {}
    head = [*names, *["CPU\0Affinity"] * near]
    words = [head, *([a, *links[a].values(), *([cores[a]] if near else [])] for a in names)]
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    text = "\n".join(part for line in words for part in wrap.wrap("   ".join(line)))
    found = npu_smi.parse_topology(text.replace("\0", " ") + "\n\nLegend:\n  NPU9 = HCCS\n")
    assert (found.links, found.cores) == (links, cores)


def test_a_row_of_a_topology_that_is_too_short_is_told_and_left_out(caplog):
    topology = npu_smi.parse_topology("NPU0  NPU1  CPU Affinity\nNPU0  X  HCCS  0-3\nNPU1  HCCS\n")
    assert list(topology.links) == ["NPU0"] and "NPU1 HCCS" in caplog.text
