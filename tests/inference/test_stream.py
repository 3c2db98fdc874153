"""Text as it streams: whole characters, stop strings, special tokens, decoders of all kinds."""

import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from neoxlib.inference.stream import HoldBack, TextStream
from tests.support.bpe_texts import END, PAD, TEXTS, cut, steady, tokenizer_for


def stream_of(
    tokens: list[int], stop: tuple[str, ...] = (), tokenizer: object = None, skip: bool = True
) -> list[str]:
    """The pieces shown after each token, and what is left at the end."""
    text = TextStream(tokenizer or tokenizer_for(), stop, skip)
    pieces = []
    for token in tokens:
        stopped = text.push(token)
        pieces.append(text.take())
        if stopped:
            break
    pieces.append(text.take(ended=True))
    assert text.taken == "".join(pieces)
    return pieces


@steady
@given(
    st.text("ab<|>。", max_size=30),
    st.lists(st.text("ab<|>。", min_size=1, max_size=5), max_size=4),
    st.randoms(),
)
def test_held_back_text_ends_before_the_first_stop_however_it_is_cut(
    text: str, stop: list[str], rng: random.Random
):
    gate = HoldBack(stop)
    out = ""
    at = 0
    while at < len(text):
        size = rng.randint(0, 4)
        out += gate.push(text[at : at + size])
        at += size
        assert cut(text, stop).startswith(out)
    assert out + gate.flush() == cut(text, stop)
    assert gate.stopped == any(s in text for s in stop)


@pytest.mark.parametrize(
    "stop", [["abcd", "c"], ["d", "bcd"], ["cd", "bc", "abc"], ["dx", "ab", "b"]], ids=str
)
def test_of_overlapping_stops_the_first_to_be_complete_wins_and_the_longer_of_two_that_end_together(
    stop: list[str],
):
    for pieces in (["xabcdx"], list("xabcdx"), ["xab", "cdx"]):
        gate = HoldBack(stop)
        assert "".join(map(gate.push, pieces)) + gate.flush() == cut("xabcdx", stop)


