"""Which rank failed first, why, and whom the others waited for."""

import json
from pathlib import Path

import pytest

from neoxlib.machine.explain import Explanation, explain
from neoxlib.machine.log_text import LogText, read_log

LOGS = Path(__file__).parents[1] / "fixtures" / "failures"
EXPECTED = json.loads((LOGS / "expected.json").read_text())
WAITED = "EI0002: [PID: 1] 2025-01-01-10:{}:00.000.000 The wait execution of the Notify register"
MEMORY = "2025-01-01-10:{}:00.000.000 NPU out of memory. Tried to allocate 2.00 GiB"


def of_ranks(*texts: str) -> Explanation:
    """The explanation of a log per rank, in the order of ranks."""
    logs = [LogText(f"rank{r}.log", text, rank=f"rank {r}") for r, text in enumerate(texts)]
    return explain(logs)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_public_log_is_explained_by_its_cause(name: str):
    expected = EXPECTED[name]
    found = explain([read_log(LOGS / f"{name}.log")])
    first = found.first
    assert expected["first"] in (first.code, first.failure.name, *first.failure.codes)
    assert first.who == expected["who"]
    assert not expected["awaited"] or expected["awaited"] in found.awaited
    assert first.failure.cure in str(found) and first.failure.source in str(found)


def test_a_waiting_rank_is_not_the_first_even_if_its_time_is_earlier():
    """Clocks of machines differ, and a log is flushed late."""
    found = of_ranks(WAITED.format("05"), MEMORY.format("40"), WAITED.format("06"))
    assert found.culprit == "rank 1" and found.first.failure.name == "NPU out of memory"
    assert "only waited: rank 0, rank 2 (EI0002)" in str(found)


@pytest.mark.parametrize("early", [0, 1, 2])
def test_of_two_causes_the_earlier_one_is_the_first(early: int):
    texts = [MEMORY.format("40" if r != early else "05") for r in range(3)]
    assert of_ranks(*texts).culprit == f"rank {early}"


def test_without_times_the_kind_of_message_decides():
    found = of_ranks("Connection closed by peer", "boom\nValueError: only here", "EI0006: x")
    assert found.culprit == "rank 1" and "only here" in found.first.text


def test_if_all_only_waited_the_rank_that_they_name_is_to_be_looked_at():
    late = "EI0002: times out, not received from remote rank: [3]. rankSize[4]"
    found = of_ranks(late, late, late)
    assert found.culprit == "rank 3" and "look first at: rank 3" in str(found)
    assert "no cause is in these logs" in str(found)


def test_a_chain_of_waiting_ranks_leads_to_the_one_that_waits_for_none():
    text = "EI0006: Getting socket times out, remoteRank[{}]"
    found = of_ranks(text.format(1), text.format(2), text.format(3), "quiet")
    assert found.awaited == ("rank 3",) and found.culprit == "rank 3"


def test_if_all_only_waited_and_name_none_the_silent_rank_is_to_be_looked_at():
    found = of_ranks(WAITED.format("05"), "all is well", WAITED.format("06"))
    assert found.culprit == "rank 1" and "rank 1: nothing of it is here" in str(found)


def test_ranks_that_waited_for_each_other_are_not_called_the_cause():
    text = "EI0006: Getting socket times out, remoteRank[{}]"
    found = of_ranks(text.format(1), text.format(0))
    assert found.awaited == () and "no cause is in these logs" in str(found)


def test_a_code_of_cann_is_preferred_to_the_return_code_beside_it():
    text = "2025-01-01 10:00:00,000 error code is 507033\nEL0003: The argument is invalid."
    assert of_ranks(text).first.code == "EL0003"


def test_a_known_failure_is_preferred_to_the_python_error_that_repeats_it():
    text = "ValueError: wrapped\nlibgomp.so.1: cannot allocate memory in static TLS block"
    assert of_ranks(text).first.failure.name == "static TLS block"


def test_a_message_that_names_no_cause_does_not_hide_one():
    text = "ERR00100 PTA call acl api failed\nEZ9999: Inner Error!\nTiling Failed."
    assert of_ranks(text).first.failure.kind == "cause"


def test_a_code_that_says_only_where_inside_gives_way_to_one_that_says_what():
    text = "2025-01-01 10:00:00,000 runtime result = 507001\nthere is a sdma error, channel 2"
    assert of_ranks(text).first.failure.name == "507013, sdma error"


def test_what_follows_seconds_later_is_not_the_cause():
    text = "11:05:31.656 Aicpu kernel execute failed\n11:05:34.662 Device 2 DEV_RUNNING_DOWN"
    assert "aicpu" in of_ranks(text).first.failure.name


def test_a_process_may_be_the_rank_that_speaks_at_the_same_time():
    text = (
        "EZ9999: [PID: 7] 2025-01-01-10:00:00.000.000 there is an aicore error exception\n"
        "[rank3]: The DDR address of the MTE instruction is out of range."
    )
    found = explain([LogText("all.log", text)])
    assert (found.culprit, found.first.failure.name) == ("rank 3", "address out of range")


def test_many_ranks_without_a_log_are_not_called_silent():
    text = "[rank6]: EI0002: times out, rankSize[64]"
    assert explain([LogText("all.log", text)]).silent == ()


def test_a_rank_that_did_not_arrive_is_told_by_those_that_waited():
    text = "RankError: rank 1 did not meet the other ranks within 60 s: it has ended or hangs"
    found = of_ranks(text, "")
    assert found.culprit == "rank 1" and found.first.who == "rank 0"


def test_a_process_is_the_rank_that_another_line_says():
    plog = LogText("plog-77_1.log", "EL0004: no memory", pids={"77": "rank 5"}, rank="rank 5")
    assert explain([plog]).culprit == "rank 5"


def test_nothing_known_is_said_so_and_names_nobody():
    found = of_ranks("all is well")
    assert found.first is None and found.culprit == "" and found.short == ""
    assert "nothing in these logs" in str(found)


def test_a_large_log_is_said_to_be_read_in_part():
    found = explain([LogText("a.log", "EI0002: x", skipped=7_000_000)])
    assert "7,000,000 bytes between" in str(found) and "near its end" in str(found)


def test_many_ranks_are_counted_not_listed():
    found = of_ranks(MEMORY.format("01"), *[WAITED.format("05")] * 40)
    assert "and 32 more" in str(found) and len(str(found)) < 3000


def test_repeated_messages_are_told_once_with_their_number():
    found = of_ranks("\n".join([MEMORY.format("01"), *["EE9999: Inner Error!"] * 7]))
    assert "EE9999 x7" in str(found)
