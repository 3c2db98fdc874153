"""The search for known messages in a log."""

import re
from pathlib import Path

import pytest

from neoxlib.machine.failures import failures
from neoxlib.machine.findings import findings_of, literals
from neoxlib.machine.log_text import LogText, read_log

LOGS = Path(__file__).parents[1] / "fixtures" / "failures"


def codes(text: str) -> set[str]:
    return {found.code for found in findings_of(0, LogText("log", text))}


@pytest.mark.parametrize(
    "text",
    [
        "EI0002: [PID: 7] 2025-01-01-00:00:00.000.000 times out",
        "[PID: 7] 2025-01-01-00:00:00.000.000 Communication_Error_Timeout(EI0002): times out",
        "DeviceMsgProc errcode[EI0002]",
        "what is EI0002?",
    ],
)
def test_a_code_is_found_in_every_form_that_versions_print(text: str):
    assert "EI0002" in codes(text)


@pytest.mark.parametrize(
    "text",
    [
        "NPU function error: f, error code is 507014",
        "runtime result = 507014.[FUNC:ReportCallError]",
        "aclrtSynchronizeStream(stream) failed: 507014 (main.cpp:1)",
        "launch failed for Add, errno:507014.",
        "(External) ACL error, the error code is : 507014",
        "rtSetDevice:ErrCode=507014, desc=[x]",
        "rtKernelLaunchWithHandleV2: 507014, desc=[x]",
    ],
)
def test_a_return_code_is_found_behind_the_words_that_print_it(text: str):
    assert "507014" in codes(text)


@pytest.mark.parametrize("text", ["pid 507014", "507014 tokens", "507,014", "1507014", "0.507014"])
def test_another_number_is_no_return_code(text: str):
    assert codes(text) == set()


def test_a_healthy_log_raises_no_alarm():
    assert list(findings_of(0, read_log(LOGS / "healthy.log"))) == []


def test_a_code_without_a_row_is_found_where_a_message_begins_with_it():
    assert codes("EI0777: [PID: 1] a new message") == {"EI0777"}
    assert codes("part EI0777 of the list, E12345 too") == set()


@pytest.mark.parametrize("row", [r for r in failures() if r.words], ids=lambda row: row.name)
def test_the_plain_text_of_a_pattern_is_part_of_what_it_matches(row):
    """A pattern is tried only where its plain text is: else a message would be missed."""
    assert all(len(part) >= 4 for part in literals(row.words))
    for log in sorted(LOGS.glob("*.log")):
        for match in re.finditer(row.words, log.read_text()):
            assert any(part in match.group(0) for part in literals(row.words))


def test_alternatives_groups_and_classes_leave_their_plain_text():
    assert literals(r"ab+cd|x(?:y|z)long text\d+|[abc]tail") == ("ab", "long text", "tail")


def test_a_message_is_quoted_from_where_it_is_and_not_longer_than_a_few_lines():
    (found,) = findings_of(0, LogText("log", "x " * 500 + "EI0002: times out " + "y " * 500))
    assert found.text.startswith("…EI0002: times out") and len(found.text) < 300


def test_many_repetitions_take_no_longer_than_a_few():
    text = "EI0002: [PID: 1] times out\n" * 50_000
    assert len(list(findings_of(0, LogText("log", text)))) <= 2_000


def test_one_line_of_megabytes_is_searched_as_many_short_ones():
    text = "x" * 3_000_000 + " EI0002: [PID: 1] times out " * 20_000
    found = list(findings_of(0, LogText("log", text)))
    assert found[0].text.startswith("…EI0002: [PID: 1]") and len(found) <= 2_000
