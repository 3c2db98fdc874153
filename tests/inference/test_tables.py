"""Answers as tables: what a reader sees of each token."""

import pytest
from transformers import AutoTokenizer

import neoxlib
from neoxlib.inference import tables


@pytest.fixture(scope="module")
def engine(checkpoint) -> neoxlib.Engine:
    return neoxlib.load(checkpoint)


def test_a_token_table_has_a_row_per_token_with_its_probability(engine):
    answer = engine.generate(["月 <b>"], max_new_tokens=6)[0]
    table = tables.tokens(answer, engine.tokenizer)
    assert table["id"].tolist() == answer.token_ids
    assert ((table["probability"] > 0) & (table["probability"] <= 1)).all()
    assert all(
        len(alternatives.split(" · ")) == 4 for alternatives in table["alternatives"]
    )  # 5 less itself


def test_part_of_a_character_shows_its_bytes(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    shown = [tables.visible(tokenizer, token) for token in tokenizer("月 a\n")["input_ids"]]
    assert shown == ["‹E6›", "‹9C›", "‹88›", "␣", "a", "⏎"]


def test_model_text_cannot_become_markup(checkpoint, engine):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    answer = engine.generate(["x"], max_new_tokens=1)[0]
    forged = type(answer)(
        "<", tokenizer("<")["input_ids"], "length", answer.timings, answer.logprobs, answer.top
    )
    assert (
        "&lt;" in tables.strip(forged, tokenizer).data
        and "><<" not in tables.strip(forged, tokenizer).data
    )


def test_steps_and_answers_agree_with_the_completions(engine):
    prompts = ["a", "bcd"]
    found = engine.generate(prompts, max_new_tokens=3)
    assert tables.answers(prompts, found)["answer"].tolist() == [c.text for c in found]
    steps = tables.steps(found[0])
    assert steps.sum(axis=1).tolist() == pytest.approx(found[0].timings.step_ms)
    assert tables.differing(found, found) == []
    assert tables.differing(found, found[::-1]) == [0, 1]