@steady
@given(
    st.text("ab。", max_size=12),
    st.lists(st.text("ab。", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_is_held_back_that_can_no_longer_be_a_stop(text: str, stop: list[str]):
    gate = HoldBack(stop)
    out = ""
    for character in text:
        out += gate.push(character)
    if not gate.stopped:
        held = text[len(out) :]
        assert not held or any(s.startswith(held) for s in stop)


@steady
@given(st.text(max_size=40))
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(text: str):
    tokens = tokenizer_for()(text)["input_ids"]
    pieces = stream_of(tokens)
    assert "".join(pieces) == tokenizer_for().decode(tokens, skip_special_tokens=True)
    shown = "".join(pieces[:-1])
    assert text.startswith(shown)


@steady
@given(st.lists(st.integers(0, 299), max_size=40))
def test_tokens_that_are_no_text_stream_to_what_the_tokenizer_decodes(tokens: list[int]):
    """Bytes in any order: broken characters anywhere, special tokens between the bytes of one."""
    for skip in (True, False):
        whole = tokenizer_for().decode(tokens, skip_special_tokens=skip)
        assert "".join(stream_of(tokens, skip=skip)) == whole
        assert "".join(stream_of(tokens, ("never there",), skip=skip)) == whole


@steady
@given(
    st.lists(st.integers(0, 299), max_size=40),
    st.lists(st.text("ab <|>\ufffdé", min_size=1, max_size=2), max_size=3),
)
def test_stop_strings_are_found_in_the_text_of_any_tokens(tokens: list[int], stop: list[str]):
    whole = tokenizer_for().decode(tokens, skip_special_tokens=False)
    assert "".join(stream_of(tokens, tuple(stop), skip=False)) == cut(whole, stop)


PARTS = st.one_of(st.text("ab。😀 \n", min_size=1, max_size=4), st.sampled_from([END, PAD]))
STOPS = st.sampled_from(
    [
        "a",
        "b。",
        END,
        PAD,
        "b" + END,
        "|>a",
        ">。",
        "x|",
        "<|p",
        "g|><|",
        END + PAD,
        "a" + PAD + "b",
        "\n",
    ]
)


@steady
@given(st.lists(PARTS, max_size=12), st.lists(STOPS, max_size=3))
def test_text_is_cut_before_a_stop_string_that_crosses_special_tokens(
    parts: list[str], stop: list[str]
):
    """The oracle: cut the whole text, then remove special tokens and the rest of the last one."""
    tokens = [i for part in parts for i in tokenizer_for()(part)["input_ids"]]
    left = len(cut("".join(parts), stop))
    shown = ""
    for part in parts:
        shown += "" if part in (END, PAD) else part[:left]
        left = max(left - len(part), 0)
    assert "".join(stream_of(tokens, tuple(stop))) == shown


DECODERS = {
    "bytes, as Llama's": decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
    "Metaspace": decoders.Metaspace(),
    "no decoder": None,
    "not only appending": decoders.WordPiece("▁", cleanup=True),
    "repeated tokens merged": decoders.CTC("▁", "d", cleanup=True),
}


@cache
def other_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Words and, for what is in none of them, a token per byte; two special tokens."""
    words = ["<unk>", "</s>", "<pad>", *(f"<0x{n:02X}>" for n in range(256))]
    words += ["▁", "▁hello", "▁world", "wor", "ld", "你", "▁.", "▁n't", "d"]
    raw = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    if DECODERS[name]:
        raw.decoder = DECODERS[name]
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>")


LIKELY = [3 + byte for byte in (0x0A, 0xE4, 0xBD, 0xA0, 0xF0)] + [1, 2, *range(259, 268)]
TOKENS = st.one_of(st.integers(0, 267), st.sampled_from(LIKELY))


@steady
@pytest.mark.parametrize("name", DECODERS)
@given(st.lists(TOKENS, max_size=20), st.booleans())
def test_decoders_that_change_their_mind_stream_to_what_the_tokenizer_decodes(
    name: str, tokens: list[int], skip: bool
):
    tokenizer = other_tokenizer(name)
    whole = tokenizer.decode(tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    assert "".join(stream_of(tokens, tokenizer=tokenizer, skip=skip)) == whole
    assert "".join(stream_of(tokens, ("never there",), tokenizer, skip)) == whole


@pytest.mark.parametrize(
    ("name", "stop"), [("bytes, as Llama's", "\n"), ("not only appending", "<0x0A>")]
)
@pytest.mark.parametrize("skip", [True, False])
def test_a_stop_string_is_found_at_its_last_token_though_its_text_may_still_change(
    name: str, stop: str, skip: bool
):
    tokenizer = other_tokenizer(name)
    hello, pad, line = tokenizer.convert_tokens_to_ids(["▁hello", "<pad>", "<0x0A>"])
    text = TextStream(tokenizer, (stop,), skip)
    assert [text.push(hello), text.push(pad), text.push(line)] == [False, False, True]
    assert (
        text.take(ended=True).strip()
        == tokenizer.decode([hello, pad], skip_special_tokens=skip).strip()
    )


def test_bytes_that_are_no_text_are_shown_as_the_tokenizer_shows_the_whole_run():
    tokenizer = other_tokenizer("bytes, as Llama's")
    tokens = tokenizer.convert_tokens_to_ids(["▁hello", "<0x0A>", "<0xF0>", "▁world"])
    assert stream_of(tokens, tokenizer=tokenizer) == ["hello", "", "", "\ufffd\ufffd world", ""]
    tokens = tokenizer.convert_tokens_to_ids(
        ["▁hello", "<0x0A>", "<0xE4>", "<0xBD>", "<0xA0>", "▁world"]
    )
    assert "".join(stream_of(tokens, tokenizer=tokenizer)) == "hello\n你 world"


def test_half_a_character_waits_and_shows_as_a_replacement_only_at_the_very_end():
    tokens = tokenizer_for()("a😀")["input_ids"]
    assert len(tokens) == 4  # three tokens for one character of four bytes
    assert stream_of(tokens) == ["a", "", "", "😀", ""]
    assert stream_of(tokens[:3]) == ["a", "", "", "\ufffd"]


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("\n\n",), "one two"),  # over two tokens, or inside one
        (("wo",), "one t"),  # in the middle of a word
        (("three", "two"), "one "),  # the earlier of two
        (("two\n\nthree four",), "one two\n\nthree"),  # begun, never complete: nothing is lost
        (("one",), ""),
        ((), "one two\n\nthree"),
    ],
    ids=str,
)
def test_text_ends_before_the_stop_string(stop: tuple[str, ...], text: str):
    tokens = tokenizer_for()("one two\n\nthree")["input_ids"]
    assert "".join(stream_of(tokens, stop)) == text


def test_real_tokenizer_streams_chinese_and_emoji_exactly(data: Path):
    tokenizer = AutoTokenizer.from_pretrained(data / "neox20b", clean_up_tokenization_spaces=False)
    for text in TEXTS:
        tokens = tokenizer(text)["input_ids"]
        pieces = stream_of(tokens, tokenizer=tokenizer)
        assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    tokens = tokenizer("四 😀。 wait , what ?")["input_ids"]
    assert "".join(stream_of(tokens, ("。 wait",), tokenizer)) == "四 😀"
    assert "".join(stream_of(tokens, tokenizer=tokenizer)).endswith(
        " , what ?"
    )  # no clean-up of spaces
