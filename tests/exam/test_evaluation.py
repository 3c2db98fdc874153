"""Scoring against transformers' own log-probabilities, and questions that cannot be scored."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import neoxlib
from neoxlib.errors import RankError, SettingsError
from neoxlib.exam import ask as exam_ask
from neoxlib.exam import check_rescored, evaluate, evaluation, get_profile, load_task, rescore
from neoxlib.exam.ask import WorkQueue, share_out
from neoxlib.exam.journal import _line
from neoxlib.inference import score
from tests.support.exam_files import write_exam
from tests.support.exam_results import Fake, byte_tokenizer
from tests.support.oracle_models import make_oracle

OFFICIAL = get_profile("official", "ceval")
LETTERS = ["p_A", "p_B", "p_C", "p_D"]


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exam(tmp_path_factory.mktemp("data") / "exam")


@pytest.fixture(scope="module")
def oracle():
    return make_oracle(vocab_size=271, max_position_embeddings=400)


@pytest.fixture(scope="module")
def model_dir(oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    oracle.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model_dir):
    with neoxlib.load(model_dir) as engine:
        yield engine


def test_probabilities_and_answers_are_those_of_transformers(engine, oracle, exam):
    """One forward pass of transformers per prompt, unpadded; softmax over the letters' logits."""
    found = evaluate(engine, load_task("ceval", exam, shots=2), OFFICIAL)
    tokenizer = byte_tokenizer()
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"]
    assert len(found) == 5 and found["prompt_tokens"].nunique() > 1
    for row in found.to_dict("records"):
        ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
        with torch.no_grad():
            expected = oracle(ids).logits[0, -1, letters].softmax(-1)
        assert [row[p] for p in LETTERS] == pytest.approx(expected.tolist(), abs=1e-5)
        assert row["predicted"] == "ABCD"[expected.argmax()]
        assert row["correct"] == (row["predicted"] == row["expected"])
        assert row["prompt_tokens"] == ids.shape[1]


@pytest.mark.parametrize("name", ["official", "lm_eval"])
def test_answers_do_not_depend_on_the_batch(engine, exam, monkeypatch, name):
    """One question a batch and nothing shared, against as much as fits; rescore agrees."""
    task = load_task("ceval", exam, shots=2)
    profile = get_profile(name, "ceval")
    together = evaluate(engine, task, profile)
    monkeypatch.setattr(score, "BATCH_TOKENS", 1)
    monkeypatch.setattr(score, "MIN_SHARED_TOKENS", 10**9)
    alone = evaluate(engine, task, profile)
    assert together["predicted"].tolist() == alone["predicted"].tolist()
    columns = [f"logprob_{letter}" for letter in "ABCD"]
    np.testing.assert_allclose(together[columns], alone[columns], atol=1e-4)
    again = rescore(engine, profile, together, sample=4)
    assert len(again) == 4 and not again["flipped"].any() and (again["difference"] < 1e-4).all()


def test_a_changed_answer_shows_when_it_is_asked_again(engine, exam):
    found = evaluate(engine, load_task("ceval", exam, shots=2), OFFICIAL)
    spoilt = found.assign(predicted="?", logprob_B=found["logprob_B"] + [0, 0, 0.5, 0, 0])
    again = rescore(engine, OFFICIAL, spoilt)
    assert again["flipped"].all() and again["difference"].tolist() == pytest.approx(
        [0, 0, 0.5, 0, 0], abs=1e-4
    )


def test_log_likelihoods_are_over_all_rows_where_the_harness_has_them_so(engine, oracle, exam):
    """The tokenizer has 257 ids, the vocabulary 271 rows; other profiles mask the rest."""
    tokenizer = byte_tokenizer()
    row = evaluate(engine, load_task("ceval", exam, shots=2), get_profile("lm_eval", "ceval")).iloc[
        0
    ]
    context = tokenizer(row["prompt"])["input_ids"]
    whole = tokenizer(row["prompt"] + " B")["input_ids"]
    with torch.no_grad():
        logprobs = oracle(torch.tensor([whole])).logits[0].log_softmax(-1)
    wanted = sum(logprobs[i - 1, whole[i]].item() for i in range(len(context), len(whole)))
    assert row["logprob_B"] == pytest.approx(wanted, abs=1e-3)


def test_a_short_window_drops_examples_and_marks_what_never_fits(model_dir, exam):
    """A question that does not fit stays in the denominator; dropping it would raise the score."""
    task = load_task("ceval", exam, shots=2)
    needs = evaluate(Fake(), load_task("ceval", exam, shots=0), OFFICIAL)["prompt_tokens"]
    assert needs.nunique() > 1
    with neoxlib.load(model_dir, max_seq_len=int(needs.max()) - 1) as engine:
        found = evaluate(engine, task, OFFICIAL)
    assert found["too_long"].tolist() == (needs == needs.max()).tolist()
    assert (found["shots_used"] == 0).all() and found["prompt_tokens"].tolist() == needs.tolist()
    lost = found[found["too_long"]]
    assert (
        (lost["predicted"] == "").all()
        and not lost["correct"].any()
        and lost[LETTERS].isna().all(axis=None)
    )
    assert found.loc[~found["too_long"], LETTERS].sum(axis=1).to_numpy() == pytest.approx(1.0)


