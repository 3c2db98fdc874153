"""A killed run continues, and no answer is from another model, other rules or a damaged file."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import neoxlib
from neoxlib.errors import DataError, SettingsError
from neoxlib.exam import PROFILES, evaluate, evaluation, get_profile, load_task
from neoxlib.exam import ask as exam_ask
from neoxlib.exam.journal import (
    IMPLIED,
    NAME,
    Journal,
    QuestionKey,
    key,
    question_key,
    read_answers,
)
from neoxlib.exam.question import Answer
from neoxlib.exam.results import KEY as QUESTION
from tests.support.exam_files import put, write_exam
from tests.support.exam_results import Fake

ROOT = Path(__file__).parents[2]
OFFICIAL = get_profile("official", "ceval")
KEY = {
    "weights": "w",
    "tokenizer": "t",
    "dtype": "float32",
    "quant": None,
    "max_seq_len": 96,
    "profile": {"shots": 5, "answers": ["A", "B", "C", "D"]},
    "questions": {"logic": "1a", "law": "2b"},
}
ANSWERS = {
    question_key("logic", "0", "问"): Answer((-0.1, -2.5, -1e-17, -3.25)),
    question_key("logic", "1", "?"): Answer((-1.5, -2.5, -0.5, -3.5), "答案是 B\n“"),
}

# Answers two questions, one at a time, says so and waits: the test kills it there.
DRIVER = """
import signal, sys
import neoxlib
from neoxlib.exam import evaluate, evaluation, get_profile, load_task
from neoxlib.exam.ask import Asker

def ask_two(*args):
    asked.append(args)
    if len(asked) > 2:
        print("two are answered", flush=True)
        signal.pause()
    return ask(*args)

model, exam, journal = sys.argv[1:]
evaluation.PORTION = 1
asked, ask, Asker.ask = [], Asker.ask, ask_two
task = load_task("ceval", exam, shots=1)
evaluate(neoxlib.load(model), task, get_profile("official", "ceval"), journal=journal)
"""


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exam(tmp_path_factory.mktemp("data") / "exam")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.exam_results import byte_tokenizer
    from tests.support.oracle_models import make_oracle

    folder = tmp_path_factory.mktemp("model")
    make_oracle(vocab_size=271, max_position_embeddings=400).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A finished journal of two answers."""
    path = tmp_path / "earlier" / NAME
    with Journal(path, KEY) as journal:
        journal.add(ANSWERS)
    return path


def test_what_was_kept_is_read_again_to_the_last_bit(journal):
    assert read_answers(journal, KEY) == ANSWERS
    lines = journal.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and "答案是 B" in lines[2] and all(json.loads(line) for line in lines)


def test_every_answer_is_on_the_disk_when_add_returns(tmp_path, monkeypatch):
    synced = []
    path = tmp_path / NAME
    with Journal(path, KEY) as journal:
        monkeypatch.setattr(
            os, "fsync", lambda number: synced.append(path.read_bytes().count(b"\n"))
        )
        for item in ANSWERS.items():
            journal.add(dict([item]))
    assert synced == [2, 3]


@pytest.mark.parametrize("cut", [1, 30, 10**6])
def test_a_torn_last_line_is_left_out_and_nothing_else(journal, cut):
    whole = journal.read_bytes()
    *_, start = [n for n, byte in enumerate(whole[:-1]) if byte == ord("\n")]
    journal.write_bytes(whole[: max(len(whole) - cut, start + 1)])
    first = dict(list(ANSWERS.items())[:1])
    assert read_answers(journal, KEY) == first
    with Journal(
        journal, KEY
    ) as again:  # in place: the tear is gone, and what follows starts a line
        again.add(dict(list(ANSWERS.items())[1:]))
    assert read_answers(journal, KEY) == ANSWERS


def test_a_file_torn_in_its_first_line_is_an_empty_one(journal):
    journal.write_bytes(journal.read_bytes()[:20])
    assert read_answers(journal, KEY) == {}


@pytest.mark.parametrize("line", [1, 2])
@pytest.mark.parametrize("how", ["flip", "zero", "gap", "list", "digit"])
def test_other_damage_is_refused_with_file_and_line(journal, how, line):
    lines = journal.read_bytes().split(b"\n")
    there = lines[line - 1]
    lines[line - 1] = {
        "flip": there[:40] + bytes([there[40] ^ 1]) + there[41:],
        "zero": b"\0" * len(there),
        "gap": b"",
        "list": b"[1]",
        "digit": there.replace(b"5", b"6") if b"5" in there[30:] else there + b" ",
    }[how]
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"{NAME}:{line}: .*delete"):
        read_answers(journal, KEY)


