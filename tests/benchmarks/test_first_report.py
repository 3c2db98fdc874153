"""What is counted from a clone to its first report. Nothing here is timed or installed."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import documents, first_report

LOG = """\
2026-01-02T10:00:00,1   Downloading click-8.1.8-py3-none-any.whl (98 kB)
2026-01-02T10:00:00,2   Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (426.5 MB)
2026-01-02T10:00:00,3   Using cached six-1.17.0-py2.py3-none-any.whl (11 kB)
2026-01-02T10:00:00,4 Processing {}
"""


def row(index: str, torch: str, size: int) -> dict:
    about = {"cpu": "AMD EPYC (AVX2)", "cores": 2, "git": "0123456789abc", "date": "2026-01-02T10"}
    return {
        "index": index,
        "torch": torch,
        "clone_s": 1.0,
        "environment_s": 60.0,
        "first_s": 9.0,
        "answers_s": 40.0,
        "environment_bytes": size,
        "downloaded_bytes": 2e8,
        "local_bytes": 1e6,
        "machine": about,
        "others": {"load_before": 0.5, "load_after": 2.5},
    }


ROWS = [row("here", "2.13.0+cpu", 2_300_000_000), row("pypi", "2.13.0+cu130", 7_000_000_000)]


def test_a_log_of_pip_says_what_was_downloaded_and_what_lay_here(tmp_path: Path):
    wheel = tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(b"x" * 123)
    log = LOG.format(wheel)
    assert first_report.downloaded(log) == pytest.approx(426.5e6 + 98e3)
    assert first_report.local(log) == 123


def test_a_file_of_two_names_is_counted_once(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    one = first_report.size(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert first_report.size(tmp_path) == one >= 100_000


def test_a_new_user_has_no_variable_of_ours_and_with_pypi_none_of_pips(monkeypatch, tmp_path: Path):
    names = {"NEOXLIB_CACHE": "a", "PIP_FIND_LINKS": "b", "VIRTUAL_ENV": "c", "XDG_CACHE_HOME": "d"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    here, pypi = (first_report.environment(index, tmp_path) for index in ("here", "pypi"))
    assert {name for name in names if name in here} == {"PIP_FIND_LINKS"}
    assert not {name for name in names if name in pypi} and pypi["PIP_CONFIG_FILE"] == os.devnull
    assert here["HOME"] == pypi["HOME"] == str(tmp_path)


def test_the_pages_say_in_both_languages_the_times_since_the_clone_began(tmp_path: Path):
    first_report.write(ROWS, tmp_path)
    assert json.loads((tmp_path / "first-report.json").read_text()) == ROWS
    for ending in ("", "-zh"):
        table = (tmp_path / f"first-report{ending}.md").read_text("utf-8")
        assert "| `2.13.0+cpu` | 2.3 GB | 61 s | 70 s | 101 s |" in table
        assert "200 MB" in table or "0.2 GB" in table
        line = (tmp_path / f"first-report-readme{ending}.md").read_text("utf-8")
        assert line.count("\n") == 1
        assert all(said in line for said in ("70 s", "101 s", "2.3 GB", "7.0 GB", "+cu130"))
    only = first_report.sentence(ROWS[:1], first_report.WORDS[""])
    assert "2.3 GB with torch `2.13.0+cpu` ([" in only


def test_every_page_has_the_lines_that_the_figures_go_between():
    for name in documents.PLACES:
        page = (documents.ROOT / documents.document(name)).read_text("utf-8")
        assert "NEW" in documents.into_document(page, name, "NEW"), name