def test_rows_come_in_the_exams_order_and_each_subject_is_asked_together(exam, monkeypatch):
    fake = Fake("B")
    monkeypatch.setattr(evaluation, "PORTION", 2)
    found = evaluate(fake, load_task("ceval", exam, shots=2), OFFICIAL)
    assert [len(portion) for portion in fake.asked] == [2, 1, 2]
    assert [prompt for portion in fake.asked for prompt in portion] == found["prompt"].tolist()
    assert list(zip(found["subject"], found["id"], strict=True)) == [
        ("tiny_sums", "0"),
        ("tiny_sums", "1"),
        ("tiny_sums", "2"),
        ("colours", "0"),
        ("colours", "1"),
    ]
    assert found["correct"].tolist() == [False, True, False, True, False]


def test_a_written_answer_is_read_by_the_profiles_rule_and_kept(exam):
    """The vendor's rule takes the first letter of any word; without a letter it is wrong."""
    task = load_task("ceval", exam, shots=2)
    for says, predicted, right in (
        ("  b) 红", "B", 2),
        ("The answer is B", "T", 0),
        ("。", "", 0),
        ("", "", 0),
    ):
        found = evaluate(Fake(says=says), task, get_profile("vendor", "ceval"))
        assert (found["predicted"] == predicted).all() and found["correct"].sum() == right
        assert (found["answer_text"] == says).all() and found[LETTERS].isna().all(axis=None)


def test_written_answers_are_the_models_own_at_any_batch(model_dir, exam, monkeypatch):
    task = load_task("ceval", exam, shots=2)
    rules = replace(get_profile("vendor", "ceval"), max_new_tokens=6)
    monkeypatch.setattr(exam_ask, "GENERATE_SLOTS", 2 * 400)
    with neoxlib.load(model_dir) as engine:
        found = evaluate(engine, task, rules)
        for row in found.to_dict("records"):
            assert engine.generate([row["prompt"]], max_new_tokens=6)[0].text == row["answer_text"]
        assert not rescore(engine, rules, found)["flipped"].any()


def test_a_limit_takes_the_first_questions_of_each_subject(exam):
    found = evaluate(Fake(), load_task("ceval", exam, shots=2), OFFICIAL, limit=1)
    assert list(zip(found["subject"], found["id"], strict=True)) == [
        ("tiny_sums", "0"),
        ("colours", "0"),
    ]