@pytest.mark.parametrize("record", [{"subject": "logic"}, {"answers of": 5}])
def test_a_line_that_is_no_answer_is_refused(journal, record):
    from neoxlib.exam.journal import _line

    with journal.open("a", encoding="utf-8") as file:
        file.write(_line(record))
    with pytest.raises(DataError, match=f"{NAME}:4: is no answer"):
        read_answers(journal, KEY)
    journal.write_text(_line(record), encoding="utf-8")
    with pytest.raises(DataError, match=f"{NAME}:1: does not say whose"):
        read_answers(journal, KEY)


@pytest.mark.parametrize(
    ("logprobs", "told"),
    [
        ((-1.0,) * 3, "it has 3 log-probabilities, expected 4"),
        ((-1.0,) * 9, "it has 9 log-probabilities, expected 4"),
        ((), "it has 0 log-probabilities, expected 4"),
        ((math.nan,) * 4, "logprobs.0. is NaN, expected the logarithm of a probability"),
        ((-math.inf,) * 4, "logprobs.0. is -Infinity"),
        ((-1.0, 1e300, -1.0, -1.0), "logprobs.1. is 1e.300"),
        ((-1.0, -1.0, -1.0, -1e300), "logprobs.3. is -1e.300"),
    ],
)
def test_a_line_whose_log_probabilities_no_run_can_have_is_refused(journal, logprobs, told):
    with Journal(journal, KEY) as again:
        again.add({question_key("logic", "2", "?"): Answer(logprobs)})
    with pytest.raises(DataError, match=rf"{NAME}:4: is no answer to a question .*{told}.*delete"):
        read_answers(journal, KEY)


def test_a_log_probability_that_rounding_lifts_above_0_is_taken_over(journal):
    lifted = {question_key("logic", "2", "?"): Answer((1e-7, -1e5, -20.0, -20.0))}
    with Journal(journal, KEY) as again:
        again.add(lifted)
    assert read_answers(journal, KEY) == ANSWERS | lifted


def test_the_answers_of_a_profile_that_has_them_written_have_no_log_probabilities(journal):
    written = KEY | {"profile": {"answers": []}}
    journal.unlink()
    with Journal(journal, written) as again:
        again.add({question_key("logic", "2", "?"): Answer(text="B")})
    assert len(read_answers(journal, written)) == 1
    with Journal(journal, written) as again:
        again.add(ANSWERS)
    with pytest.raises(DataError, match=rf"{NAME}:3: .*4 log-probabilities, expected 0"):
        read_answers(journal, written)


@pytest.mark.parametrize("name", KEY)
def test_answers_of_another_model_or_other_rules_are_refused_with_what_differs(
    journal, name, tmp_path
):
    changed = {"profile": {"shots": 4}, "questions": {"logic": "1c", "law": "2b"}}
    other = KEY | {name: changed.get(name, "other")}
    told = "those of logic are others" if name == "questions" else ".*there, .*here"
    with pytest.raises(SettingsError, match=f"answers of another run.*\n  {name}: {told}"):
        Journal(tmp_path / "new" / NAME, other, journal.parent)
    assert not (tmp_path / "new").exists() and read_answers(journal, KEY) == ANSWERS


def test_other_subjects_are_no_difference_and_a_part_that_was_not_kept_is_one(journal):
    assert read_answers(journal, KEY | {"questions": {"logic": "1a", "art": "3"}}) == ANSWERS
    with pytest.raises(SettingsError, match="\n  split: not recorded there, val here"):
        read_answers(journal, KEY | {"split": "val"})


def test_a_folder_without_a_journal_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=f"no {NAME} in .*give the folder of that run"):
        Journal(tmp_path / NAME, KEY, tmp_path)
    with pytest.raises(SettingsError, match="name a file in journal"):
        evaluate(Fake(), None, OFFICIAL, resume=tmp_path)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.task}-{p.name}-{p.mode}")
def test_rules_that_a_name_implies_are_not_in_the_key_and_others_are(profile, exam):
    """Journals from before they were fields of a profile remain valid, and no others are mixed."""
    task = load_task("ceval", exam, shots=1)
    for rule in IMPLIED:
        assert rule not in key(Fake(), profile, task)["profile"]
        other = replace(profile, **{rule: not getattr(profile, rule)})
        assert key(Fake(), other, task)["profile"][rule] == getattr(other, rule)


def test_an_answer_is_kept_under_the_columns_that_identify_a_question():
    assert QuestionKey._fields == (*QUESTION, "prompt")


