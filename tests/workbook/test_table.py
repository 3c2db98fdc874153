"""Small tables for people: a plain form, and short figures."""

from neoxlib.workbook.table import Table, figures


def test_table_has_a_plain_form_for_terminals():
    assert (
        repr(Table(("name", "value"), [("a", 1), ("long", 2)])) == "name  value\na     1\nlong  2"
    )


def test_figures_are_short_and_thousands_have_commas():
    lines = repr(figures({"ms": 32.194803, "bytes": 1234567, "big": 1234567.8, "none": None}))
    assert [line.split()[-1] for line in lines.splitlines()[1:4]] == [
        "32.19",
        "1,234,567",
        "1,234,568",
    ]
    assert lines.endswith("not there")