def test_nothing_is_right_where_there_are_no_answers(exam):
    found = evaluate(Fake(), load_task("ceval", exam, split="test", shots=2), OFFICIAL)
    assert (
        (found["expected"] == "").all()
        and not found["correct"].any()
        and (found["predicted"] == "A").all()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_stops_the_run(exam, value):
    """argmax over nan is A: a broken model would look like one that likes A."""
    with pytest.raises(SettingsError, match="3 of 3 questions got a score that is not a number"):
        evaluate(Fake(value=value), load_task("ceval", exam, shots=2), OFFICIAL)


@pytest.mark.parametrize(("merge", "bad"), [((("ï¼ļ", "B"),), "'B'"), ((("ļ", "C"),), "'C'")])
def test_a_letter_that_runs_into_the_cue_is_refused(exam, merge, bad):
    """With the cue's last byte and a letter in one token, the letter itself is not scored."""
    pieces = (("ï", "¼"), ("ï¼", "ļ"), *merge) if len(merge[0][0]) > 1 else merge
    fake = Fake()
    fake.tokenizer = byte_tokenizer(pieces)
    with pytest.raises(SettingsError, match=rf"none for \[{bad}\]"):
        evaluate(fake, load_task("ceval", exam, shots=2), OFFICIAL)


def test_an_answer_of_two_tokens_is_refused(exam):
    """Two tokens have two probabilities; beside one-token letters they would nearly always lose."""
    longer = replace(OFFICIAL, answers=("A", "B", "C", "DD"))
    with pytest.raises(SettingsError, match=r"none for \['DD'\]"):
        evaluate(Fake(), load_task("ceval", exam, shots=2), longer)


def test_groups_of_ranks_share_the_questions_out(engine, exam, monkeypatch):
    """Each answers some, none waits for another, and the table is one group's."""
    monkeypatch.setattr(evaluation, "PORTION", 1)
    task = load_task("ceval", exam, shots=2)
    fakes = [Fake("B"), Fake("B")]
    meet = threading.Barrier(2, timeout=20)

    def both(fake: Fake, ask) -> object:
        return lambda *args, **kwargs: (len(fake.asked) or meet.wait(), ask(*args, **kwargs))[1]

    for fake in fakes:
        fake.score_ids = both(fake, fake.score_ids)
    fakes[0].groups = fakes
    found = evaluate(fakes[0], task, OFFICIAL)
    assert all(fake.asked for fake in fakes) and sum(len(fake.asked) for fake in fakes) == 5
    pd.testing.assert_frame_equal(found, evaluate(Fake("B"), task, OFFICIAL))


def test_an_idle_engine_takes_the_next_item():
    slow = threading.Event()
    done = []

    def do(engine: str, item: int) -> int:
        if engine == "slow":
            assert slow.wait(20)
        elif item == 9:
            slow.set()
        return item

    for item, value in share_out(["slow", "quick"], range(10), do):
        done.append(item)
        assert item == value
    assert sorted(done) == list(range(10)) and len(done) - done.index(9) <= 3


def test_after_an_error_no_item_is_begun_and_those_under_way_are_finished(monkeypatch):
    """Item 1 goes on until the error of item 0 has closed the queue."""
    begun = []
    finished = []
    closed = threading.Event()
    close = WorkQueue.close
    monkeypatch.setattr(WorkQueue, "close", lambda self: (close(self), closed.set()))

    def do(engine: str, item: int) -> None:
        begun.append(item)
        if item == 0:
            raise SettingsError("no more")
        assert closed.wait(60)
        finished.append(item)

    with pytest.raises(SettingsError, match="no more"):
        list(share_out(["one", "two"], range(1000), do))
    assert set(begun) <= {0, 1} and finished == [item for item in begun if item]


def test_an_engine_that_is_lost_leaves_its_item_to_the_others_also_at_the_end():
    """The last item is with the engine that is lost, when the other one has nothing left to do."""
    quick_is_idle = threading.Event()
    told = []

    def do(engine: str, item: int) -> str:
        if engine == "dying":
            assert quick_is_idle.wait(60)
            raise RankError("host2 is lost")
        if len(done) == 8:
            quick_is_idle.set()
        done.append(item)
        return engine

    done: list[int] = []
    found = share_out(["dying", "quick"], range(10), do, lambda n, error: told.append((n, error)))
    assert sorted(item for item, engine in found if engine == "quick") == list(range(10))
    assert [(n, str(error)) for n, error in told] == [(0, "host2 is lost")]


def test_when_the_last_engine_is_lost_its_error_is_raised():
    def do(engine: str, item: int) -> None:
        raise RankError(f"{engine} is lost")

    told = []
    with pytest.raises(RankError, match="is lost"):
        list(share_out(["one", "two"], range(10), do, lambda n, error: told.append(n)))
    assert len(told) == 1


class Checks(dict):
    """A run that only keeps its checks: {name: (passed, detail)}."""

    def check(self, name: str, passed: bool, detail: str) -> None:
        self[name] = bool(passed), detail


def asked_again(engine, results: pd.DataFrame) -> tuple[bool, str]:
    run = Checks()
    check_rescored(rescore(engine, OFFICIAL, results), results, engine, run)
    return run["answers asked again alone are the same"]


def test_answers_taken_over_from_another_model_fail_the_run_and_are_counted(
    engine, exam, tmp_path, monkeypatch
):
    """The earlier run named the same weights, and gave other answers."""
    monkeypatch.setattr(evaluation, "PORTION", 1)
    task = load_task("ceval", exam, shots=2)
    evaluate(engine, task, OFFICIAL, journal=tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    forged = []
    for line in lines[1:4]:
        record = json.loads(line)["line"]
        forged.append(_line(record | {"logprobs": [value - 15 for value in record["logprobs"]]}))
    (tmp_path / "other.jsonl").write_text(lines[0] + "".join(forged), encoding="utf-8")
    journal = tmp_path / "new.jsonl"
    found = evaluate(engine, task, OFFICIAL, journal=journal, resume=tmp_path / "other.jsonl")
    assert rescore(engine, OFFICIAL, found, sample=1)["taken_over"].tolist() == [True]
    passed, said = asked_again(engine, found)
    assert not passed and "3 of 3 answers taken over are not this model's: run it without" in said
    assert "3 of 5 answers differ, log-probabilities by up to 15; rounding explains 0.00" in said
    own = evaluate(engine, task, OFFICIAL, journal=tmp_path / "whole.jsonl")
    passed, said = asked_again(engine, own)
    assert passed and said.startswith("0 of 5 answers differ, log-probabilities by up to ")


def test_an_answer_of_this_run_that_differs_alone_fails_it_and_a_near_tie_does_not(engine, exam):
    found = evaluate(engine, load_task("ceval", exam, shots=2), OFFICIAL)
    passed, said = asked_again(engine, found.assign(logprob_B=found["logprob_B"] + 0.5))
    assert not passed and said.startswith("5 of 5 answers differ, log-probabilities by up to 0.5")
    assert asked_again(engine, found.assign(predicted="tie"))[0]


def test_of_written_answers_half_may_flip(engine, exam):
    rules = replace(get_profile("vendor", "ceval"), max_new_tokens=2)
    found = evaluate(engine, load_task("ceval", exam, shots=2), rules)
    again = rescore(engine, rules, found)
    for flipped, passes in ((2, True), (3, False)):
        run = Checks()
        changed = again.assign(flipped=[n < flipped for n in range(5)])
        check_rescored(changed, found, engine, run)
        assert [passed for passed, _ in run.values()] == [passes]
