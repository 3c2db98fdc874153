"""Answers as tables: what a reader sees of each token."""

import pytest
from bs4 import BeautifulSoup
from transformers import AutoTokenizer

import neoxlib
from neoxlib.errors import show_controls
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


def test_the_tokens_of_a_stream_are_those_of_its_answer_with_their_alternatives(engine):
    pieces = []
    for end in (engine.tokenizer.eos_token_id, None):
        answer = engine.generate(
            ["月 a"],
            max_new_tokens=8,
            stop_token_ids=end,
            stream=lambda _, piece: pieces.append(piece),
        )[0]
        streamed = [token for piece in pieces for token in piece.tokens]
        assert "".join(pieces) == answer.text
        assert streamed == tables.chosen(answer)[: len(streamed)] and len(streamed) > 0
        pieces.clear()


def test_over_a_token_stand_its_probability_and_its_alternatives(engine):
    answer = engine.generate(["月 <b>"], max_new_tokens=2)[0]
    alternatives = tables.tokens(answer, engine.tokenizer)["alternatives"].tolist()
    page = BeautifulSoup(tables.strip(answer, engine.tokenizer).data, "html.parser")
    titles = [span["title"].split("; instead: ")[1] for span in page.select("span")]
    assert titles == [show_controls(text) for text in alternatives]
