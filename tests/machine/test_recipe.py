"""The table of environment variables: sources, effects, and what the guide's era changes."""

import re
from collections import Counter

import pytest

from neoxlib.machine import launch_env, recipe
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.recipe import RECIPE, Launch

NPUS = [chip for chip in CHIPS.values() if chip.name != "cpu"]
LAUNCHES = [
    Launch(chip, size, inside, repeatable, backend, era)
    for chip in CHIPS.values()
    for size in (1, 2, 8)
    for inside in (False, True)
    for repeatable in (False, True)
    for backend in ("hccl", "lccl")
    for era in ("today", "guide")
]


def test_no_launch_has_two_values_for_one_variable():
    for at in LAUNCHES:
        names = Counter(row.name for row in RECIPE if row.when(at))
        assert max(names.values()) == 1, (at, names)


def test_every_row_says_why_and_whose_advice_it_is():
    assert all(row.why and row.source for row in RECIPE)


def test_a_row_that_no_operator_or_library_here_reads_is_marked_with_the_reason():
    unread = {"BACKEND", "HCCL_OP_BASE_FFTS_MODE_ENABLE", "HCCL_WHITELIST_DISABLE"}
    for row in RECIPE:
        expected = row.name in unread or row.name.startswith(("ATB_", "LCCL_"))
        assert bool(row.unused) == expected, row.name


def test_a_fact_of_a_vendors_page_names_its_line():
    """A default, a limit or a minimum is read somewhere: the row says where."""
    for row in RECIPE:
        if re.search(r"default|multiple|must exceed|no such switch", row.why):
            assert re.search(r"\w+\.md:\d+", row.why), row.name


@pytest.mark.parametrize("chip", NPUS, ids=lambda chip: chip.name)
@pytest.mark.parametrize("inside", [False, True])
def test_the_task_queue_is_at_level_2_but_in_the_guides_era(chip, inside):
    def queue(era):
        return launch_env.launch_env(chip, 1, inside, era=era)["TASK_QUEUE_ENABLE"]

    assert (queue("today"), queue("guide")) == ("2", "0" if inside else "1")
    guides = [row for row in RECIPE if row.name == "TASK_QUEUE_ENABLE" and row.value != "2"]
    assert all("the guide's" in row.why and row.source == recipe.GUIDE for row in guides)


@pytest.mark.parametrize("chip", ["310P3", "300I Duo", "910A"])
def test_a_chip_that_rounds_the_wait_to_68_s_gets_a_multiple_and_no_switch_that_it_lacks(chip):
    env = launch_env.launch_env(chip, 2, deterministic=True)
    assert int(env["HCCL_EXEC_TIMEOUT"]) % 68 == 0 and "HCCL_DETERMINISTIC" not in env
    assert launch_env.launch_env("910B3", 2, deterministic=True)["HCCL_DETERMINISTIC"] == "true"


def test_an_event_waits_longer_than_a_collective():
    for chip in ("910B3", "300I Duo", "910A", "A3"):
        env = launch_env.launch_env(chip, 2)
        assert int(env["HCCL_EVENT_TIMEOUT"]) > int(env["HCCL_EXEC_TIMEOUT"])
        assert 120 <= int(env["HCCL_CONNECT_TIMEOUT"]) <= 7200  # HCCL_CONNECT_TIMEOUT.md:7
