"""The tables of failures: complete, each row with a source, and in step with the page."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from neoxlib.machine.failures import (
    FAMILIES,
    ORDER,
    by_code,
    failures,
    table_text,
    unknown,
    write_page,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
ASKED = {
    "cann": ("EE1001", "EI0002", "EI0006", "EJ0001", "EL0004", "EZ1001", "EZ9999", "ERR02200"),
    "runtime": (107002, 207001, 507011, 507014, 507015, 507033, 507046, 507048, 507901),
}
# A file of a repository at a commit, a thread, or what was seen on this machine.
SOURCE = re.compile(
    r"[\w.-]+/[\w.-]+ [0-9a-f]{8}, \S|[\w.-]+/[\w.-]+#\d+|neoxlib/\S+\.py|seen here|"
    r"the Linux kernel's own|Python's faulthandler|torch and Python's own"
)
ROWS = pytest.mark.parametrize("row", failures(), ids=lambda row: row.name)


@ROWS
def test_a_row_says_cause_place_cure_and_source(row):
    assert row.kind in ORDER and SOURCE.search(row.source)
    assert all(text.strip() for text in (row.name, row.cause, row.look, row.cure))
    assert row.codes or row.words, "a row that nothing finds"
    re.compile(row.words)


def test_a_code_has_one_row():
    counts = Counter(code for row in failures() for code in row.codes)
    assert [code for code, count in counts.items() if count > 1] == []
    names = Counter(row.name for row in failures())
    assert max(names.values()) == 1


def test_every_code_that_users_ask_about_has_a_row():
    codes = [str(code) for group in ASKED.values() for code in group]
    assert [code for code in codes if code not in by_code()] == []


def test_a_code_without_a_row_is_told_by_its_family():
    assert "HCCL" in unknown("EI0777").cause and "torch_npu" in unknown("ERR03001").cause
    assert unknown("EI0777").kind == "general" and unknown("EW1234") is None
    assert all(unknown(f"{family}0000") for family in FAMILIES)


def test_the_page_holds_the_tables_as_they_are(tmp_path: Path):
    """Else: `from neoxlib.machine.failures import write_page; write_page("docs/trouble…")`."""
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text(encoding="utf-8") + "out of step")
    write_page(copy)
    assert copy.read_text() == PAGE.read_text(encoding="utf-8") and table_text() in copy.read_text()


def test_the_page_names_the_public_logs_that_the_tables_were_held_against():
    expected = json.loads((ROOT / "tests/fixtures/failures/expected.json").read_text())
    assert len({row["source"] for row in expected.values()}) >= 12
    page = PAGE.read_text(encoding="utf-8")
    assert f"{len(expected)} excerpts" in page
