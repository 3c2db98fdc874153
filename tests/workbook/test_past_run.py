"""Which earlier runs a run's figures are held against, and what is said of the change."""

import json

import pytest

from neoxlib.workbook import past_run
from neoxlib.workbook.past_run import MOST, before, histories, kind, trend
from neoxlib.workbook.results import NO_RUN

MODEL = {"model_dir": "a", "dtype": "float32", "device": "cpu", "world_size": 2}


def results(status="ok", noise=(), model=MODEL, asked=(), **metrics):
    found = {"notebook": "04_profile", "status": status, "noise": list(noise), "model": model}
    found["environment"] = {"machine": "own"}
    return NO_RUN | found | {"parameters": dict(asked), "metrics": metrics}


def kept(root, name, found):
    folder = root / "04_profile" / name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_runs_are_comparable_with_the_same_model_and_what_changes_no_figure():
    one = results(asked={"batch_size": 1, "baseline": ""})
    assert kind(one) == kind(results(asked={"batch_size": 1, "baseline": "x"}))
    assert kind(one) != kind(results(asked={"batch_size": 2, "baseline": ""}))
    assert kind(one) != kind(results(asked=one["parameters"], model=MODEL | {"dtype": "float16"}))


def test_earlier_runs_come_oldest_first_and_what_cannot_be_compared_is_left_out(tmp_path):
    kept(tmp_path, "1", results(next_token_ms=1.0))
    kept(tmp_path, "2", results(status="failed"))
    kept(tmp_path, "3", results(model=MODEL | {"dtype": "float16"}))
    kept(tmp_path, "4", results(model={"model_dir": 5}))
    kept(tmp_path, "5", results(status="noisy", next_token_ms=2.0))
    (tmp_path / "04_profile" / "6").mkdir()
    (tmp_path / "04_profile" / "6" / "results.json").write_text("{")
    (tmp_path / "04_profile" / "file").touch()
    here = kept(tmp_path, "7", results())
    kept(tmp_path, "8", results())
    assert [past.folder.name for past in before(here, results())] == ["1", "5"]


def test_a_trend_is_of_so_many_runs_at_most(tmp_path):
    for number in range(20):
        kept(tmp_path, f"{number:02}", results(next_token_ms=number))
    found = before(kept(tmp_path, "99", results()), results(next_token_ms=20))
    assert [past.folder.name for past in found] == [f"{n:02}" for n in range(21 - MOST, 20)]


def test_histories_of_many_runs_are_those_of_each(tmp_path):
    runs = [results(next_token_ms=n) for n in range(12)] + [results(status="failed")]
    found = histories(runs[::-1])[::-1]
    assert found[0] == [] and found[3] == runs[:3] and found[12] == runs[5:12]


@pytest.mark.parametrize(
    ("name", "values", "words", "way"),
    [
        ("next_token_ms", [{}], "", ""),
        ("next_token_ms", [{"next_token_ms": 1.0}], "", ""),
        ("next_token_ms", [{"next_token_ms": 1.0}, {"next_token_ms": 1.001}], "as last time", ""),
        (
            "next_token_ms",
            [{"next_token_ms": 1.0}, {"next_token_ms": 1.5}],
            "50 % more than last time",
            "",
        ),
        (
            "next_token_ms",
            [{"next_token_ms": 1.0}, {"next_token_ms": 3.0}],
            "3.0 times last time",
            "",
        ),
        (
            "accuracy",
            [{"accuracy": 0.9}, {"accuracy": 0.95}],
            "5.0 points more than last time",
            "",
        ),
    ],
)
def test_a_change_is_said_in_words(name, values, words, way):
    found = trend(name, [results(**each) for each in values])
    assert (found.change, found.way) == (words, way)


def timed(ms, low, high, noise=()):
    values = {"next_token_ms": ms, "next_token_ms_low": low, "next_token_ms_high": high}
    return results(noise=noise, **values)


def test_a_change_is_better_or_worse_only_beyond_the_intervals():
    before_ = timed(1.0, 0.9, 1.1)
    assert trend("next_token_ms", [before_, timed(1.15, 1.0, 1.3)]).change.endswith("within noise)")
    assert trend("next_token_ms", [before_, timed(1.3, 1.2, 1.4)]).way == "worse"
    assert trend("next_token_ms", [before_, timed(0.7, 0.6, 0.8)]).way == "better"


def test_times_of_two_runs_of_a_virtual_machine_have_to_be_further_apart(monkeypatch):
    pair = [timed(1.0, 0.9, 1.1), timed(2.5, 2.4, 2.6)]
    assert trend("next_token_ms", pair).way == "worse"
    for each in pair:
        each["environment"] = {"machine": "virtual"}
    assert trend("next_token_ms", pair).change == "2.5 times last time (within noise)"
    assert trend("next_token_ms", [pair[0], timed(9.0, 8.9, 9.1)]).way == "worse"
    del pair[0]["environment"], pair[1]["environment"]
    monkeypatch.setattr(past_run, "kind_of_machine", lambda: "virtual")
    assert trend("next_token_ms", pair).way == "", "results that do not say it: as this machine is"


def test_times_of_a_busy_machine_are_not_compared_and_other_figures_are():
    pair = [timed(1.0, 0.9, 1.1), timed(9.0, 8.9, 9.1, noise=["load 2.3 on 2 cores"])]
    assert trend("next_token_ms", pair).change == "not compared: busy machine"
    pair = [results(accuracy=0.9), results(accuracy=0.8, noise=["load"])]
    assert trend("accuracy", pair).change == "10.0 points less than last time"


def test_texts_gaps_and_endless_numbers_are_no_trend():
    for value in ("text", None, True, 10**400, float("inf"), float("nan")):
        assert not past_run.is_number(value)
    assert trend("a", [results(a="x"), results(a=None)]).values == ()
