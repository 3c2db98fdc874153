"""Text in, text out: prompts to ids, answers with their text, times and reasons to end."""

import json
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

import neoxlib
from neoxlib.errors import SettingsError, Stopped
from neoxlib.inference.decode import Limits
from neoxlib.inference.sampling import Sampling
from neoxlib.inference.text import Completion, Timings, encode, generate_text, split
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from tests.support.bpe_texts import END, PAD, TEXTS, cut, steady, tokenizer_for
from tests.support.lm_eval_tasks import transformers_model
from tests.support.oracle_models import TINY, make_oracle, ours
from tests.support.thread_ranks import on_ranks
from tests.support.walker import USER, byte_tokenizer, save

DEMO = Path(neoxlib.__file__).parent / "demo" / "model"
WINDOW = TINY["max_position_embeddings"]


@cache
def model_for() -> GPTNeoX:
    """Random weights, a vocabulary longer than the tokenizer: answers are bytes of every kind."""
    return ours(make_oracle(vocab_size=384))


def limits(end: int = 0, tokenizer_size: int = 300, window: int = WINDOW) -> Limits:
    return Limits((end,), tokenizer_size, window)


def answer(
    prompts: list, stream=None, model: GPTNeoX | None = None, **settings: object
) -> list[Completion]:
    return generate_text(
        model or model_for(), tokenizer_for(), prompts, Sampling(**settings), limits(), stream
    )


def test_streamed_text_is_the_final_text_row_by_row():
    pieces: dict[int, list[str]] = {row: [] for row in range(4)}
    found = answer(
        TEXTS[:4], lambda row, piece: pieces[row].append(piece), temperature=4.0, max_new_tokens=16
    )
    assert ["".join(pieces[row]) for row in range(4)] == [c.text for c in found]
    assert all(piece for row in pieces.values() for piece in row)
    assert [c.text for c in found] == [
        tokenizer_for().decode(c.token_ids, skip_special_tokens=True) for c in found
    ]
    assert len({c.text for c in found}) == 4


def test_only_ids_that_the_tokenizer_has_are_answered():
    found = answer(TEXTS[:4], temperature=9.0, seed=1, max_new_tokens=24)
    assert (
        max(token for c in found for token in c.token_ids)
        < len(tokenizer_for())
        < model_for().config.vocab_size
    )


def test_text_and_the_ids_of_that_text_are_the_same_prompt():
    ids = [tokenizer_for()(text)["input_ids"] for text in TEXTS[:3]]
    by_text = answer(TEXTS[:3], max_new_tokens=8)
    by_ids = answer([ids[0], tuple(ids[1]), torch.tensor(ids[2])], max_new_tokens=8)
    assert [c.token_ids for c in by_text] == [c.token_ids for c in by_ids]


def test_a_batch_with_stop_strings_answers_as_single_prompts_do():
    free = answer(TEXTS[:3], max_new_tokens=24)
    stop = [c.text[9:11] for c in free[:2]]
    settings = {"max_new_tokens": 24, "stop": stop}
    together = answer(TEXTS[:3], **settings)
    assert [(c.text, c.token_ids, c.finish_reason) for c in together] == [
        (c.text, c.token_ids, c.finish_reason)
        for c in (answer([text], **settings)[0] for text in TEXTS[:3])
    ]
    assert [c.text for c in together] == [cut(c.text, stop) for c in free]
    assert [c.finish_reason for c in together[:2]] == ["stop", "stop"]
    assert len(together[0].token_ids) < 24


def test_end_of_text_is_a_token_of_the_answer_but_not_of_its_text():
    model = ours(make_oracle(vocab_size=384))
    free = answer(TEXTS[:1], model=model, max_new_tokens=12)[0]
    end = free.token_ids[6]  # a token of plain text, named as the end of text or by the caller
    named = answer(TEXTS[:1], model=model, max_new_tokens=12, stop_token_ids=end)[0]
    ended = Sampling(max_new_tokens=12)
    for found in (named, generate_text(model, tokenizer_for(), TEXTS[:1], ended, limits(end))[0]):
        assert found.token_ids == free.token_ids[: free.token_ids.index(end) + 1]
        assert found.finish_reason == "stop"
        assert found.text == tokenizer_for().decode(found.token_ids[:-1], skip_special_tokens=True)