def test_the_key_tells_apart_all_that_changes_an_answer(model_dir, exam, tmp_path):
    task = load_task("ceval", exam, shots=1)
    with neoxlib.load(model_dir) as engine:
        plain = key(engine, OFFICIAL, task)
        assert key(engine, replace(OFFICIAL, cue="答："), task)["profile"] != plain["profile"]
        assert key(engine, OFFICIAL, task, limit=2)["limit"] != plain["limit"]
        assert (
            key(engine, OFFICIAL, load_task("ceval", exam, "test", shots=1))["split"]
            != plain["split"]
        )
    assert plain["loaded"]["world_size"] == 1 and plain["code"]["torch"].startswith("2.")
    found = {json.dumps(plain)}
    for settings in ({"dtype": "bfloat16"}, {"quant": "int8"}, {"max_seq_len": 100}):
        with neoxlib.load(model_dir, **settings) as engine:
            found.add(json.dumps(key(engine, OFFICIAL, task)))
    assert len(found) == 4
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    with neoxlib.load(tmp_path) as engine:
        assert key(engine, OFFICIAL, task) == plain
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-2] ^= 4
    (tmp_path / "model.safetensors").write_bytes(weights)
    with neoxlib.load(tmp_path) as engine:
        assert key(engine, OFFICIAL, task)["weights"] != plain["weights"]


def test_a_killed_run_goes_on_where_it_was_with_the_same_result(
    model_dir, exam, tmp_path, monkeypatch, capsys
):
    """kill -9 in the middle; the new run asks the rest, and its table is the unbroken run's."""
    earlier = tmp_path / "earlier" / NAME
    command = [sys.executable, "-c", DRIVER, str(model_dir), str(exam), str(earlier)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=env) as process:
        assert b"two are answered\n" in process.stdout  # waits for it, or for the end
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with earlier.open("ab") as file:
        file.write(b'{"crc": "00')  # as if it had been writing

    monkeypatch.setattr(evaluation, "PORTION", 1)
    asked = []
    ask = exam_ask.Asker.ask
    monkeypatch.setattr(exam_ask.Asker, "ask", lambda *args: asked.append(args) or ask(*args))
    task = load_task("ceval", exam, shots=1)
    with neoxlib.load(model_dir) as engine:
        unbroken = evaluate(engine, task, OFFICIAL, journal=tmp_path / "unbroken.jsonl")
        del asked[:]
        found = evaluate(
            engine, task, OFFICIAL, journal=tmp_path / "new" / NAME, resume=earlier.parent
        )
        assert len(asked) == 3
        said = capsys.readouterr().out
        right = int(unbroken["correct"].iloc[:2].sum())
        assert f"2 of 5 questions are taken over from the journal, {right} of them right." in said
        pd.testing.assert_frame_equal(found, unbroken, check_exact=True)
        del asked[:]
        evaluate(engine, task, OFFICIAL, journal=tmp_path / "new" / NAME)
        assert not asked


def test_a_portion_that_lacks_an_answer_is_asked_as_a_whole(exam, tmp_path):
    """So that batches, and with them the rounding, are those of an unbroken run."""
    task = load_task("ceval", exam, shots=1)
    path = tmp_path / NAME
    evaluate(Fake("B"), task, OFFICIAL, journal=path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *lines[3:]]), encoding="utf-8")
    fake = Fake("B")
    evaluate(fake, task, OFFICIAL, journal=path)
    assert [len(portion) for portion in fake.asked] == [3]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("val/colours_val.csv", "天是", "海是"),
        ("val/colours_val.csv", ",B\r\n", ",A\r\n"),
        ("dev/colours_dev.csv", "雪是", "云是"),
    ],
    ids=["question", "answer", "example"],
)
def test_a_data_file_that_has_changed_is_refused_by_its_subject(tmp_path, file, old, new):
    folder = write_exam(tmp_path / "exam")
    path = tmp_path / "earlier" / NAME
    evaluate(Fake("B"), load_task("ceval", folder, shots=1), OFFICIAL, journal=path)
    text = (folder / file).read_bytes().decode()
    assert old in text
    put(folder / file, text.replace(old, new))
    task = load_task("ceval", folder, shots=1)
    with pytest.raises(SettingsError, match="questions: those of colours are others"):
        evaluate(Fake("B"), task, OFFICIAL, journal=tmp_path / NAME, resume=path.parent)
    only = load_task("ceval", folder, subjects=["tiny_sums"], shots=1)
    fake = Fake("B")
    evaluate(fake, only, OFFICIAL, journal=tmp_path / NAME, resume=path.parent)
    assert fake.asked == [], "the other subject's answers are as good as before"
