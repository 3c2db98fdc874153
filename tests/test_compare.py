"""Any two runs: which are taken, and what is said of them."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from neoxlib.compare import Pair, figures, latest, two_runs, two_speeds
from neoxlib.errors import DataError
from neoxlib.workbook.past_run import open_run
from tests.support.timed_cases import ENVIRONMENT, MODEL, Notes, earlier, row, table


def pair(tmp_path: Path, **b: object) -> Pair:
    found = b.pop("found", table())
    paths = (
        earlier(tmp_path / "04_profile/1", table()),
        earlier(tmp_path / "04_profile/2", found, **b),
    )
    return Pair(*map(open_run, paths))


class Asked:
    """A run of 05_compare."""

    def __init__(self, root: Path, run_a: str | None = None, run_b: str | None = None) -> None:
        self.folder = root / "05_compare/9"
        self.params = SimpleNamespace(run_a=run_a, run_b=run_b)

    def stop(self, why: str) -> None:
        raise SystemExit(why)


def test_what_differs_is_listed_and_nothing_else(tmp_path: Path):
    two = pair(
        tmp_path,
        parameters={"world_size": 2},
        environment=ENVIRONMENT | {"torch": "2.14.0"},
        model=MODEL | {"dtype": "bfloat16"},
    )
    assert two.parameters.rows == [("world_size", "not there", "2")]
    assert [what for what, *_ in two.environment.rows] == ["torch", "dtype"]
    same = pair(tmp_path / "same")
    assert "same parameters" in repr(same.parameters) and "same environment" in repr(
        same.environment
    )


def test_speed_is_of_the_cases_that_both_timed(tmp_path: Path):
    two = pair(tmp_path, found=table(row(32, later=4.0), row(999)))
    assert two.speed["verdict"].tolist() == ["within noise", "slower"]
    assert "no case in common" in repr(pair(tmp_path / "b", found=table(row(999))).speed)
    assert "no timed cases" in repr(pair(tmp_path / "c", found=None).speed)


@pytest.mark.parametrize(
    "damage", [b"", bytes(range(256)), b"a,b\n1\n1,2,3\n", b"batch_size\nx\n"], ids=repr
)
def test_damaged_tables_are_named_in_place_of_the_comparison(damage, tmp_path: Path):
    two = pair(tmp_path)
    (two.b.folder / "latency.csv").write_bytes(damage)
    (two.b.folder / "questions.csv").write_bytes(damage)
    (two.a.folder / "questions.csv").write_bytes(damage)
    assert "No speed to compare" in repr(two.speed) and "latency.csv" in repr(two.speed)
    assert "cannot be paired" in repr(two.accuracy)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("next_token_ms", "x"),
        ("input_len", 1.5),
        ("input_len", "x"),
        ("input_len", 0),
        ("repeats", "x"),
        ("first_token_ms", True),
    ],
)
def test_a_table_with_words_among_its_numbers_is_not_compared(column, value, tmp_path: Path):
    two = pair(tmp_path, found=table().assign(**{column: [value] * 3}))
    assert f"something else than its numbers in {column}" in repr(two.speed) and two.b.name in repr(
        two.speed
    )


def questions(folder: Path, right: list[bool]) -> None:
    rows = [
        {
            "subject": "law",
            "name": "Law",
            "class": "Other",
            "hard": False,
            "id": str(n),
            "question": f"Which {n}?",
            "A": "w",
            "B": "x",
            "C": "y",
            "D": "z",
            "expected": "A",
            "predicted": "A" if ok else "B",
            "correct": ok,
            "shots_used": 5,
            "prompt_tokens": 9,
            "too_long": False,
            "prompt": "p",
            "logprob_A": -1.0,
            "p_A": 0.5,
            "logprob_B": -1.0,
            "p_B": 0.5,
        }
        for n, ok in enumerate(right)
    ]
    pd.DataFrame(rows).to_csv(folder / "questions.csv", index=False)


def test_accuracy_is_paired_by_question(tmp_path: Path):
    two = pair(tmp_path)
    assert "no questions" in repr(two.accuracy)
    questions(two.a.folder, [True, True, False, False])
    questions(two.b.folder, [True, True, True, False])
    shown = repr(two.accuracy)
    assert "50.0%  75.0%" in shown and "+25.0%" in shown


def test_runs_of_different_size_are_paired_on_the_questions_of_both_and_their_number_is_said(
    tmp_path: Path,
):
    two = pair(tmp_path)
    questions(two.a.folder, [True, True, False, False])
    questions(two.b.folder, [True, False])
    rows = {name: values for name, *values in two.accuracy.rows}
    assert rows["accuracy"] == ["100.0%", "50.0%"] and rows["right alone"] == ["1", "0"]
    assert rows["questions that both were asked"] == ["2", "2"]
    assert rows["questions of the run"] == ["4", "2"]
    other = pd.read_csv(two.b.folder / "questions.csv").assign(subject="logic")
    other.to_csv(two.b.folder / "questions.csv", index=False)
    assert "cannot be paired: the two runs have no question in common" in repr(two.accuracy)


def test_the_last_two_runs_of_the_notebook_that_ran_last_are_taken(tmp_path: Path):
    for name, notebook in zip("12345", ("03_ceval", "04_profile") * 2 + ("03_ceval",), strict=True):
        earlier(tmp_path / notebook / name, None, notebook)
    earlier(tmp_path / "04_profile/6", None, status="failed")
    earlier(tmp_path / "05_compare/7", None, "05_compare")
    earlier(tmp_path / "05_compare/8", None, "05_compare")
    (tmp_path / "04_profile/broken").mkdir()
    (tmp_path / "04_profile/broken/results.json").write_text("{")
    found = latest(tmp_path)
    assert (found.a.name, found.b.name) == ("03_ceval/3", "03_ceval/5")
    assert two_runs(Asked(tmp_path)).b.name == "03_ceval/5"


def test_where_no_notebook_ran_twice_the_run_ends_calmly(tmp_path: Path):
    earlier(tmp_path / "03_ceval/1", None, "03_ceval")
    earlier(tmp_path / "04_profile/2", None)
    with pytest.raises(SystemExit, match="nothing to compare"):
        two_runs(Asked(tmp_path))


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("model", {"model_dir": 5}),
        ("model", {"compile": []}),
        ("model", {"world_size": "two"}),
        ("model", {"threads": "x"}),
        ("environment", {"machine": {}}),
        ("environment", {"cores": "x"}),
    ],
    ids=str,
)
def test_a_run_with_a_field_of_another_kind_is_refused(part: str, found: dict, tmp_path: Path):
    name = f"{part}.{next(iter(found))}"
    with pytest.raises(DataError, match=rf"results\.json is not of this format: {name} is "):
        pair(tmp_path, **{part: found})


def test_runs_are_named_both_or_neither(tmp_path: Path):
    one = str(earlier(tmp_path / "04_profile/1", table()))
    assert two_runs(Asked(tmp_path, one, str(tmp_path / "04_profile/1"))).a.name == "04_profile/1"
    with pytest.raises(DataError, match="name both, or none"):
        two_runs(Asked(tmp_path, one))


def test_figures_of_both_are_set_beside_each_other(tmp_path: Path):
    two = pair(tmp_path, metrics={"ms": 3.0, "only_b": 1})
    two.a.results["metrics"] = {"ms": 2.0, "name": "x"}
    assert two.metrics.to_numpy().tolist() == [["ms", 2.0, 3.0, 1.5]]
    assert two.names.rows[0] == ("run", "04_profile/1", "04_profile/2")


def test_the_answer_names_the_faster_run_and_what_else_differs(tmp_path: Path):
    two = pair(tmp_path, found=table(row(32, later=1.0), row(128, later=1.0)))
    assert two.answer.startswith("Run b is faster: 2 of 4 times by more than noise, none slower. ")
    assert two.answer.endswith(
        "Nothing else differs. Run a is 04_profile/1, run b is 04_profile/2."
    )
    assert two.key_figures == {"speed_ratio": 0.5, "cases_faster": 2, "cases_slower": 0}
    slower = pair(tmp_path / "b", found=table(row(32, later=9.0)), parameters={"graph": "off"})
    assert slower.answer.startswith("Run a is faster: b is slower in 1 of 2 times")
    assert "They differ in parameters." in slower.answer
    both = pair(tmp_path / "c", found=table(row(32, later=9.0), row(128, later=1.0)))
    assert "1 are faster in b and 1 slower" in both.answer
    same = pair(tmp_path / "d")
    assert same.answer.startswith("Neither is shown to be faster: none of 6 times differs")


def test_times_of_a_noisy_run_are_doubted(tmp_path: Path):
    two = pair(tmp_path, noise=["load 2.3 on 2 cores"])
    assert two.answer.startswith("Which is faster cannot be said: run b was noisy. ")
    two.a.results["noise"] = ["load 2.3 on 2 cores"]
    assert two.answer.startswith("Which is faster cannot be said: both runs were noisy. ")
    assert "is faster:" not in two.answer and "noisy" not in pair(tmp_path / "quiet").answer


def test_a_comparison_with_the_times_of_a_noisy_run_is_noisy_itself(tmp_path: Path):
    run = Notes()
    two_speeds(run, pair(tmp_path, noise=["load 2.3 on 2 cores"]))
    assert run.noise == ["of the runs that are compared, run b was noisy"]
    two_speeds(run, pair(tmp_path / "untimed", noise=["load 2.3 on 2 cores"], found=None))
    two_speeds(run, pair(tmp_path / "quiet"))
    assert len(run.noise) == 1


def test_runs_of_a_virtual_machine_have_to_differ_by_more(tmp_path: Path):
    changed = {"found": table(row(32, later=5.0)), "environment": ENVIRONMENT}
    own = pair(tmp_path, **changed)
    assert own.answer.startswith("Run a is faster: b is slower in 1 of 2 times")
    own.b.results["environment"] = ENVIRONMENT | {"machine": "virtual"}
    virtual = Pair(own.a, own.b)
    said = "none of 2 times differs by more than two runs of a virtual machine may without a change"
    assert said in virtual.answer and "(3.0 times)" in virtual.answer


def test_runs_with_nothing_in_common_have_no_better_one(tmp_path: Path):
    two = pair(tmp_path, found=None)
    assert two.answer.startswith("The two runs have no times and no answers in common.")
    assert two.key_figures == {}


def test_key_figures_of_two_runs_are_in_words_with_units(tmp_path: Path):
    two = pair(tmp_path, metrics={"next_token_ms": 0.5, "own": 3})
    two.a.results["metrics"] = {"next_token_ms": 1.0, "own": 2}
    assert figures(two).rows == [
        ("next token", "1.00 ms", "0.50 ms", "0.5"),
        ("own", "2", "3", "1.5"),
    ]