@pytest.mark.parametrize("stop", [None, "zz", ["|>", "e"]], ids=str)
def test_special_tokens_that_are_kept_are_in_the_text_as_transformers_decodes_it(stop: object):
    settings = {"temperature": 9.0, "seed": 4, "max_new_tokens": 59}
    pieces: dict[int, list[str]] = {row: [] for row in range(4)}
    found = answer(
        TEXTS[:4],
        lambda row, piece: pieces[row].append(piece),
        stop=stop,
        skip_special_tokens=False,
        **settings,
    )
    for row, answered in enumerate(found):
        whole = tokenizer_for().decode(answered.token_ids, skip_special_tokens=False)
        assert (
            answered.text
            == cut(whole, [stop] if isinstance(stop, str) else stop or [])
            == "".join(pieces[row])
        )
    if not stop:
        assert any(END in c.text or PAD in c.text for c in found)


def test_ids_to_stop_at_that_the_tokenizer_does_not_have_are_refused():
    with pytest.raises(
        SettingsError, match=r"stop_token_ids holds ids \[300, 999\] that are not among .*0..299"
    ):
        answer(["a"], stop_token_ids=[5, 999, 300])


def test_prompts_of_ids_are_continued_without_a_tokenizer_and_have_no_text():
    settings = {"max_new_tokens": 8}
    ids = [tokenizer_for()(text)["input_ids"] for text in TEXTS[:3]]
    said = []
    plain = generate_text(
        model_for(), None, ids, Sampling(**settings), limits(), lambda *piece: said.append(piece)
    )
    assert [c.token_ids for c in plain] == [c.token_ids for c in answer(ids, **settings)]
    assert [c.text for c in plain] == [""] * 3 and not said
    with pytest.raises(SettingsError, match="use stop_token_ids"):
        generate_text(model_for(), None, ids, Sampling(stop="a"), limits())
    with pytest.raises(SettingsError, match="there is no tokenizer"):
        generate_text(model_for(), None, ["a"], Sampling(), limits())


def test_a_stop_string_that_comes_to_light_at_the_very_end_counts_as_a_stop():
    """An unfinished character waits; only at the length limit is it known to show as U+FFFD."""
    free = answer(list("abcdefgh"), max_new_tokens=1)
    found = answer(list("abcdefgh"), max_new_tokens=1, stop="\ufffd")
    broken = [c.text == "\ufffd" for c in free]
    assert any(broken) and not all(broken)
    assert [c.text for c in found] == [
        "" if b else c.text for b, c in zip(broken, free, strict=True)
    ]
    assert [c.finish_reason for c in found] == ["stop" if b else "length" for b in broken]


def test_the_shipped_model_writes_what_transformers_writes():
    """Real text in both languages, ragged, to the end of text: ids and text as from `generate`."""
    if not (DEMO / "model.safetensors").is_file():
        pytest.skip(f"no model in {DEMO}")
    oracle = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(DEMO, clean_up_tokenization_spaces=False)
    prompts = ["The capital of France is", "中国的首都", "red", "What is two plus three?\nAnswer:"]
    found = generate_text(
        ours(oracle),
        tokenizer,
        prompts,
        Sampling(max_new_tokens=40),
        limits(tokenizer_size=len(tokenizer), window=128),
    )
    for prompt, mine in zip(prompts, found, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        greedy = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": 0, "pad_token_id": 0}
        theirs = oracle.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :].tolist()
        assert mine.token_ids == theirs
        assert mine.text == tokenizer.decode(theirs, skip_special_tokens=True)
    assert len({answer.text for answer in found}) == len(prompts)


def test_one_answer_per_prompt_on_rank_0_and_none_elsewhere():
    oracle = make_oracle(vocab_size=384)

    def work(group: Group) -> tuple[list[Completion], list]:
        pieces = []
        found = answer(
            TEXTS[:3],
            lambda *p: pieces.append(p),
            ours(oracle, group),
            max_new_tokens=10,
            stop=["e"],
        )
        return found, pieces

    (first, shown), *others = on_ranks(4, work)
    assert [c.text for c in first] == [
        c.text for c in answer(TEXTS[:3], max_new_tokens=10, stop=["e"])
    ]
    assert shown and others == [([], [])] * 3


def test_no_prompts_give_no_answers():
    assert answer([]) == []


