"""Small tables for people: a plain form, and short figures."""

import pandas as pd
import pytest

from neoxlib.workbook.table import Note, Table, TextTable, figure


def test_table_has_a_plain_form_for_terminals():
    assert (
        repr(Table(("name", "value"), [("a", 1), ("long", 2)])) == "name  value\na     1\nlong  2"
    )


@pytest.mark.parametrize("kind", ["Note", "Table", "TextTable"])
def test_a_terminal_shows_control_characters_and_obeys_none(kind):
    text = "a\x1b[31mred\x07 \x9b2J \x7f\rb\r\nc\td"
    shown = repr(
        {
            "Note": lambda: Note(text),
            "Table": lambda: Table(("a",), [(text,)]),
            "TextTable": lambda: TextTable(pd.DataFrame({"a": ["x"]}), text),
        }[kind]()
    )
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\x7f"}
    assert "a⟨U+001B⟩[31mred⟨U+0007⟩ ⟨U+009B⟩2J ⟨U+007F⟩⟨U+000D⟩b" in shown
    assert Note("月亮\tis\r\nup 🌕") == "月亮\tis\r\nup 🌕" == repr(Note("月亮\tis\r\nup 🌕"))


def test_a_number_is_short_and_thousands_have_commas():
    shown = [figure(value) for value in (32.194803, 1234567, 1234567.8, None)]
    assert shown == ["32.19", "1,234,567", "1,234,568", "not there"]
