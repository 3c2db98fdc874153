"""Scoring against transformers' own log-probabilities, and what becomes of questions that cannot be scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import neoxlib
from neoxlib.errors import SettingsError
from neoxlib.tasks import PROFILES, evaluate, load_task
from neoxlib.tasks.scoring import plain_lines
from tests.conftest import make_oracle
from tests.exam import write_exam

OFFICIAL = PROFILES["official"]
LETTERS = ["p_A", "p_B", "p_C", "p_D"]


def byte_tokenizer(merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """A token per byte of UTF-8, and one per merge."""
    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


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


class Fake:
    """Finds the letter likeliest that `favourite` names; remembers what it was asked."""

    max_seq_len = 10_000

    def __init__(self, favourite: str = "A", value: float = 0.0) -> None:
        self.tokenizer, self.favourite, self.value, self.asked = byte_tokenizer(), favourite, value, []

    def score(self, prompts: list[str], choices: list[str]) -> list[list[float]]:
        self.asked.append(prompts)
        return [[self.value if choice == self.favourite else -9.0 for choice in choices] for _ in prompts]


def quiet(done: int, total: int) -> None:
    pass


def test_probabilities_and_answers_are_those_of_transformers(engine, oracle, exam):
    """One plain forward pass of transformers per prompt: no batch, no padding, softmax over the letters' logits."""
    found = evaluate(engine, load_task("ceval", exam, shots=2), OFFICIAL, batch_size=3, progress=quiet)
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


def test_answers_do_not_depend_on_the_batch(engine, exam):
    task = load_task("ceval", exam, shots=2)
    one, all_at_once = (evaluate(engine, task, OFFICIAL, batch_size=size, progress=quiet) for size in (1, 99))
    assert one["predicted"].tolist() == all_at_once["predicted"].tolist()
    np.testing.assert_allclose(one[LETTERS], all_at_once[LETTERS], atol=1e-5)


def test_a_short_window_drops_examples_and_marks_what_never_fits(model_dir, exam):
    """A question that does not fit stays in the denominator: dropping it would change the score unseen."""
    task = load_task("ceval", exam, shots=2)
    needs = evaluate(Fake(), load_task("ceval", exam, shots=0), OFFICIAL, progress=quiet)["prompt_tokens"]
    assert needs.nunique() > 1
    with neoxlib.load(model_dir, max_seq_len=int(needs.max()) - 1) as engine:
        found = evaluate(engine, task, OFFICIAL, progress=quiet)
    assert found["too_long"].tolist() == (needs == needs.max()).tolist()
    assert (found["shots_used"] == 0).all() and found["prompt_tokens"].tolist() == needs.tolist()
    lost = found[found["too_long"]]
    assert (lost["predicted"] == "").all() and not lost["correct"].any() and lost[LETTERS].isna().all(axis=None)
    assert found.loc[~found["too_long"], LETTERS].sum(axis=1).to_numpy() == pytest.approx(1.0)


def test_rows_come_in_the_exams_order_although_like_lengths_share_a_batch(exam):
    fake = Fake("B")
    found = evaluate(fake, load_task("ceval", exam, shots=2), OFFICIAL, batch_size=2, progress=quiet)
    lengths = [len(fake.tokenizer(prompt)["input_ids"]) for batch in fake.asked for prompt in batch]
    assert lengths == sorted(lengths, reverse=True) and [len(batch) for batch in fake.asked] == [2, 2, 1]
    assert list(zip(found["subject"], found["id"], strict=True)) == [
        ("tiny_sums", "0"), ("tiny_sums", "1"), ("tiny_sums", "2"), ("colours", "0"), ("colours", "1")
    ]
    assert found["correct"].tolist() == [False, True, False, True, False]


def test_a_limit_takes_the_first_questions_of_each_subject(exam):
    found = evaluate(Fake(), load_task("ceval", exam, shots=2), OFFICIAL, limit=1, progress=quiet)
    assert list(zip(found["subject"], found["id"], strict=True)) == [("tiny_sums", "0"), ("colours", "0")]


def test_nothing_is_right_where_there_are_no_answers(exam):
    found = evaluate(Fake(), load_task("ceval", exam, split="test", shots=2), OFFICIAL, progress=quiet)
    assert (found["expected"] == "").all() and not found["correct"].any() and (found["predicted"] == "A").all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_stops_the_run(exam, value):
    """argmax over nan is A: a broken model would look like one that likes A."""
    with pytest.raises(SettingsError, match="5 of 5 questions got a score that is not a number"):
        evaluate(Fake(value=value), load_task("ceval", exam, shots=2), OFFICIAL, progress=quiet)


@pytest.mark.parametrize(("merge", "bad"), [((("ï¼ļ", "B"),), "'B'"), ((("ļ", "C"),), "'C'")])
def test_a_letter_that_runs_into_the_cue_is_refused(exam, merge, bad):
    """The last byte of the cue's colon and a letter in one token: what is scored would not be the letter."""
    pieces = (("ï", "¼"), ("ï¼", "ļ"), *merge) if len(merge[0][0]) > 1 else merge
    fake = Fake()
    fake.tokenizer = byte_tokenizer(pieces)
    with pytest.raises(SettingsError, match=rf"none for \[{bad}\]"):
        evaluate(fake, load_task("ceval", exam, shots=2), OFFICIAL, progress=quiet)


def test_an_answer_of_two_tokens_is_refused(exam):
    """Two tokens have two probabilities; beside one-token letters they would nearly always lose."""
    longer = replace(OFFICIAL, answers=("A", "B", "C", "DD"))
    with pytest.raises(SettingsError, match=r"none for \['DD'\]"):
        evaluate(Fake(), load_task("ceval", exam, shots=2), longer, progress=quiet)


def test_progress_is_a_few_plain_lines(capsys):
    show = plain_lines()
    for done in range(1, 1001):
        show(done, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("1000 of 1000 questions, ") and "\r" not in "".join(lines)