def test_an_empty_text_is_refused_with_what_to_do():
    with pytest.raises(SettingsError, match=r"prompts\[1\] has no tokens.*end-of-text id, \[0\]"):
        answer(["a", ""])


def test_one_string_is_not_taken_for_a_list_of_letters():
    with pytest.raises(SettingsError, match=r"one string; give a list, \['hello'\]"):
        answer("hello")


def test_every_prompt_that_cannot_be_read_is_listed():
    with pytest.raises(SettingsError) as error:
        encode(
            tokenizer_for(),
            [
                "good",
                5,
                None,
                "half \ud83d",
                [1, "2"],
                [1.5],
                [3, 4],
                b"abc",
                bytearray(b"a"),
                {1: 2},
                {1, 2},
                [True, False],
                torch.ones(2),
                torch.ones(2, 2).long(),
                range(3),
            ],
        )
    lines = str(error.value).split("\n  ")[1:]
    assert [line.split()[0] for line in lines] == [
        f"prompts[{n}]" for n in (1, 2, 3, 4, 5, *range(7, 14))
    ]


@pytest.mark.parametrize(
    "prompts", [b"abc", {"input_ids": [[1]]}, {"a"}, bytearray(b"a"), 5, None], ids=str
)
def test_what_only_looks_like_a_list_of_prompts_is_refused(prompts: object):
    """The tokenizer's own answer is a mapping too, whose keys would be read as texts."""
    with pytest.raises(SettingsError, match="give a list of texts or of lists of token ids"):
        encode(tokenizer_for(), prompts)


def test_timings_count_a_rows_own_steps_and_no_others():
    free = answer(TEXTS[:3], max_new_tokens=12)
    stop = free[0].text[3:5]
    for found in answer(TEXTS[:3], max_new_tokens=12, stop=stop):
        steps = len(found.token_ids)
        assert [len(part) for part in vars(found.timings).values()] == [steps] * 4
        assert len(found.logprobs) == len(found.top) == steps
        assert all(len(best) == 5 for best in found.top)
        greedy = [best[0] for best in found.top]
        assert greedy == list(zip(found.token_ids, found.logprobs, strict=True))


def test_timings_are_sums_and_medians_of_the_steps():
    timings = Timings(
        [1.0, 0.0, 0.0, 0.0], [50.0, 4.0, 5.0, 30.0], [3.0, 1.0, 1.0, 1.0], [6.0, 1.0, 1.0, 1.0]
    )
    assert timings.step_ms == [60.0, 6.0, 7.0, 32.0]
    assert (timings.first_token_ms, timings.next_token_ms) == (60.0, 7.0)
    assert timings.tokens_per_second == pytest.approx(4 / 0.105)
    assert repr(timings) == "Timings(first 60.0 ms, next 7.0 ms, 38.1 tokens/s)"
    assert Timings([1.0], [1.0], [0.0], [0.0]).next_token_ms is None


def test_an_answer_shows_itself_and_travels_between_processes():
    found = answer(TEXTS[:1], max_new_tokens=3)[0]
    assert repr(found).startswith(f"Completion({found.text!r}, 3 tokens, 'length', Timings(first ")
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.fixture(scope="module", params=["adds nothing", "adds a beginning"])
def harness_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """lm-eval's model `hf`, whose tokenizer adds nothing or its own first token before a text."""
    raw = byte_tokenizer(USER)
    if request.param == "adds a beginning":
        raw.post_processor = processors.TemplateProcessing(
            single=f"{USER} $A", special_tokens=[(USER, 263)]
        )
    folder = save(tmp_path_factory.mktemp("model"), raw, vocab_size=264)
    if request.param == "adds a beginning":
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": USER}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return transformers_model(folder)


LETTERS = st.text("ab yes4\n\u3000😀", max_size=8)


@steady
@given(st.one_of(LETTERS, LETTERS.map(USER.__add__)), LETTERS.filter(bool))
def test_a_choice_is_split_from_its_prompt_as_lm_eval_splits_it(
    harness_of, prompt: str, choice: str
):
    if not prompt.rstrip():
        return  # lm-eval puts the end of text there; here an empty prompt is refused
    context, continuation = harness_of._encode_pair(prompt, choice)
    if context + continuation == harness_of.tok_encode(prompt + choice) and continuation:
        assert split(harness_of.tokenizer, [prompt], [[choice]]) == [(context, continuation)]
    else:
        with pytest.raises(SettingsError, match="a token spans both"):
            split(harness_of.tokenizer, [prompt], [[choice]])


