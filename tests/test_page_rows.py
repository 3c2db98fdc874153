"""Rows that a make target writes into a page of the documentation."""

import pytest

from tests.support.page_rows import put_rows

HEAD = ("kind", "fault", "seen")
PAGE = "before\n<!-- faults: begin -->\n\n<!-- faults: end -->\nafter\n"


def test_rows_replace_those_of_the_same_key_and_leave_others_where_they_are(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    put_rows(page, "faults", HEAD, [("a", "x", "1"), ("a", "y", "2")], keys=2, keep=True)
    put_rows(page, "faults", HEAD, [("a", "x", "3"), ("b", "x", "4")], keys=2, keep=True)
    lines = page.read_text().splitlines()
    assert lines[3:8] == ["| kind | fault | seen |", "|---|---|---|", "| a | x | 3 |",
                          "| a | y | 2 |", "| b | x | 4 |"]  # fmt: skip
    assert (lines[0], lines[-1]) == ("before", "after")
    put_rows(page, "faults", HEAD, [("b", "x", "5")], keys=2, keep=False)
    assert page.read_text().count("\n| ") == 2


def test_a_page_without_markers_is_left_as_it_was(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(ValueError, match="markers <!-- fuzz: begin -->"):
        put_rows(page, "fuzz", HEAD, [], keys=1, keep=True)
    assert page.read_text() == PAGE
