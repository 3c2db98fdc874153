"""`npu-smi info` in every shape it is known to print. The texts are made, the shapes are real."""

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
