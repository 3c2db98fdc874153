"""A run against its baseline: what counts as slower, and which baselines are refused."""

import math
from pathlib import Path

import pytest

from neoxlib.errors import DataError
from neoxlib.inference.timing import Case
from neoxlib.speed import baseline
from neoxlib.workbook import past_run
from tests.support.timed_cases import ENVIRONMENT, MODEL, Notes, earlier, row, table

CASES = [Case(1, 32, 16), Case(1, 128, 16), Case(1, 128, 64)]


def slowed(factor: float):
    """The three cases, the last one's next token so many times as slow."""
    return table(row(32), row(128), row(128, 64, later=2.0 * factor))


@pytest.fixture(autouse=True)
def own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a virtual one, whose runs differ by more."""
    monkeypatch.setattr(baseline, "kind", lambda: "own")


def test_on_a_virtual_machine_less_is_sure_and_the_words_say_why(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(baseline, "kind", lambda: "virtual")
    run = Notes()
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    found = baseline.check_baseline(before, slowed(1.3), run)
    assert set(found["verdict"]) == {"within noise"} and found["ratio_high"].iloc[-1] > 3
    ((passed, detail),) = run.checks.values()
    assert passed and "virtual machine differ by 55%; baseline_python sees less" in detail
    baseline.check_baseline(before, slowed(20.0), run)
    assert [passed for passed, _ in run.checks.values()] == [False]


def test_a_planted_slowdown_is_caught_and_named(tmp_path: Path):
    run = Notes()
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    found = baseline.check_baseline(before, slowed(1.3), run)
    assert found["verdict"].tolist() == ["within noise"] * 5 + ["slower"]
    ((passed, detail),) = run.checks.values()
    assert not passed and detail == "batch 1, 128 in, 64 out: next token 1.30 times"


def test_a_slowdown_that_may_be_the_difference_of_two_days_fails_nothing(tmp_path: Path):
    """The intervals within each run leave out 1.1, and two quiet runs differ by as much."""
    run = Notes()
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    found = baseline.check_baseline(before, slowed(1.23), run)
    assert found["verdict"].iloc[-1] == "slower" and found["ratio_low"].iloc[-1] > 1.1
    ((passed, detail),) = run.checks.values()
    assert passed and "5 within noise, 1 slower; a slowdown by 3" in detail


def test_a_run_that_drifted_is_sure_of_less(tmp_path: Path):
    run = Notes()
    drifted = slowed(1.3).assign(drift=-0.2)
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    baseline.check_baseline(before, drifted, run)
    assert [passed for passed, _ in run.checks.values()] == [True]
    baseline.check_baseline(before, drifted.assign(drift=0.01), run)
    assert [passed for passed, _ in run.checks.values()] == [False]


NOISE = "other processes used 0.9 of 2 cores"


@pytest.mark.parametrize("noisy_now", [True, False])
def test_noisy_cases_of_either_run_are_not_judged(noisy_now, tmp_path: Path):
    disturbed = table(row(32, later=9.0, noise=NOISE), row(128), row(128, 64))
    now, there = (disturbed, table()) if noisy_now else (table(), disturbed)
    run = Notes()
    before = baseline.read_baseline(earlier(tmp_path / "a", there), run, CASES)
    found = baseline.check_baseline(before, now, run)
    ((passed, detail),) = run.checks.values()
    assert passed and found["p_slower"].isna().tolist() == [True, True, *[False] * 4]
    assert f"2 of 6 not judged for noise, the first of batch 1, 32 in, 16 out: {NOISE}" in detail


def test_a_comparison_whose_cases_are_mostly_noisy_cannot_be_judged(tmp_path: Path):
    run = Notes()
    noisy = [row(length, outputs, noise=NOISE) for length, outputs in ((32, 16), (128, 16))]
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    baseline.check_baseline(before, table(*noisy, row(128, 64)), run)
    assert [passed for passed, _ in run.checks.values()] == [None]
    baseline.check_baseline(before, table(*noisy, row(128, 64, later=8.0)), run)
    assert [passed for passed, _ in run.checks.values()] == [False]


def test_a_baseline_of_an_earlier_version_is_judged_by_its_load_average(tmp_path: Path):
    kept = ["others_cores", "stolen_cores", "cores", "takes", "noise", "from_run", "drift"]
    old = table(row(32, load_average=4.1), row(128, load_average=2.1), row(128, 64))
    about = {"environment": ENVIRONMENT | {"cores": 2}}
    path = earlier(tmp_path / "a", old.drop(columns=kept), **about)
    before = baseline.read_baseline(path, Notes(), CASES)
    assert before["noise"].tolist() == ["the load average was 4.1 on 2 cores", "", ""]


def test_with_turns_the_earlier_run_is_shown_and_not_judged(tmp_path: Path):
    run = Notes(baseline_python="/usr/bin/python3")
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    assert len(baseline.check_baseline(before, slowed(9.0), run)) == 6 and not run.checks


def test_a_slowdown_that_is_allowed_passes(tmp_path: Path):
    run = Notes(max_slowdown=0.5)
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    assert baseline.check_baseline(before, slowed(1.3), run)["verdict"].iloc[-1] == "slower"
    assert [passed for passed, _ in run.checks.values()] == [True]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.8, "faster"), (0.95, "within noise"), (1.2, "slower")]
)
def test_only_a_ratio_whose_interval_leaves_out_1_is_called_faster_or_slower(factor, verdict):
    """Of 5 % to either side in both runs, and 3 % between two runs of a machine of one's own."""
    last = baseline.compare_times(table(), slowed(factor), "own").iloc[-1]
    assert last["verdict"] == verdict and last["ratio"] == pytest.approx(factor)
    half = math.sqrt(2 * (math.log(1.05 / 0.95) / 2) ** 2 + (2 * 0.03) ** 2)
    ends = (factor * math.exp(-half), factor * math.exp(half))
    assert (last["ratio_low"], last["ratio_high"]) == pytest.approx(ends)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf])
