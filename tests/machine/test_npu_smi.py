"""`npu-smi info` in every shape it is known to print. The texts are made, the shapes are real."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxlib.errors import telling
from neoxlib.machine import npu_smi
from neoxlib.machine.npu_smi import Card, Holder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "npu_smi"


def answer(name):
    return npu_smi.parse((FIXTURES / f"{name}.txt").read_text())


@pytest.mark.parametrize(
    ("name", "count", "chip", "totals"),
    [
        ("910b3_x8", 8, "910B3", {65536}),
        ("910b4_busy", 2, "910B4", {32768}),
        ("910a", 1, "910B", {32768}),
        ("310p3", 1, "310P3", {21525}),
        ("310p3_duo", 2, "310P3", {44280, 43693}),
        ("a3", 4, "Ascend910", {65536}),
        ("910b2_containers", 2, "910B2", {65536}),
        ("310b1", 1, "310B1", {23674}),
        ("950", 2, "Ascend950PR", {114688}),
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
    assert [(card.npu, card.chip) for card in answer("a3").cards] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert [(card.npu, card.chip) for card in answer("310p3_duo").cards] == [(4, 0), (4, 1)]


def test_who_holds_a_card_is_read_even_with_an_empty_process_name():
    assert answer("910b4_busy").holders == (
        npu_smi.Holder(2, 0, 31337, "python", 26101),
        npu_smi.Holder(2, 0, 31338, "", 12),
    )
    assert answer("910b3_x8").holders == ()


def test_a_process_has_its_pid_on_the_host_and_the_one_in_its_container_where_that_is_shown():
    """A process table of five columns; npu-smi 26 is the first to print it."""
    found = answer("910b2_containers").holders
    plain = Holder(0, 0, 70112, "python", 20480)
    assert found == (plain, Holder(0, 0, 70456, "python3.11", 18002, 214))
    assert [one.seen(inside=False) for one in found] == [70112, 70456]
    assert [one.seen(inside=True) for one in found] == [70112, 214]


def test_a_card_without_a_bus_or_a_chip_number_is_a_card():
    """310B is no PCIe device; 950 prints `NPU ID` for both and may have a bus of its own."""
    board = answer("310b1").cards[0]
    assert (board.npu, board.chip, board.bus_id, board.used_mib) == (0, 0, None, 9412)
    found = [(card.npu, card.chip, card.bus_id) for card in answer("950").cards]
    assert found == [(0, 0, "0000:0B:00.0"), (1, 0, None)]
    assert answer("950").holders == (npu_smi.Holder(1, 0, 4711, "python", 53211),)


@pytest.mark.parametrize("width", range(20, 120, 3))
@pytest.mark.parametrize("name", ["910b2_containers", "310b1", "950", "a3", "910b4_busy"])
def test_a_table_that_a_narrow_terminal_has_cut_is_the_same_table(name, width):
    text = (FIXTURES / f"{name}.txt").read_text()
    lines = text.splitlines()
    pieces = [line[at : at + width] for line in lines for at in range(0, len(line), width)]
    assert npu_smi.parse("\n".join(pieces)) == answer(name)
    if name != "910b4_busy":  # an empty cell just before the cut
        assert npu_smi.parse("\n".join(map(str.rstrip, pieces))) == answer(name)


@pytest.mark.parametrize("ruler", ["+------+", "=====", "+===+===+", "-----", "  ", "|", "| |"])
def test_a_ruler_is_never_the_reason(ruler):
    """The reason that npu-smi prints instead of cards follows a ruler."""
    begin = "npu-smi printed no device table but"
    text = "There is no NPU card on this server."
    assert npu_smi.parse(f"{ruler}\n{ruler}\n").failure == f"{begin}: nothing"
    assert npu_smi.parse(f"{ruler}\n| {text} |\n{ruler}\n").failure == f"{begin}: {text}"
    assert telling(f"{ruler}\nImportError: libhccl.so\n{ruler}") == ["ImportError: libhccl.so"]


@pytest.mark.parametrize(
    ("old", "new", "quoted"),
    [
        ("0000:81:00.0", "somewhere", "somewhere"),
        ("| 3     910B4", "| three 910B4", "three 910B4"),
        ("| 0000:41:00.0  |", "| 0000:41:00.0  | 7 |", "0000:41:00.0  | 7"),
        ("0    / 0          2790 / 32768", "2790 / 32768", "2790 / 32768"),
    ],
)
def test_a_card_that_does_not_fit_its_head_is_quoted_and_no_card_counts(old, new, quoted):
    """Cards are numbered by their order, so one that is left out would shift the others."""
    text = (FIXTURES / "910b4_busy.txt").read_text()
    assert old in text
    found = npu_smi.parse(text.replace(old, new))
    assert found.cards == () and "card that cannot be read" in found.failure
    assert quoted in found.failure


def test_a_usage_that_is_not_there_leaves_the_others_in_place():
    text = (FIXTURES / "910b4_busy.txt").read_text()
    for old, new in (
        ("0    / 0          2790 / 32768", "NA             2790 / 32768"),
        ("28911/ 32768", "NA / 32768"),
    ):
        text = text.replace(old, new)
    used = [(card.used_mib, card.total_mib, card.free_mib) for card in npu_smi.parse(text).cards]
    assert used == [(None, 32768, None), (2790, 32768, 29978)]


def test_a_card_that_is_broken_off_is_no_card():
    text = (FIXTURES / "910b4_busy.txt").read_text()
    found = npu_smi.parse(text[: text.index("| 0                         | 0000:41:00.0")])
    assert found.cards == () and "3     910B4" in found.failure


@pytest.mark.parametrize(("old", "new"), [("31337", "many"), ("26101", "26 GB"), ("| 12 ", "| - ")])
def test_a_process_that_cannot_be_read_is_quoted_and_the_cards_stay(old, new):
    found = npu_smi.parse((FIXTURES / "910b4_busy.txt").read_text().replace(old, new))
    assert [card.npu for card in found.cards] == [2, 3] and found.holders == ()
    assert "process that cannot be read" in found.failure and new.strip("| ") in found.failure


FIRST = {
    "Health": "OK",
    "Power(W)": "90.{n}",
    "Temp(C)": "4{n}",
    "Hugepages-Usage(page)": "15    / 15",
    "Slot": "x{n}",
}
SECOND = {
    "Bus-Id": "0000:0{n}:00.0",
    "AICore(%)": "{n}",
    "NPU Util(%)": "4{n}",
    "Phy-ID": "{n}",
    "Memory-Usage(MB)": "0 / 0",
    "HBM-Usage(MB)": "{used} / 65536",
    "Aging(h)": "12",
    "L2-Usage(KB)": "7/ 8",
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[Card]]:
    """A table of any columns, known ones and others, of any order and width, some in one column."""
    first = draw(st.permutations(list(FIRST)))[: draw(st.integers(1, 5))]
    second = draw(st.permutations(list(SECOND)))[: draw(st.integers(1, 8))]
    with_health = "Health" in first
    with_bus = "Bus-Id" in second
    with_chip = draw(st.booleans())
    cut = draw(st.integers(0, min(len(first), len(second)) - 1))
    gap = " " * draw(st.integers(1, 9))
    lines = []
    cards = []
    head = [
        ["NPU" + gap + "Name", *first[:cut], gap.join(first[cut:])],
        ["Chip" if with_chip else "", *second[:cut], gap.join(second[cut:])],
    ]
    for n, used in enumerate(draw(st.lists(st.integers(0, 65536), min_size=1, max_size=4))):
        up, low = (
            [table[name].format(n=n, used=used) for name in names]
            for table, names in ((FIRST, first), (SECOND, second))
        )
        lines.append([f"{n}{gap}910B3", *up[:cut], gap.join(up[cut:])])
        lines.append(["0" if with_chip else "", *low[:cut], gap.join(low[cut:])])
        memory = (used, 65536) if "HBM-Usage(MB)" in second else (None, None)
        health = "OK" if with_health else ""
        bus = f"0000:0{n}:00.0" if with_bus else None
        cards.append(Card(n, 0, "910B3", health, bus, *memory))
    width = draw(st.integers(max(len(cell) for line in head + lines for cell in line), 200))
    rows = ["|" + "|".join(f" {cell:{width}} " for cell in line) + "|" for line in head + lines]
    return "\n".join([f"+{'-' * 40}+", *rows[:2], f"+{'=' * 40}+", *rows[2:]]), cards


@given(tables())
@settings(max_examples=300, deadline=None)
def test_columns_of_any_order_and_width_are_found_by_their_names(made):
    """Unknown columns are passed over; those that are missing leave their field empty."""
    text, cards = made
    found = npu_smi.parse(text)
    assert found.failure is None and list(found.cards) == cards


@pytest.mark.parametrize(
    ("name", "code"), [("held_by_another", "-8020"), ("no_permission", "-8005")]
)
def test_a_driver_message_in_place_of_the_table_is_a_failure(name, code):
    parsed = answer(name)
    assert parsed.cards == () and parsed.failure.startswith("dcmi") and code in parsed.failure


@pytest.mark.parametrize("text", ["", "\n\n", "bash: something else\n", "| a | b | c |\n| 1 | 2 |"])
def test_text_that_is_no_table_is_a_failure_and_never_a_crash(text):
    parsed = npu_smi.parse(text)
    assert parsed.cards == () and "no device table" in parsed.failure


def test_no_npu_smi_is_none_and_one_that_fails_is_a_failure(tmp_path):
    assert npu_smi.query(str(tmp_path / "npu-smi")) is None
    broken = tmp_path / "broken"
    broken.write_text("not a program")
    assert "could not be run" in npu_smi.query(str(broken)).failure


def test_the_command_is_really_run(tmp_path):
    command = tmp_path / "npu-smi"
    command.write_text(f'#!/bin/sh\n[ "$1" = info ] && cat {FIXTURES / "910b3_x8.txt"}\n')
    command.chmod(0o755)
    assert len(npu_smi.query(str(command)).cards) == 8


def test_a_line_before_the_failure_does_not_hide_it():
    text = "DrvMngGetConsoleLogLevel failed. (g_conLogLevel=3)\n"
    text += "dcmi module initialize failed. ret is -8005\n"
    assert npu_smi.parse(text).failure == "dcmi module initialize failed. ret is -8005"


def test_a_card_whose_row_shows_no_memory_is_asked_for_it(tmp_path):
    table = (FIXTURES / "310p3.txt").read_text().replace("1839 / 21525", "            ")
    (tmp_path / "table.txt").write_text(re.sub(r"\d+ / 21525", "-", table))
    command = tmp_path / "npu-smi"
    usages = "echo 'DDR Capacity(MB) : 21525'"
    script = f"if [ $# = 1 ]; then cat {tmp_path}/table.txt; else {usages}; fi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    card = npu_smi.query(str(command)).cards[0]
    assert (card.total_mib, card.used_mib, card.free_mib) == (21525, None, None)


def test_options_are_passed_on_and_a_missing_command_says_nothing(tmp_path):
    command = tmp_path / "npu-smi"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    assert npu_smi.ask("-t", "topo", command=str(command)) == "info -t topo\n"
    assert npu_smi.ask("-m", command=str(tmp_path / "none")) == ""


def test_what_only_looks_like_a_number_is_none():
    """isdigit() is true of ², which int() does not read."""
    head = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n"
    for number in ("²", "1²", "9" * 5000):
        assert npu_smi.parse_map(f"{head}{number}  0  0  Ascend 910B3\n") == ()
        assert npu_smi.memory_mib({"HBM Capacity(MB)": number}) is None
