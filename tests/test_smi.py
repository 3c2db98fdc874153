"""`npu-smi info` in every shape it is known to print. The texts are made, the shapes are real."""

import re
from pathlib import Path

import pytest

from neoxlib import smi

FIXTURES = Path(__file__).parent / "fixtures" / "npu_smi"


def answer(name):
    return smi.parse((FIXTURES / f"{name}.txt").read_text())


@pytest.mark.parametrize(
    ("name", "count", "chip", "totals"),
    [
        ("910b3_x8", 8, "910B3", {65536}),
        ("910b4_busy", 2, "910B4", {32768}),
        ("910a", 1, "910B", {32768}),
        ("310p3", 1, "310P3", {21525}),
        ("310p3_duo", 2, "310P3", {44280, 43693}),
        ("a3", 4, "Ascend910", {65536}),
    ],
)
def test_every_shape_gives_its_cards_and_the_memory_that_models_use(name, count, chip, totals):
    """910A prints DDR and HBM; taking the first pair would say 13 GB for a 32 GB card."""
    parsed = answer(name)
    assert parsed.failure is None and parsed.version
    assert [card.name for card in parsed.cards] == [chip] * count
    assert {card.total_mib for card in parsed.cards} == totals
    assert all(card.health == "OK" for card in parsed.cards)


def test_a_wide_number_without_a_blank_before_the_slash_is_read():
    busy = answer("910b4_busy").cards[0]
    assert (busy.npu, busy.chip, busy.used_mib, busy.free_mib) == (2, 0, 28911, 32768 - 28911)


def test_two_chips_of_one_npu_stay_apart():
    assert [(card.npu, card.chip) for card in answer("a3").cards] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(card.npu, card.chip) for card in answer("310p3_duo").cards] == [(4, 0), (4, 1)]


def test_who_holds_a_card_is_read_even_with_an_empty_process_name():
    assert answer("910b4_busy").holders == (smi.Holder(2, 0, 31337, "python", 26101), smi.Holder(2, 0, 31338, "", 12))
    assert answer("910b3_x8").holders == ()


@pytest.mark.parametrize(("name", "code"), [("held_by_another", "-8020"), ("no_permission", "-8005")])
def test_a_driver_message_in_place_of_the_table_is_a_failure(name, code):
    parsed = answer(name)
    assert parsed.cards == () and parsed.failure.startswith("dcmi") and code in parsed.failure


@pytest.mark.parametrize("text", ["", "\n\n", "bash: something else\n", "| a | b | c |\n| 1 | 2 |"])
def test_text_that_is_no_table_is_a_failure_and_never_a_crash(text):
    parsed = smi.parse(text)
    assert parsed.cards == () and "no device table" in parsed.failure


def test_no_npu_smi_is_none_and_one_that_fails_is_a_failure(tmp_path):
    assert smi.read(str(tmp_path / "npu-smi")) is None
    broken = tmp_path / "broken"
    broken.write_text("not a program")
    assert "could not be run" in smi.read(str(broken)).failure


def test_the_command_is_really_run(tmp_path):
    command = tmp_path / "npu-smi"
    command.write_text(f"#!/bin/sh\n[ \"$1\" = info ] && cat {FIXTURES / '910b3_x8.txt'}\n")
    command.chmod(0o755)
    assert len(smi.read(str(command)).cards) == 8


MAPS = {
    "today": ("\tNPU ID                Chip ID               Chip Logic ID         Chip Name\n"
              "\t0                     0                     0                     Ascend 910B3\n"
              "\t0                     1                     -                     Mcu\n"
              "\t2                     0                     1                     Ascend 910B3\n"),
    "with Phy-ID": ("NPU ID      Chip ID     Chip Logic ID    Chip Phy-ID    Chip Name\n"
                    "0           0           0                4              Ascend910\n"
                    "0           1           -                -              Controller\n"
                    "2           0           1                5              Ascend910\n"),
    "950": ("NPU ID      Slot ID     Chip ID    Chip Phy-ID    Chip Name\n"
            "0           1           0          0              Ascend950\n"
            "0           1           1          -              Mcu\n"
            "2           2           0          1              Ascend950\n"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "logic"), [("today", [0, 1]), ("with Phy-ID", [0, 1]), ("950", [None, None])])
def test_the_map_of_every_driver_gives_the_chips_without_their_controllers(name, logic):
    places = smi.parse_map(MAPS[name])
    assert [(place.npu, place.chip) for place in places] == [(0, 0), (2, 0)]
    assert [place.logic for place in places] == logic and all("Ascend" in place.name for place in places)


@pytest.mark.parametrize("text", ["", "dcmi module initialize failed. ret is -8005", "NPU ID\n"])
def test_a_map_that_is_none_has_no_places(text):
    assert smi.parse_map(text) == ()


def test_a_board_is_read_as_pairs_whatever_the_blanks():
    text = "\tNPU ID            : 0\n\tFirmware Version  : 7.7.0.1.231\n\tPCIe Bus Info     : 0000:84:00.0\n\n"
    assert smi.parse_pairs(text) == {"NPU ID": "0", "Firmware Version": "7.7.0.1.231", "PCIe Bus Info": "0000:84:00.0"}
    assert smi.parse_pairs("") == {}


@pytest.mark.parametrize(
    ("text", "mib"),
    [("DDR Capacity(MB) : 0\nHBM Capacity(MB)   : 65536\nHBM Usage Rate(%) : 4", 65536),
     ("DDR Capacity(MB) : 13553\nHBM Capacity(MB) : 32768", 32768),
     ("DDR Capacity(MB)               : 21525\nDDR Usage Rate(%) : 8", 21525), ("Capacity(MB) : 11577", 11577),
     ("Aicore Usage Rate(%) : 0", None)],
)  # fmt: skip
def test_memory_is_that_of_the_kind_the_chip_has(text, mib):
    assert smi.memory_mib(smi.parse_pairs(text)) == mib


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
    topology = smi.parse_topology(TOPOLOGY.format(link=link))
    assert topology.has_hccs is linked and topology.links["NPU1"]["NPU0"] == link
    assert topology.cores == {"NPU0": "144-167", "NPU1": "0-23,48-71"}
    assert smi.parse_topology("").links == {}


def test_a_line_before_the_failure_does_not_hide_it():
    text = "DrvMngGetConsoleLogLevel failed. (g_conLogLevel=3)\ndcmi module initialize failed. ret is -8005\n"
    assert smi.parse(text).failure == "dcmi module initialize failed. ret is -8005"


def test_a_card_whose_row_shows_no_memory_is_asked_for_it(tmp_path):
    table = (FIXTURES / "310p3.txt").read_text().replace("1839 / 21525", "            ")
    (tmp_path / "table.txt").write_text(re.sub(r"\d+ / 21525", "-", table))
    command = tmp_path / "npu-smi"
    script = f"if [ $# = 1 ]; then cat {tmp_path}/table.txt; else echo 'DDR Capacity(MB) : 21525'; fi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    card = smi.read(str(command)).cards[0]
    assert (card.total_mib, card.used_mib, card.free_mib) == (21525, None, None)


def test_options_are_passed_on_and_a_missing_command_says_nothing(tmp_path):
    command = tmp_path / "npu-smi"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    assert smi.ask("-t", "topo", command=str(command)) == "info -t topo\n"
    assert smi.ask("-m", command=str(tmp_path / "none")) == ""