def test_a_table_with_a_time_that_is_none_is_named(bad, tmp_path: Path):
    spoilt = table().assign(next_token_ms=bad)
    (problem,) = baseline.lacking(spoilt, ())
    assert "next_token_ms" in problem


def test_a_baseline_of_another_model_chip_dtype_ranks_or_cases_is_refused_with_all_of_it(
    tmp_path: Path,
):
    there = MODEL | {
        "model_dir": "/models/b",
        "dtype": "bfloat16",
        "quant": "int8",
        "world_size": 4,
    }
    path = earlier(
        tmp_path / "a", table(row(32)), model=there, environment=ENVIRONMENT | {"cpu": "Another"}
    )
    with pytest.raises(DataError) as error:
        baseline.read_baseline(path, Notes(), CASES)
    said = str(error.value)
    for line in (
        "model: b there, a here",
        "chip: Another there, A processor here",
        "quant: int8 there, none here",
        "dtype: bfloat16 there, float32 here",
        "ranks: 4 there, 2 here",
        "not measured there: batch 1, 128 in, 16 out, batch 1, 128 in, 64 out",
    ):
        assert line in said


def test_a_baseline_that_is_no_profile_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="is of 03_ceval"):
        baseline.read_baseline(earlier(tmp_path / "a", table(), "03_ceval"), Notes(), CASES)
    with pytest.raises(DataError, match=r"no latency\.csv"):
        baseline.read_baseline(earlier(tmp_path / "b", None), Notes(), CASES)
    with pytest.raises(DataError, match="no columns first_token_ms_low"):
        baseline.read_baseline(
            earlier(tmp_path / "c", table().drop(columns="first_token_ms_low")), Notes(), CASES
        )
    with pytest.raises(DataError, match="is not the results"):
        baseline.read_baseline(tmp_path / "nothing.json", Notes(), CASES)


def test_an_npu_is_told_by_its_operators(tmp_path: Path):
    past = past_run.Past(
        tmp_path, {"model": MODEL | {"device": "npu:0", "compile": "operators for 910B3"}}
    )
    assert past.identity["chip"] == "910B3"


def test_without_a_baseline_nothing_is_compared_and_nothing_checked():
    run = Notes()
    assert baseline.read_baseline(None, run, CASES) is None
    assert (
        "nothing to compare" in repr(baseline.check_baseline(None, table(), run)) and not run.checks
    )


def test_a_case_without_next_token_is_compared_by_its_first():
    one = table(row(output_len=1, later=None))
    assert baseline.compare_times(one, one, "own")["token"].tolist() == ["first token"]


