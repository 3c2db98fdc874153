"""The index and the links of runs of any name, also of damaged ones."""

import base64
import hashlib
import json
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


def made(root, name="1", notebook="04_profile", **results):
    folder = root / notebook / name
    folder.mkdir(parents=True)
    found = {"status": "ok", "notebook": notebook, "run": name} | results
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    (folder / "notebook.ipynb").write_text(BOOK, encoding="utf-8")
    return folder


def report_of(folder):
    return BeautifulSoup(pages.write_report(folder).read_text(encoding="utf-8"), "html.parser")


def index_of(root):
    return BeautifulSoup(pages.write_index(root).read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "nothing there"])
def test_an_odd_file_in_place_of_results_is_a_broken_run_and_hangs_nothing(kind, tmp_path):
    made(tmp_path, "2", metrics={"a": 1})
    folder = tmp_path / "04_profile" / "1"
    folder.mkdir()
    path = folder / "results.json"
    if kind == "pipe":
        os.mkfifo(path)
        os.mkfifo(tmp_path / "pipe")
        os.mkfifo(tmp_path / "04_profile" / "pipe")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path}.get(kind, tmp_path / "none"))
    rows = index_of(tmp_path).select("tbody tr")
    assert [row.select_one(".badge").text for row in rows] == ["ok", "broken"]


CHECKS = [{"name": "same as the unsplit model", "passed": True, "detail": "error 1/20; more"}]


def test_the_first_screen_answers_before_it_explains(tmp_path):
    made(tmp_path, "1", metrics={"longest_next_token_ms": 1.0})
    folder = made(
        tmp_path,
        "2",
        verdict="right, and fast. Because.",
        noise=["load 2.3 on 2 cores"],
        metrics={"longest_next_token_ms": 0.64},
        checks=CHECKS,
    )
    page = report_of(folder)
    order = [tag.get("class", [""])[0] for tag in page.main.find_all(recursive=False)]
    assert order[:5] == ["verdict", "noise", "cards", "checks", "contents"]
    assert page.select_one(".verdict .said").text.split("  ")[-1].endswith("Right, and fast.")
    assert page.select_one(".verdict p:last-child").text == "Because."
    assert "load 2.3" in page.select_one(".noise").text
    assert page.select_one(".cards b").text == "0.64"
    assert page.select_one(".checks b").text == "yes"


def test_without_noise_there_is_no_banner_and_without_figures_no_card(tmp_path):
    page = report_of(made(tmp_path))
    assert not page.select(".noise, .cards, .checks, .cause")


def test_a_report_leads_to_the_comparable_run_before_it(tmp_path):
    first = made(tmp_path, "1", metrics={"longest_next_token_ms": 1.0})
    assert report_of(first).select(".crumbs a")[-1]["href"] == "../../index.html"
    page = report_of(made(tmp_path, "2", metrics={"longest_next_token_ms": 2.0}))
    assert page.select(".crumbs a")[-1]["href"] == "../1/report.html"
    assert "-p run_a 04_profile/1 -p run_b 04_profile/2" in page.select_one(".record").text
    assert page.select_one(".cards svg title").text.endswith("oldest first: 1.00 ms, 2.00 ms")


@pytest.mark.parametrize("what", ["report", "index"])
def test_a_page_has_one_h1_landmarks_a_skip_link_and_a_language(what, tmp_path):
    folder = made(tmp_path, checks=CHECKS, metrics={"a": 1.0})
    page = report_of(folder)
    page = page if what == "report" else index_of(tmp_path)
    assert [len(page.select(tag)) for tag in ("h1", "header", "main", "footer")] == [1] * 4
    assert page.html["lang"] == "en" and page.select_one("a.skip")["href"] == "#main"
    assert all(svg.get("aria-label") for svg in page.select("svg"))
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("what", ["report", "index"])
def test_only_the_script_that_the_policy_names_runs(what, tmp_path):
    folder = made(tmp_path)
    page = report_of(folder)
    page = page if what == "report" else index_of(tmp_path)
    (script,) = page.select("script")
    digest = base64.b64encode(hashlib.sha256(script.string.encode()).digest()).decode()
    policy = page.select_one("meta[http-equiv]")["content"]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_index_answers_four_questions_with_the_newest_run_that_knows(tmp_path):
    made(tmp_path, "1", "03_ceval", metrics={"accuracy": 0.9})
    made(tmp_path, "2", "03_ceval", metrics={"accuracy": 0.9375})
    made(tmp_path, "3", metrics={"longest_tokens_per_second": 1081.0, "parity_of_limit": 0.05})
    error = {"type": "RankError", "message": "rank 1 was killed", "cell": 3}
    made(tmp_path, "4", status="failed", error=error)
    made(tmp_path, "5", "02_inference", metrics={"next_token_ms": 0.5})  # says less than a profile
    texts = [
        " ".join(card.get_text(" ").split()) for card in index_of(tmp_path).select(".cards li")
    ]
    assert texts[0].startswith("right? 93.8 % right answers, 03_ceval")
    assert "3.7 points more than last time" in texts[0]
    assert texts[1].startswith("fast? 1,081 tokens/s")
    assert texts[2].startswith("same as the reference? yes error 5.0 % of limit")
    assert texts[3].startswith("last failure Failed in cell 3: RankError: rank 1 was killed")


def test_a_model_that_is_not_its_reference_is_called_so_and_nothing_else_of_it_counts(tmp_path):
    values = {"parity_of_limit": 31.0, "longest_tokens_per_second": 1081.0}
    made(tmp_path, status="check-failed", metrics=values)
    made(tmp_path, "0", metrics={"longest_tokens_per_second": 9.0}, noise=["load"])
    made(tmp_path, "2", status="failed", metrics={"longest_tokens_per_second": 7.0})
    cards = index_of(tmp_path).select(".cards li")
    assert cards[2].b.text == "no" and cards[1].b.text == "9.00" and "(noisy)" in cards[1].text


def test_without_script_every_run_is_there_and_what_needs_it_is_hidden(tmp_path):
    for number in range(101, 250):
        made(tmp_path, str(number))
    page = index_of(tmp_path)
    assert len(page.select("tbody tr")) == 149 and page.noscript.style
    hidden = page.select(".filters, #more, #chosen, tbody input")
    assert len(hidden) == 152 and all(tag.has_attr("hidden") for tag in hidden)


def test_of_very_many_runs_the_older_ones_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MOST_RUNS", 2)
    for number in "123":
        made(tmp_path, number)
    page = index_of(tmp_path)
    assert [row["data-place"][-1] for row in page.select("tbody tr")] == ["3", "2"]
    assert "1 older ones are not listed" in page.select_one(".what").text


def test_hostile_words_in_the_answer_and_the_noise_stay_words(tmp_path):
    word = "</style><script>alert(1)</script>\x1b[2J"
    folder = made(tmp_path, verdict=word, noise=[word], metrics={word: word})
    for page in (report_of(folder), index_of(tmp_path)):
        assert len(page.select("script")) == 1 and "alert(1)" not in page.script.text
        assert "<script>alert(1)</script>" in page.main.text and "\x1b" not in str(page)
