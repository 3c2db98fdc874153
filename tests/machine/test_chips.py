"""The table of chips, and the chips behind names."""

from dataclasses import fields

import pytest

from neoxlib.errors import SettingsError
from neoxlib.kernels.npu import OPS
from neoxlib.machine import chips
from neoxlib.machine.chips import CHIPS, WITHOUT_OPERATORS

FIGURES = ("memory_gib", "usable_gib", "fp16_tflops", "bandwidth_gb_s", "likely", "likely_peak")


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_every_figure_names_its_source_and_nothing_else_does(chip):
    given = {name for name in (*FIGURES, "link") if getattr(chip, name) is not None}
    assert given <= set(chip.sources) <= {field.name for field in fields(chip)}
    assert set(chip.sources) == given


def test_usable_memory_is_less_than_what_is_printed_on_the_card():
    for chip in CHIPS.values():
        assert chip.usable_gib is None or 0.75 * chip.memory_gib < chip.usable_gib < chip.memory_gib


def test_a_chip_is_found_however_it_is_spelt():
    assert chips.chip("Ascend910B3") is chips.chip("910b3") is CHIPS["910B3"]
    assert chips.chip("300I-duo") is CHIPS["300I Duo"]
    assert chips.chip("910B4-1") is CHIPS["910B4-1"]


def test_an_unknown_chip_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"'910C'.*910B3.*310P3"):
        chips.chip("910C")


def test_a_card_that_prints_910B_is_the_first_generation():
    """npu-smi prints `910B` for a 910A, which has no bfloat16, and `910B3` for A2."""
    assert chips.chip_of_card("910B") is CHIPS["910A"]
    assert chips.chip_of_card("910B3").family == "A2"
    assert chips.chip_of_card("Ascend910").family == "A3"
    assert chips.chip_of_card("Atlas 9000") is None


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("310B1", "310B1"),
        ("310B4", "310B4"),
        ("Ascend310B4", "310B4"),
        ("Ascend 910B3", "910B3"),
        ("Ascend950PR", "950"),
        ("Ascend950DT_9581", "950"),
        ("Ascend910_9391", "A3"),
        ("Ascend910", "A3"),
        ("Ascend310P3", "310P3"),
        ("310P1", "310P"),
        ("Ascend310P7", "310P"),
        ("910ProA", "910A"),
        ("Ascend910PremiumA", "910A"),
        ("Ascend910B", "910A"),
        ("910_9391", "A3"),
    ],
)
def test_a_name_with_the_series_before_it_or_a_bin_behind_it_is_the_same_chip(name, row):
    assert chips.chip_of_card(name) is CHIPS[row]


def test_families_that_have_no_operators_of_their_own_are_named_so():
    assert {chip.family for chip in CHIPS.values()} - {*OPS, "cpu"} == set(WITHOUT_OPERATORS)
    assert all(chip.note for chip in CHIPS.values() if chip.family in WITHOUT_OPERATORS)


def test_a_310p3_is_told_by_its_memory_and_by_the_chips_on_its_card():
    assert chips.chip_of_card("310P3", 44280) is CHIPS["300I Duo"]
    assert chips.chip_of_card("310P3", 44280, 1) is CHIPS["300I Duo"]
    assert chips.chip_of_card("310P3", 21525, 2) is CHIPS["310P3"]
    assert chips.chip_of_card("310P3", 21525, 1) is CHIPS["300I Pro"]
    assert chips.chip_of_card("310P3", 21525) is CHIPS["310P3"]
    assert chips.chip("300V Pro") is CHIPS["300I Pro"]


SOC = {  # torch_npu 9e73e708, torch_npu/csrc/core/npu/NpuVariables.h:7-35
    "910A": range(100, 105),
    "310P": range(200, 206),
    "910B1": (220,),
    "910B2": (221, 222),
    "910B3": (223,),
    "910B4": (224,),
    "910B4-1": (225,),
    "310B1": (240,),
    "310B2": (241,),
    "310B3": (242,),
    "310B4": (243,),
    "A3": range(250, 257),
    "950": (260,),
}


def test_every_code_of_a_soc_that_torch_npu_knows_names_a_chip_and_no_other_does():
    found = {code: chips.chip_of_soc(code) for code in range(-1, 400)}
    expected = {code: CHIPS[name] for name, codes in SOC.items() for code in codes}
    assert {code: chip for code, chip in found.items() if chip} == expected