@pytest.mark.parametrize(("here", "there", "judged"), [(5, 6, 0), (6, 5, 0), (1, 1, 0), (6, 6, 2)])
def test_fewer_than_6_repeats_give_no_interval_and_no_verdict(here, there, judged, tmp_path: Path):
    """All of 5 values lie on one side of the median in 2 of 32 cases, of 6 in 2 of 64."""
    run = Notes()
    case = [Case(1, 32, 16)]
    before = baseline.read_baseline(
        earlier(tmp_path / "a", table(row(32, repeats=there))), run, case
    )
    found = baseline.check_baseline(
        before, table(row(32, first=60.0, later=6.0, repeats=here)), run
    )
    ((passed, detail),) = run.checks.values()
    assert (found["verdict"] == "slower").sum() == judged
    assert passed is (False if judged else None), "where nothing is judged, nothing can be said"
    why = "2 not judged: a 95 % interval of the median takes 6 repeats, "
    why += f"the fewest of a case are {here} in this run"
    assert judged or (detail.startswith(why) and (found["verdict"] == "no interval").all())
    assert found["ratio"].tolist() == [3.0, 3.0] and found["ratio_low"].notna().sum() == judged


def test_of_some_cases_with_few_repeats_the_others_are_judged(tmp_path: Path):
    run = Notes()
    now = table(row(32, later=6.0, repeats=3), row(128), row(128, 64, later=6.0))
    before = baseline.read_baseline(earlier(tmp_path / "a", table()), run, CASES)
    baseline.check_baseline(before, now, run)
    ((passed, detail),) = run.checks.values()
    assert (
        not passed
        and "128 in, 64 out: next token 3.00 times; 2 not judged" in detail
        and "32 in" not in detail
    )


LOADED = MODEL | {"fingerprint": "f", "threads": 1, "max_seq_len": 1024}
HOST = ENVIRONMENT | {"git": "abc", "cores": 2}


def broken_off(folder: Path, *rows: dict, **more: object) -> Path:
    """The folder of a run that ended before its last case."""
    about = {"status": "interrupted", "model": LOADED, "environment": HOST, "parameters": ASKED}
    path = earlier(folder, table(*rows) if rows else None, **(about | more))
    return path.parent


ASKED = {"repeats": 6, "min_seconds": 0.5, "deterministic": False}


def resuming() -> Notes:
    run = Notes()
    run.results |= {"model": LOADED, "environment": HOST, "parameters": ASKED}
    return run


def test_clean_rows_of_a_run_that_was_broken_off_are_taken_over(tmp_path: Path, capsys):
    rows = row(128, first=30.0, rank0_rss_peak_mb=5.0), row(32, noise=NOISE), row(512)
    folder = broken_off(tmp_path / "a", *rows)
    known = baseline.taken_over(str(folder), resuming(), CASES)
    assert list(known) == [1], "128 in, 16 out; another was noisy, and one is no case of this run"
    assert known[1]["first_token_ms"] == 30.0 and known[1]["rank0_rss_peak_mb"] == 5.0
    assert (known[1]["from_run"], known[1]["noise"]) == ("a", "")
    assert known[1]["device_peak_mb"] is None
    said = "1 of 3 cases are taken over from 04_profile/a, 1 more were noisy."
    assert capsys.readouterr().out.strip() == said
    assert baseline.taken_over("", resuming(), CASES) == {}


def test_rows_of_another_model_commit_or_parameter_are_refused_with_all_of_it(tmp_path: Path):
    folder = broken_off(
        tmp_path / "a",
        row(32),
        model=LOADED | {"fingerprint": "g", "dtype": "bfloat16", "threads": 2},
        environment=HOST | {"git": "abc-dirty", "cpu": "Another"},
        parameters=ASKED | {"repeats": 20},
    )
    with pytest.raises(DataError) as error:
        baseline.taken_over(str(folder), resuming(), CASES)
    for line in (
        "fingerprint: g there, f here",
        "dtype: bfloat16 there, float32 here",
        "threads: 2 there, 1 here",
        "commit: abc-dirty there, abc here",
        "chip: Another there, A processor here",
        "repeats: 20 there, 6 here",
    ):
        assert line in str(error.value)


def test_a_run_without_rows_of_this_version_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="it measured no case"):
        baseline.taken_over(str(broken_off(tmp_path / "a")), resuming(), CASES)
    folder = broken_off(tmp_path / "b", row(32))
    table(row(32)).drop(columns=["stolen_cores"]).to_csv(folder / "latency.csv", index=False)
    with pytest.raises(DataError, match="it has no stolen_cores"):
        baseline.taken_over(str(folder), resuming(), CASES)
    other = earlier(tmp_path / "c", table(), "03_ceval").parent
    with pytest.raises(DataError, match="is of 03_ceval; resume takes a 04_profile run"):
        baseline.taken_over(str(other), resuming(), CASES)