def test_every_choice_that_cannot_be_split_off_is_listed_with_its_prompts_end(harness_of):
    prompts = ["2 = y", " \n", "fine", [5, 6], "x" * 90 + "a"]
    choices = [["es", "no"], ["a"], ["5"], ["5"], ["b"]]
    with pytest.raises(SettingsError) as error:
        split(harness_of.tokenizer, prompts, choices)
    lines = str(error.value).split("\n  ")[1:]
    assert "'es' after '2 = y': a token spans both" in lines[0]
    assert "'a' after ' \\n'" in lines[1] or USER in harness_of.tokenizer.decode(
        harness_of.tok_encode(" ")
    )
    assert f"'b' after …'{'x' * 19}a': a token spans both" in lines[-1]


def test_to_a_prompt_of_ids_a_choices_own_ids_are_added_and_nothing_before_them(harness_of):
    expected = harness_of.tokenizer.encode(" yes", add_special_tokens=False)
    assert split(harness_of.tokenizer, [[5, 6]], [[" yes"]]) == [([5, 6], expected)]


@pytest.mark.parametrize(
    "choices", [[["a", 5]], [["a", None]], [["half \ud83d"]], [[b"a"]]], ids=repr
)
def test_choices_that_are_no_text_are_refused(harness_of, choices: list):
    for prompt in ("ab", [5, 6]):
        with pytest.raises(SettingsError, match="the choice must be valid text"):
            split(harness_of.tokenizer, [prompt], choices)


def interrupted(after: int, prompts: list, **settings: object) -> list[Completion]:
    """The answers of a call whose stream is interrupted at its piece number `after`."""
    heard = []

    def stream(row: int, piece: str) -> None:
        heard.append(piece)
        if len(heard) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        answer(prompts, stream, **settings)
    return stop.value.answers


def test_an_interrupted_answer_is_the_beginning_of_the_whole_one():
    whole = answer([[5, 6, 7], [9]], max_new_tokens=12)
    for after in (1, 5, 9):
        parts = interrupted(after, [[5, 6, 7], [9]], max_new_tokens=12)
        for part, one in zip(parts, whole, strict=True):
            count = len(part.token_ids)
            assert 0 < count < 12 and part.token_ids == one.token_ids[:count]
            assert part.logprobs == one.logprobs[:count] and part.top == one.top[:count]
            assert len(part.timings.step_ms) == count and part.finish_reason == "interrupted"
            assert part.text == tokenizer_for().decode(part.token_ids, skip_special_tokens=True)


def test_pieces_carry_the_tokens_and_the_times_of_the_answer():
    heard: list[list] = [[], []]
    answers = answer(
        [[5, 6, 7], [9]], lambda row, piece: heard[row].append(piece), max_new_tokens=9
    )
    for pieces, one in zip(heard, answers, strict=True):
        tokens = [token for piece in pieces for token in piece.tokens]
        clocks = [clock for piece in pieces for clock in piece.clocks]
        assert [token for token, _, _ in tokens] == one.token_ids[: len(tokens)]
        assert [clock[1] for clock in clocks] == one.timings.forward_ms[: len(clocks)]
        assert len(tokens) == len(clocks) > 0


def test_a_group_that_is_asked_to_stop_returns_the_answer_so_far_and_not_before_a_token():
    class Stopping(Group):
        """Alone, and asked to stop at the step number `left`."""

        left = 4

        def checkpoint(self, value=None):
            self.left -= 1
            if self.left < 0:
                raise Stopped("asked")
            return value

    model = ours(make_oracle(vocab_size=384), group=Stopping())
    whole = answer([[5, 6, 7]], max_new_tokens=12)[0]
    (part,) = answer([[5, 6, 7]], model=model, max_new_tokens=12)
    assert part.token_ids == whole.token_ids[:4] and part.finish_reason == "interrupted"
    assert part.text == tokenizer_for().decode(part.token_ids, skip_special_tokens=True)
    with pytest.raises(Stopped):
        answer([[5, 6, 7]], model=model, max_new_tokens=12)
