"""The words of errors: a hint names what is near, and nothing else."""

import unicodedata

import pytest

from neoxlib.errors import UNSEEN, DataError, did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "most", "hint"),
    [
        ("colur", 1, "; did you mean 'colour'?"),
        ("colou", 2, "; did you mean 'colour' or 'colours'?"),
        ("colour", 1, "; did you mean 'colour'?"),
        ("zzz", 2, ""),
        ("", 2, ""),
    ],
)
def test_a_hint_names_the_nearest_names_in_quotes(name, most, hint):
    assert did_you_mean(name, iter(["shots", "colours", "colour"]), most) == hint


def test_a_higher_cutoff_leaves_out_names_that_resemble_less():
    assert nearest("8bit", ["int8"], cutoff=0.5) == ["int8"]
    assert nearest("8bit", ["int8"]) == []


def test_what_is_shown_by_its_number_is_what_unicode_calls_control_format_or_half_a_character():
    """But for tabs, line breaks, and the marks of Arabic, Syriac, Kaithi and Egyptian writing."""
    shown = {number for number in range(0x110000) if UNSEEN.search(chr(number))}
    unseen = {n for n in range(0x110000) if unicodedata.category(chr(n)) in UNSEEN_CLASSES}
    left = {chr(number) for number in unseen - shown} - set("\t\n")
    scripts = {unicodedata.name(letter).split()[0] for letter in left}
    assert scripts == {"ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"}
    extra = {unicodedata.category(chr(number)) for number in shown - unseen}
    assert extra <= {"Cn"}  # of the blocks of format characters, not assigned yet


UNSEEN_CLASSES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_an_error_hides_nothing_of_a_name_in_it_and_commands_no_terminal():
    assert str(DataError("no file a\u202evsc.\x1b]0;x\x07")) == (
        "no file a⟨U+202E⟩vsc.⟨U+001B⟩]0;x⟨U+0007⟩"
    )
    assert str(DataError("甲\tb\n")) == "甲\tb\n" and str(DataError()) == ""
