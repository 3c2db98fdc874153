"""What a page says of a run at first sight."""

import pytest

from neoxlib.workbook import front
from neoxlib.workbook.results import NO_RUN


def run(**more):
    return NO_RUN | {"notebook": "04_profile", "status": "ok"} | more


CHECK = {"name": "the model fits", "passed": True, "detail": "yes"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (run(verdict="it is fast."), "It is fast."),
        (run(), "Finished; it checks nothing."),
        (run(checks=[CHECK]), "Finished: its check holds."),
        (run(checks=[CHECK, CHECK]), "Finished: all 2 checks hold."),
        (
            run(status="check-failed", checks=[CHECK | {"passed": False, "detail": "9 of 8 GB"}]),
            "Not met: the model fits (9 of 8 GB)",
        ),
        (run(status="check-failed", checks=[{"passed": False}]), "Not met: a check without a name"),
        (run(status="not-judged"), "Finished, but a check cannot be judged."),
        (
            run(
                status="failed",
                verdict="said before",
                error={"type": "RankError", "message": "rank 1 died\nmore", "cell": 5},
            ),
            "Failed in cell 5: RankError: rank 1 died",
        ),
        (
            run(status="interrupted", error={"type": "Interrupted", "message": "by Ctrl-C"}),
            "Broken off: Interrupted: by Ctrl-C",
        ),
        (run(status="failed", error={}), "Failed, and no reason was recorded."),
        (run(status="running"), "Not finished: it is still running."),
    ],
)
def test_every_run_has_an_answer(found, said):
    assert front.verdict(found) == said


def test_the_first_sentence_is_apart_and_a_stop_in_a_quotation_ends_none():
    assert front.in_two("Yes. It is 1.5 GB. More.") == ("Yes.", "It is 1.5 GB. More.")
    assert front.in_two("It says “A. B” now. Then.") == ("It says “A. B” now.", "Then.")
    assert front.in_two("no stop") == ("no stop", "")


def test_no_line_ends_between_a_number_and_its_unit():
    said = "25 %: 0.6 ms, 3 GB/s of 9 GB; 2 min. 5 sums, 2 % of 3 ranks"
    kept = said.replace(" sums", "~sums").replace(" ranks", "~ranks")
    for unit in ("%", "ms", "GB", "min"):
        kept = kept.replace(f" {unit}", f"\u00a0{unit}")
    assert front.held(said) == kept.replace("~", " ")


def test_key_figures_are_declared_ones_in_their_order_and_of_others_the_first():
    known = {"longest_next_token_ms": 1.0, "longest_first_token_ms": 2.0, "longest_input_len": 3}
    assert front.key_names(run(metrics=known)) == [
        "longest_first_token_ms",
        "longest_next_token_ms",
    ]
    own = {f"own {n}": n for n in range(9)}
    assert front.key_names(run(metrics=own)) == [f"own {n}" for n in range(front.MOST_CARDS)]


def test_a_card_has_value_unit_interval_and_trend():
    values = {"accuracy": 0.9375, "accuracy_low": 0.898, "accuracy_high": 0.962}
    (card,) = front.cards(run(metrics=values), [run(metrics={"accuracy": 0.5})])
    assert (card["label"], card["value"], card["unit"]) == ("right answers", "93.8", "%")
    assert card["interval"] == "89.8 – 96.2" and card["change"] == "43.8 points more than last time"
    assert card["bars"]["heights"] == [53.3, 100.0]
    assert card["bars"]["words"] == "the last 2 runs, oldest first: 50.0 %, 93.8 %"


def test_a_chart_of_one_value_or_of_nothing_is_none():
    assert front.bars("a", [1.0]) == front.bars("a", [0, 0]) == front.bars("a", []) == {}


def test_a_check_is_one_line_in_words_and_figures_for_experts_come_after():
    detail = "error 1/20 of the limit; largest logit error 1.86e-05"
    checks = [CHECK | {"detail": detail}, {"passed": None}, {"name": "b", "passed": 0}]
    first, second, third = front.checks(run(checks=checks))
    assert (first["word"], first["said"]) == ("yes", "error 1/20 of the limit")
    assert first["more"] == "largest logit error 1.86e-05"
    assert (second["word"], second["name"], third["word"]) == ("not judged", "no name", "no")


def test_what_ran_where_is_named_without_what_is_not_known():
    about = {"parameters": 1_878_016, "dtype": "float32", "world_size": 2, "device": "cpu"}
    found = run(
        parameters={"model_dir": ""},
        model=about,
        environment={"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "git": "5a15a5535541"},
    )
    assert front.model(found) == ["shipped model", "1.9 M parameters", "float32", "2 ranks"]
    assert front.place(found) == ["CPU Intel Xeon (2 cores)", "commit 5a15a55355"]
    assert front.model(run(model={"parameters": 20_554_567_680})) == ["20.6 B parameters"]
    assert front.model(run(model={"parameters": 10**400})) == [] and front.place(run()) == []


@pytest.mark.parametrize("value", [None, "x", -1, float("nan"), float("inf"), 10**400])
def test_a_duration_that_is_none_is_left_out(value):
    assert front.took(value) == ""
