"""Answers as tables: what a reader sees of each token."""

import math

import pytest
from bs4 import BeautifulSoup
from transformers import AutoTokenizer

import neoxlib
from neoxlib.errors import show_controls
from neoxlib.inference import parity, tables
from neoxlib.inference.text import Completion, Timings


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


def said(*checks: dict, **metrics: float) -> dict:
    return {"checks": list(checks), "metrics": metrics, "model": {"world_size": 2}, "noise": []}


def answered(text: str, timings: Timings) -> Completion:
    return Completion(text, [5], "length", timings, [math.log(0.9), math.log(0.7)], [])


TIMED = Timings([1.0, 0.1], [9.0, 0.6], [2.0, 0.2], [1.0, 0.1])


def test_the_answer_says_what_and_how_surely_and_where_the_time_goes():
    completion = answered(" a  mammal.\n", TIMED)
    assert tables.key_figures(completion) == pytest.approx(
        {"first_token_ms": 13.0, "next_token_ms": 1.0, "certainty": 0.8, "forward_share": 0.6}
    )
    figures = {"certainty": 0.8, "next_token_ms": 1.0}
    same = {"name": parity.UNSPLIT, "passed": True, "detail": ""}
    assert tables.answer(said(same, **figures), "The panda is", completion) == (
        "To “The panda is” it says “a mammal.”, 80.0 % sure of a typical token. The split model "
        "equals the unsplit one. A next token takes 1.00 ms: computing 60 %, sums between ranks "
        "20 %, building the inputs 10 %, choosing the token 10 %."
    )


def test_the_answer_of_a_wrong_model_says_so_and_what_is_not_known_is_left_out():
    nothing = Timings([1.0], [9.0], [math.nan], [math.nan])
    wrong = {"name": "batch answers equal single answers", "passed": False, "detail": "1 of 8"}
    found = tables.answer(said(wrong), [1, 2], answered("\x1b[31mx", nothing))
    assert found == (
        "To the first prompt it says “⟨U+001B⟩[31mx”. It is not right. "
        "batch answers equal single answers: no (1 of 8)."
    )


def test_of_a_noisy_run_the_answer_does_not_say_where_the_time_goes():
    noisy = said(next_token_ms=23.3) | {"noise": ["other processes used 1.3 of 2 cores"]}
    assert tables.answer(noisy, "The panda is", answered("a", TIMED)) == (
        "To “The panda is” it says “a”. A next token took 23.3 ms beside other work; a quiet "
        "machine may be faster."
    )


def test_phases_that_were_not_timed_apart_have_no_shares():
    unknown = Timings([1.0, 1.0], [9.0, 9.0], [math.nan] * 2, [math.nan] * 2)
    assert tables.step_shares(answered("", unknown)) == {}
