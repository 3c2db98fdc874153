"""The index and the links of runs of any name, also of damaged ones."""

import os
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup

from neoxlib.compare import Pair, latest
from neoxlib.workbook import pages
from neoxlib.workbook.past_run import open_run
from neoxlib.workbook.results import MOST_BYTES

BOOK = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


def test_index_shows_broken_and_partial_folders(tmp_path):
    for name, content in {
        "a": None,
        "b": "{",
        "c": "[]",
        "d": '{"metrics": 3}',
        "e": '{"status": "running"}',
    }.items():
        folder = tmp_path / "02_inference" / name
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "results.json").write_text(content, encoding="utf-8")
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert [badge.text for badge in page.select("td .badge")] == ["running", *["broken"] * 4]
    assert "no results.json" in page.select("tbody tr")[-1].text


def nested(depth):
    return b'{"status": "ok", "metrics": {"a": ' + b"[" * depth + b"]" * depth + b"}}"


DAMAGED = {
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "null": b"null",
    "empty": b"",
    "binary": bytes(range(256)),
    "half": b'{"status": "ok", "metr',
    "deep": nested(100_000),
    "deeper than shown": nested(400),
    "error is text": b'{"status": "failed", "error": "x"}',
    "checks of text": b'{"checks": ["x"]}',
    "given of lists": b'{"given": [["x"]]}',
    "status is none": b'{"status": null}',
    "long number": b'{"seconds": ' + b"9" * 5000 + b"}",
    "too large": b" " * (MOST_BYTES + 1),
}
ODD = {
    "no files": b'{"status": "ok", "notebook": "02_inference"}',
    "bare": b'{"status": "ok", "given": ["gone"]}',
    "nameless check": b'{"status": "check-failed", "checks": [{"passed": false}]}',
    "error": b'{"error": {}}',
    "half a character": (
        b'{"status": "ok", "metrics": {"\\ud800": "\\udfff"}, "given": ["\\ud800"]}'
    ),
}


def damaged(root, contents):
    for name, content in contents.items():
        folder = root / "02_inference" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_bytes(content)
    return root


@pytest.mark.parametrize("name", DAMAGED)
def test_index_and_comparison_survive_a_damaged_run_and_name_it(name, tmp_path, capsys):
    damaged(tmp_path, {name: DAMAGED[name]} | dict.fromkeys(("1", "2"), ODD["no files"]))
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    rows = {row["data-place"].split("/")[1]: row.text for row in page.select("tbody tr")}
    assert (
        "broken" in rows[name]
        and "Cannot be read: " in rows[name]
        and "broken" not in rows["1"] + rows["2"]
    )
    pair = latest(tmp_path)
    assert (pair.a.folder.name, pair.b.folder.name) == ("1", "2")
    said = capsys.readouterr().out
    assert (
        said.startswith("Left out: ") and f"{name}/results.json" in said and said.count("\n") == 1
    )


@pytest.mark.parametrize("name", ODD)
def test_results_that_lack_something_are_shown_with_what_they_have(name, tmp_path):
    damaged(tmp_path, {"1": ODD[name], "2": ODD["no files"]})
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert len(page.select("tbody tr")) == 2 and "Cannot be read" not in page.text
    if name != "error":  # which has no status either
        pair = Pair(*(open_run(tmp_path / "02_inference" / run) for run in "12"))
        for view in (pair.names, pair.parameters, pair.environment, pair.accuracy, pair.speed):
            assert repr(view)


@pytest.mark.parametrize(
    "name", ["a#b", "a?b", "50%", "a b", "a'b", 'a"b', "a&amp;b", "<b>", "月亮", "a:b", "%41"]
)
def test_links_lead_to_runs_of_notebooks_of_any_name(name, tmp_path):
    folder = tmp_path / name / "1"
    folder.mkdir(parents=True)
    for file, content in (
        ("results.json", '{"status": "ok"}'),
        ("notebook.ipynb", BOOK),
        ("x#y.csv", "a\n"),
    ):
        (folder / file).write_text(content, encoding="utf-8")
    report_page = BeautifulSoup(
        pages.write_report(folder).read_text(encoding="utf-8"), "html.parser"
    )
    index = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert name in index.select_one("tbody b").text
    for page, place in (
        (index.select_one("tbody"), tmp_path / "index.html"),
        (report_page, folder / "report.html"),
    ):
        links = [urljoin(place.as_uri(), a["href"]) for a in page.select("td a, .files a")]
        paths = [
            Path(unquote(urlsplit(link).path)) for link in links if not urlsplit(link).fragment
        ]
        assert links and len(paths) == len(links), links
        assert all(path.is_file() for path in paths), links


def test_a_name_whose_bytes_are_no_text_breaks_neither_index_nor_links(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "1"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"status": "ok"}', encoding="utf-8")
    page = BeautifulSoup(pages.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert page.select_one("tbody td a")["href"] == "caf%E9/1/results.json"


def test_index_of_no_runs_says_so(tmp_path):
    assert "No run yet" in pages.write_index(tmp_path / "outputs").read_text(encoding="utf-8")
