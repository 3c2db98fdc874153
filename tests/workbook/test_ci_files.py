"""JUnit's XML, the JSON document and the Markdown summary say what results.json says."""

import json
from xml.etree import ElementTree

import pytest

from neoxlib.workbook import ci_files
from neoxlib.workbook import results as workbook_results

CHECKS = [
    {"name": "parity", "passed": True, "detail": "1e-6"},
    {"name": "speed", "passed": None, "detail": "load 3 on 2 cores"},
    {"name": "score", "passed": False, "detail": "0.2 < 0.3"},
]
ERROR = {"type": "RankError", "message": "rank 1 died\nTraceback …", "cell": 4}
HOSTILE = "a|b `c` <script>alert(1)</script> [x](http://y) *z* \x1b[2J \ud800 \uffff &amp; $x$"


def results(**values):
    base = {"notebook": "04_profile", "run": "r1", "status": "ok", "seconds": 2.5}
    return workbook_results.NO_RUN | base | {"started": "2026-01-02T03:04:05+00:00"} | values


@pytest.fixture
def runs(tmp_path):
    """A run of every kind of end."""
    (tmp_path / "report.html").touch()
    found = [
        results(verdict="40 tokens a second.", metrics={"next_token_ms": 2.5}, noise=["load 3"]),
        results(status="check-failed", checks=CHECKS),
        results(status="not-judged", checks=CHECKS[:2]),
        results(status="failed", error=ERROR, checks=CHECKS[:1], notebook="02_inference"),
        results(status="interrupted", error=None, seconds=None),
    ]
    return [(run, tmp_path) for run in found]


def test_a_suite_per_run_has_a_case_for_its_cells_and_each_check(runs):
    root = ElementTree.fromstring(ci_files.junit(runs))
    cases = [[case.get("name") for case in suite.iter("testcase")] for suite in root]
    names = [check["name"] for check in CHECKS]
    assert cases == [["run"], ["run", *names], ["run", *names[:2]], ["run", "parity"], ["run"]]
    assert {suite.get("name") for suite in root} == {"04_profile", "02_inference"}
    assert root[0].find("system-out").text == "40 tokens a second.\nnoisy: load 3"


def test_failures_errors_and_skipped_are_told_apart_and_counted(runs):
    root = ElementTree.fromstring(ci_files.junit(runs))
    counted = ("tests", "failures", "errors", "skipped")
    of_each = [tuple(int(suite.get(name)) for name in counted) for suite in root]
    assert of_each == [(1, 0, 0, 0), (4, 1, 0, 1), (3, 0, 0, 1), (2, 0, 1, 0), (1, 0, 1, 0)]
    assert tuple(int(root.get(name)) for name in counted[:3]) == (11, 1, 2)
    assert root.get("skipped") is None, "Jenkins' schema has it for suites only"
    assert root[1].find(".//failure").get("message") == "0.2 < 0.3"
    assert root[2].find(".//skipped").get("message") == "load 3 on 2 cores"
    error = root[3].find("testcase/error")
    assert error.get("type") == "RankError" and error.get("message") == "rank 1 died"
    assert "Traceback …" in error.text and "report:" in error.text


def test_texts_that_xml_and_markdown_cannot_hold_are_shown_in_both(tmp_path):
    check = {"name": HOSTILE, "passed": False, "detail": HOSTILE}
    run = results(verdict=HOSTILE, metrics={HOSTILE: HOSTILE}, checks=[check], noise=[HOSTILE])
    root = ElementTree.fromstring(ci_files.junit([(run, tmp_path)]).encode())
    shown = root.find(".//failure").get("message")
    assert "<script>" in shown and "⟨U+001B⟩[2J" in shown and "⟨U+D800⟩" in shown
    text = ci_files.summary([(run, tmp_path)])
    row = text.splitlines()[4]
    assert row.replace("\\|", "").count("|") == 8, "seven cells"
    bare = row.replace("\\\\", "")
    assert not [sign for sign in "`<>*[]&$" if sign in bare.replace("\\" + sign, "")]


def test_a_run_in_the_json_document_is_its_results_and_where_they_are(runs):
    run, folder = runs[0]
    found = ci_files.record(run, folder, 0)
    assert json.loads(json.dumps(found)) == found
    assert found["verdict"] == "40 tokens a second." and found["metrics"] == {"next_token_ms": 2.5}
    assert found["report"] == str(folder / "report.html") and found["exit_code"] == 0
    assert set(found["identity"]) == {"model", "parameters", "chip", "dtype", "quant", "ranks"}


def test_a_page_that_is_not_there_is_named_nowhere(runs, tmp_path):
    (tmp_path / "report.html").unlink()
    assert ci_files.record(*runs[0], 0)["report"] is None
    assert "report.html" not in ci_files.junit(runs)


def test_the_summary_counts_what_went_well_and_lists_what_failed(runs, tmp_path):
    path = ci_files.write_summary(tmp_path, runs)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert path.name == "summary.md" and lines[0] == "## neoxlib: 1 of 5 notebooks went well"
    assert len([line for line in lines if line.startswith("| 0")]) == 5
    assert "40 tokens a second.; noisy: load 3" in lines[4]
    assert "- **04\\_profile**: NotJudged: speed: load 3 on 2 cores" in lines
    assert "- **02\\_inference**: RankError: rank 1 died" in lines


def test_notebooks_that_did_not_start_count_in_the_summary(runs):
    text = ci_files.summary(runs[:1], ["05_compare", "06_align"])
    assert text.startswith("## neoxlib: 1 of 3 notebooks went well\n")
    assert text.endswith("\n- not run: 05\\_compare, 06\\_align\n")


def test_refused_parameters_are_an_error_of_their_own():
    root = ElementTree.fromstring(ci_files.refusal("cannot be used:\n  seed: <bad>"))
    assert [root.get(name) for name in ("tests", "errors")] == ["1", "1"]
    assert root.find(".//error").text.endswith("seed: <bad>")
