"""What disturbed a case is named with its figure, and a clean one is not accused."""

import re

import pandas as pd
import pytest

from neoxlib.speed import noise
from tests.support.timed_cases import row, table

CORES = 2
CLEAN = {
    "others_cores": 0.05,
    "stolen_cores": 0.0,
    "cores": CORES,
    "warmups": 3,
    "frequency_mhz": 3000.0,
    "load_average": 9.0,
}


def clean(*args: int, **more: object) -> dict:
    return row(*args, **(CLEAN | more))


def judged(*rows: dict) -> list[str]:
    return [noise.sentence(found) for found in noise.judge(table(*rows), CORES, CORES)]


def test_a_case_under_no_load_with_narrow_intervals_is_clean():
    assert judged(clean(), clean(128), clean(128, 64)) == ["", "", ""]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"others_cores": 0.9}, "other processes used 0.9 of 2 cores"),
        ({"stolen_cores": 0.1}, "the host gave 5% of the cores' time to other guests"),
        ({"warmups": 10}, "its times did not settle in 10 warm-up runs"),
        ({"next_token_ms_high": 2.5}, "95 % intervals are wide: next token ± 15%"),
        ({"first_token_ms_low": 12.0}, "95 % intervals are wide: first token ± 22%"),
        ({"frequency_mhz": 2400.0}, "the clock was 2,400 MHz, 80% of the run's fastest"),
    ],
)
def test_a_disturbance_is_named_with_its_figure(more, said):
    assert judged(clean(), clean(128, **more)) == ["", said]


def test_other_cores_that_the_ranks_leave_free_may_be_used_up_to_a_quarter_of_all():
    busy = [clean(others_cores=cores) for cores in (47, 49)]
    found = noise.judge(table(*busy), threads=8, cores=192)
    assert [bool(case) for case in found] == [False, True]
    assert noise.judge(table(clean(others_cores=9)), threads=188, cores=192)[0]


def test_more_work_in_less_time_accuses_both_cases_and_equal_times_none():
    first = clean(32, first=30.0), clean(64, first=20.0), clean(128, first=40.0)
    assert judged(*first) == [
        "its first token took longer than with input_len 64",
        "its first token took less than with input_len 32",
        "",
    ]
    assert judged(clean(32), clean(64), clean(128, batch_size=4), clean(128, depth=64)) == [""] * 4


def test_times_that_overlap_or_differ_in_two_lengths_are_in_order():
    assert judged(clean(32, first=21.0), clean(64, first=20.0)) == ["", ""]
    assert judged(clean(32, 16, first=30.0), clean(64, 32, first=20.0)) == ["", ""]


def test_a_longer_answer_in_less_time_is_out_of_order():
    said = judged(clean(32, 16, later=4.0), clean(32, 17, later=2.0))
    assert said[0] == "its whole answer took longer than with output_len 17"
    assert judged(clean(32, 1, later=None), clean(32, 2)) == ["", ""]


def test_a_table_of_an_earlier_version_is_judged_by_its_load_average_and_intervals():
    old = table(row(load_average=2.4), row(128, load_average=4.2))
    old = old.drop(columns=["others_cores", "stolen_cores"])
    found = [noise.sentence(case) for case in noise.judge(old, CORES, CORES)]
    assert found == ["", "the load average was 4.2 on 2 cores"]
    older = old.drop(columns=["load_average", "warmups", "frequency_mhz"])
    assert noise.judge(older, CORES, CORES) == [{}, {}]


def test_the_run_is_told_in_a_sentence_with_its_figures():
    rows = [clean(32, others_cores=0.8), clean(64, others_cores=1.0, next_token_ms_high=2.8)]
    found = noise.judge(table(*rows, clean(128)), CORES, CORES)
    assert noise.run_sentence(found, CORES) == (
        "other processes used 0.9 of 2 cores while 2 of 3 cases were measured; "
        "95 % intervals reach up to ± 22%, 1 of 3 are too wide"
    )
    assert noise.run_sentence([{}, {}], CORES) == ""


def test_the_take_to_keep_is_told_by_load_and_never_by_speed():
    quiet = clean(first=30.0, later=3.0)
    takes = [
        clean(others_cores=0.9),
        clean(others_cores=0.08, warmups=10),
        clean(others_cores=0.07, next_token_ms_high=2.8),
        quiet,
        clean(others_cores=0.06),
    ]
    ordered = sorted(takes, key=lambda take: noise.disturbance(take, CORES, CORES))
    assert ordered[0] is quiet and ordered[-1] is takes[0]
    for factor in (0.5, 2.0):
        scaled = [_scaled(take, factor) for take in takes]
        assert min(scaled, key=lambda take: noise.disturbance(take, CORES, CORES)) == scaled[3]


def _scaled(take: dict, factor: float) -> dict:
    times = {name: ms for name, ms in take.items() if re.match("(first|next)_token_ms", name)}
    return take | {name: None if ms is None else factor * ms for name, ms in times.items()}


def test_every_limit_has_its_argument_and_every_cause_its_sentence():
    assert all(len(limit.why) > 40 and limit.value > 0 for limit in noise.LIMITS.values())
    rows = [
        clean(32, others_cores=1.0, stolen_cores=0.5, warmups=10, next_token_ms_high=9.0),
        clean(64, frequency_mhz=1000.0, first=1.0),
    ]
    old = pd.DataFrame([row(load_average=8.0, others_cores=None)])
    causes = {cause for case in noise.judge(table(*rows), CORES, CORES) for cause in case}
    causes |= set(noise.judge(old, CORES, CORES)[0])
    assert causes == set(noise.RUN_WORDS)
