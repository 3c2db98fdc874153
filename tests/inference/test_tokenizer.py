"""The ids of a checkpoint's tokenizer and configs, against transformers on the same folder."""

import json
import logging
import math
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import neoxlib
from neoxlib.checkpoint import shard
from neoxlib.errors import ConfigError, SettingsError
from neoxlib.inference.stream import Pieces
from neoxlib.inference.tokenizer import MOST_BYTES, load_tokenizer
from neoxlib.setup.model_checks import model_rows
from tests.support.checkpoint_files import unreadable
from tests.support.walker import END, MERGES, USER, byte_tokenizer, path_of, save, transformers_says

TOKENIZER = byte_tokenizer(USER)
PATH = path_of(TOKENIZER, "Habcd", USER, "uvw", END)
TALK = TOKENIZER.token_to_id(USER)
LETTER = TOKENIZER.token_to_id("v")

ENDS = {
    "the tokenizer's": {},
    "config.json, several": {"eos_token_id": [0, TALK]},
    "config.json, another": {"eos_token_id": TALK},
    "config.json, an ordinary token in a list": {"eos_token_id": [0, LETTER]},
    "config.json, an empty list": {"eos_token_id": []},
    "config.json, a row without a token": {"eos_token_id": 300},
    "generation_config.json, one": {"generation": {"eos_token_id": TALK}},
    "generation_config.json, several": {"generation": {"eos_token_id": [TALK, 0]}},
    "generation_config.json, an ordinary token": {"generation": {"eos_token_id": LETTER}},
    "generation_config.json wins": {"generation": {"eos_token_id": 0}, "eos_token_id": TALK},
    "generation_config.json says none": {"generation": {"bos_token_id": 0}, "eos_token_id": TALK},
}


@pytest.mark.parametrize("case", ENDS)
def test_a_text_ends_where_transformers_ends_it_or_at_the_tokenizers_end(case: str, tmp_path: Path):
    folder = save(tmp_path, TOKENIZER, PATH, **ENDS[case])
    expected = transformers_says(folder, PATH[0])
    expected = expected[: expected.index(0) + 1] if 0 in expected else expected
    engine = neoxlib.load(folder)
    found = engine.generate([PATH[:1]], max_new_tokens=16)[0]
    assert found.token_ids == expected and found.finish_reason == "stop"
    assert expected[-1] in engine.describe()["end_of_text"]
    assert found.text == AutoTokenizer.from_pretrained(folder).decode(
        expected[:-1], skip_special_tokens=True
    )


@pytest.mark.parametrize("repeated", [False, True])
def test_an_end_in_config_that_is_ordinary_text_in_the_tokenizer_ends_none_and_is_told(
    repeated: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """As Polyglot-Ko has it; its generation_config.json repeats config.json."""
    made = {"generation": {"_from_model_config": True, "eos_token_id": LETTER}} if repeated else {}
    folder = save(tmp_path, TOKENIZER, PATH, eos_token_id=LETTER, **made)
    assert transformers_says(folder, PATH[0])[-1] == LETTER
    engine = neoxlib.load(folder)
    assert engine.generate([PATH[:1]], max_new_tokens=16)[0].token_ids == PATH[1:]
    assert (engine.describe()["end_of_text"], engine.describe()["not_end_of_text"]) == (
        [0],
        [LETTER],
    )
    assert f"config.json says {LETTER} 'v', an ordinary token there, which ends none" in caplog.text
    row = model_rows(folder)[2]
    assert row.status == "WARN" and f"{LETTER} 'v', is ordinary text" in row.found
    stopped = engine.generate([PATH[:1]], max_new_tokens=16, stop_token_ids=LETTER)[0]
    assert stopped.token_ids == transformers_says(folder, PATH[0])


def test_config_says_what_ends_a_text_where_the_tokenizer_names_nothing(tmp_path: Path):
    folder = save(tmp_path, TOKENIZER, PATH, eos_token=None, eos_token_id=LETTER)
    engine = neoxlib.load(folder)
    assert engine.generate([PATH[:1]])[0].token_ids == transformers_says(folder, PATH[0])
    assert engine.tokenizer.eos_token_id == LETTER


def test_several_ends_are_told_where_the_model_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = save(tmp_path, TOKENIZER, PATH, eos_token_id=[0, TALK])
    with caplog.at_level(logging.INFO, logger="neoxlib"):
        neoxlib.load(folder)
    assert f"a text ends at any of 0 '{END}', {TALK} '{USER}'" in caplog.text
    assert (
        model_rows(folder)[2].status == "OK" and f"{TALK} '{USER}'" in model_rows(folder)[2].found
    )


def test_a_config_with_a_beginning_and_no_end_of_text_is_read(tmp_path: Path):
    others = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"), 1)
    folder = save(tmp_path, TOKENIZER, PATH, eos_token_id=..., **others)
    assert (
        neoxlib.load(folder).generate([PATH[:1]])[0].token_ids == PATH[1:]
    )  # and not at transformers' default, 2


@pytest.mark.parametrize(
    "bad", ["0", -1, 320, True, 1.0, [0, "x"], [0, 999], [[0]], {"a": 1}, [None]], ids=str
)
@pytest.mark.parametrize("place", ["config.json", "generation_config.json"])
def test_an_end_that_is_no_id_of_the_vocabulary_is_refused_by_file(
    bad: object, place: str, tmp_path: Path
):
    given = (
        {"eos_token_id": bad} if place == "config.json" else {"generation": {"eos_token_id": bad}}
    )
    folder = save(tmp_path, TOKENIZER, **given)
    with pytest.raises(
        ConfigError, match=f"/{place}.*\n?.*eos_token_id is .*it is an id of the vocabulary"
    ) as error:
        neoxlib.load(folder)
    assert repr(bad) in str(error.value)
    assert [row.status for row in model_rows(folder)][2] == "FAIL"


@pytest.mark.parametrize("content", ["", "[1]", "{", "\udcff"], ids=repr)
def test_a_damaged_generation_config_is_refused(content: str, tmp_path: Path):
    folder = save(tmp_path, TOKENIZER)
    (folder / "generation_config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        neoxlib.load(folder)


def test_a_generation_config_that_this_user_may_not_read_is_refused_as_such(tmp_path: Path):
    folder = save(tmp_path, TOKENIZER, generation={"eos_token_id": 0})
    with (
        unreadable(folder / "generation_config.json"),
        pytest.raises(ConfigError, match=r"generation_config\.json cannot be read: Permission"),
    ):
        neoxlib.load(folder)


def with_a_gap() -> Tokenizer:
    """A tokenizer whose added token has an id far past the number of its tokens."""
    raw = json.loads(byte_tokenizer().to_str())
    token = raw["added_tokens"][0] | {"id": 310, "content": USER}
    raw["added_tokens"].append(token)
    raw["model"]["vocab"][USER] = 310
    return Tokenizer.from_str(json.dumps(raw))


def test_a_token_whose_id_is_past_the_number_of_tokens_is_read_and_written(tmp_path: Path):
    tokenizer = with_a_gap()
    path = path_of(tokenizer, "Hi", USER)
    folder = save(tmp_path, tokenizer, path, eos_token=USER, eos_token_id=310)
    engine = neoxlib.load(folder)
    assert (
        engine.generate([path[:1]])[0].token_ids
        == transformers_says(folder, path[0])
        == [path[1], 310]
    )
    assert engine.generate([USER + "H"], max_new_tokens=1)[0].token_ids == [path[1]]
    ids = engine.tokenizer("2 =")["input_ids"]
    assert engine.score(["2 ="], [USER])[0][0] == engine.score_ids([(ids, [310])])[0].logprob


def test_ids_between_that_have_no_token_are_neither_read_nor_written(tmp_path: Path):
    tokenizer = with_a_gap()
    path = [
        *path_of(tokenizer, "Hi"),
        300,
        301,
    ]  # the model would go on with an id that has no token
    engine = neoxlib.load(save(tmp_path, tokenizer, path))
    answer = engine.generate([path[:1]], max_new_tokens=5)[0]
    considered = {token for best in answer.top for token, _ in best}
    assert answer.token_ids[0] == path[1] and not {300, 301} & {*answer.token_ids, *considered}
    for ask in (lambda: engine.generate([[5, 300]]), lambda: engine.score_ids([([5], [300])])):
        with pytest.raises(SettingsError, match=r"300|no token"):
            ask()
    with pytest.raises(SettingsError, match=r"stop_token_ids holds ids \[301\]"):
        engine.generate([[5]], stop_token_ids=[310, 301])
    every = engine.score_ids(
        [([5], [n]) for n in range(engine.tokenizer_size) if n not in engine.limits.holes]
    )
    assert sum(math.exp(score.logprob) for score in every) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "extra", [{"added_tokens.json": {USER: 300}}, {}], ids=["added tokens", "plain"]
)
def test_a_vocabulary_and_merges_are_a_tokenizer_and_survive_a_cut(extra: dict, tmp_path: Path):
    (tmp_path / "model").mkdir()
    folder = save(tmp_path / "model", None, path_of(TOKENIZER, "Habcd", "uvw", END))
    model = json.loads(byte_tokenizer().to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in MERGES) + "\n"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPTNeoXTokenizer", "eos_token": END})
    )
    for name, content in extra.items():
        (folder / name).write_text(json.dumps(content))
    theirs = AutoTokenizer.from_pretrained(folder)
    engine = neoxlib.load(folder)
    for text in ("2 = 4\n\nab yes", "你 😀"):
        assert engine.tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
    assert engine.generate(["H"])[0].text == "abcduvw"
    assert model_rows(folder)[2].status == "OK"
    shard.shard(folder, tmp_path / "cut", 2, progress=False)
    assert neoxlib.load(tmp_path / "cut").generate(["H"])[0].text == "abcduvw"
    assert model_rows(tmp_path / "cut")[2].status == "OK"


def changed(folder: Path, **settings: object) -> Path:
    """Replace settings of a folder's tokenizer.json."""
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.mark.parametrize("dropout", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "kind", ["GPTNeoXTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"]
)
def test_a_dropout_of_training_does_not_change_the_ids_of_a_text(
    kind: str, dropout: float, tmp_path: Path
):
    folder = save(tmp_path, TOKENIZER)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    text = "ab yes 4" * 8
    expected = load_tokenizer(folder)(text)["input_ids"]
    changed(folder, model=json.loads(TOKENIZER.to_str())["model"] | {"dropout": dropout})
    tokenizer = load_tokenizer(folder)
    assert all(tokenizer(text)["input_ids"] == expected for _ in range(8))


def test_a_tokenizer_file_under_another_name_is_refused_by_the_key_that_names_it(tmp_path: Path):
    folder = save(tmp_path, TOKENIZER)
    shutil.copyfile(folder / "tokenizer.json", folder / "tokenizer.4.0.0.json")
    for names in ["tokenizer.json"], ["tokenizer.4.0.0.json"]:
        about = {"tokenizer_class": "TokenizersBackend", "fast_tokenizer_files": names}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
        if names == ["tokenizer.json"]:
            assert load_tokenizer(folder)("ab")["input_ids"] == TOKENIZER.encode("ab").ids
    with pytest.raises(ConfigError, match=r"tokenizer\.4\.0\.0.*fast_tokenizer_files.*rename"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"additional_chat_templates/x.jinja": MOST_BYTES},
        {f"additional_chat_templates/{n}.jinja": MOST_BYTES // 8 for n in range(8)},
        {"vocab.json": MOST_BYTES},
    ],
    ids=["template", "templates", "vocabulary"],
)
def test_files_that_no_tokenizer_fills_are_refused_before_one_is_read(
    sizes: dict[str, int], tmp_path: Path
):
    folder = save(tmp_path, TOKENIZER)
    for name, size in sizes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(ConfigError, match=rf"{next(iter(sizes))[:9]}.* 128 MiB together"):
        load_tokenizer(folder)


def replace(old: dict[str, str], new: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": old, "content": new}


def sequence(key: str, *steps: dict) -> dict[str, object]:
    return {"type": "Sequence", key: list(steps)}


DOUBLED = replace({"String": "a"}, "aa")
NORMALIZERS = {
    "doubled": [DOUBLED] * 7,
    "in sequences": [sequence("normalizers", DOUBLED)] * 7,
    "regex": [replace({"Regex": ""}, "-")] * 7,
    "long": [replace({"String": "a"}, "a" * 65)],
    "prepended": [{"type": "Prepend", "prepend": "a" * 64}],
    "bytes": [{"type": "ByteLevel"}] * 4,
}


@pytest.mark.parametrize("case", NORMALIZERS)
def test_steps_that_lengthen_a_text_without_measure_are_refused(case: str, tmp_path: Path):
    normalizer = sequence("normalizers", *NORMALIZERS[case])
    folder = changed(save(tmp_path, TOKENIZER), normalizer=normalizer)
    with pytest.raises(ConfigError, match=r"tokenizer\.json.* more than 64 times as long"):
        load_tokenizer(folder)


def test_a_decoder_that_lengthens_a_text_without_measure_is_refused(tmp_path: Path):
    decoder = sequence("decoders", *[replace({"String": " "}, "  ")] * 34)
    folder = changed(save(tmp_path, TOKENIZER), decoder=decoder)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: its decoder .* 64 times"):
        load_tokenizer(folder)


def test_steps_that_lengthen_a_text_a_little_are_taken(tmp_path: Path):
    """As many as sentencepiece's tokenizers have, and more that lengthen nothing."""
    few = [replace({"Regex": " {2,}"}, " "), {"type": "Prepend", "prepend": "a"}]
    same = [replace({"String": letter}, letter) for letter in "abcdefgh" * 4]
    normalizer = sequence("normalizers", *few, *same)
    folder = changed(save(tmp_path, TOKENIZER), normalizer=normalizer)
    assert load_tokenizer(folder)("b")["input_ids"] == [TOKENIZER.token_to_id("ab")]


TOO_MANY_TRIES = {"Regex": "(a+)+$"}
SPLIT = {"type": "Split", "pattern": TOO_MANY_TRIES, "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": TOO_MANY_TRIES, "content": "a"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
FAILING = "ba" * 2 + "a" * 40 + "!"


@pytest.mark.parametrize(
    "step",
    [
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}},
        {"normalizer": REPLACE},
    ],
    ids=["pre_tokenizer", "normalizer"],
)
def test_a_text_on_which_a_step_of_the_tokenizer_fails_is_refused_by_name(
    step: dict, tmp_path: Path
):
    engine = neoxlib.load(changed(save(tmp_path, TOKENIZER, PATH), **step))
    for ask in (
        lambda: engine.generate([FAILING], max_new_tokens=1),
        lambda: engine.score([FAILING], ["a"]),
        lambda: engine.score(["H"], [FAILING]),
    ):
        with pytest.raises(ConfigError, match=r"tokenizer\.json .*retry-limit.*shorter text"):
            ask()
    assert engine.generate(["H"])[0].token_ids == PATH[1:]


def test_an_answer_on_which_the_decoder_fails_is_refused_by_name(tmp_path: Path):
    steps = [{"type": "Fuse"}, REPLACE]
    folder = changed(save(tmp_path, TOKENIZER), decoder={"type": "Sequence", "decoders": steps})
    pieces = Pieces(load_tokenizer(folder), skip_special_tokens=True)
    with pytest.raises(ConfigError, match=r"tokenizer\.json .*retry-limit"):
        for token in TOKENIZER.encode(FAILING).ids:
            pieces.push(token)
        pieces.rest()


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_of_a_tokenizer_is_refused(name: str, tmp_path: Path):
    folder = save(tmp_path, None)
    (folder / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"has no (vocab\.json|merges\.txt)"):
        neoxlib.load(folder)
    assert model_rows(folder)[2].status == "FAIL"


def test_a_folder_without_tokenizer_continues_and_scores_ids(tmp_path: Path):
    folder = save(tmp_path, None, PATH, eos_token_id=[0, TALK])
    engine = neoxlib.load(folder)
    shown = []
    answer = engine.generate([PATH[:1]], stream=lambda *piece: shown.append(piece))[0]
    assert answer.token_ids == transformers_says(folder, PATH[0])
    assert (answer.text, answer.finish_reason, shown) == ("", "stop", [])
    assert engine.generate([PATH[:1]], stop_token_ids=[PATH[2]])[0].token_ids == PATH[1:3]
    assert engine.score_ids([(PATH[:2], PATH[2:4])])[0].greedy
    for ask in (
        lambda: engine.generate(["H"]),
        lambda: engine.score([[1]], ["a"]),
        lambda: engine.tokenizer,
    ):
        with pytest.raises(ConfigError, match="has no tokenizer"):
            ask()
    with pytest.raises(SettingsError, match="use stop_token_ids"):
        engine.generate([PATH[:1]], stop="a")


def test_added_tokens_that_have_no_row_are_told_and_the_rest_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    tokenizer = byte_tokenizer(USER, *(f"<x{n}>" for n in range(80)))
    folder = save(tmp_path, tokenizer, PATH)
    engine = neoxlib.load(folder)
    assert "the model has no row for 24 added token(s)" in caplog.text and "'<x56>'" in caplog.text
    assert engine.generate(["H"])[0].token_ids == PATH[1:]
    with pytest.raises(SettingsError, match=r"not among the tokenizer's 0\.\.319"):
        engine.generate(["H<x79>"])
    row = model_rows(folder)[2]
    assert row.status == "WARN" and "no row for <x56>" in row.found and row.repair


def test_a_tokenizer_with_more_words_than_rows_belongs_to_another_model(tmp_path: Path):
    folder = save(tmp_path, byte_tokenizer(), vocab_size=260)
    with pytest.raises(
        ConfigError, match="has 263 ids, the model 260 rows: it belongs to another model"
    ):
        neoxlib.load(folder)
    assert model_rows(folder)[2].status == "FAIL"


STOPS = [
    "d",
    "cd",
    "d" + USER,
    USER,
    "<|U",
    "R|>u",
    "|>uv",
    ">",
    "uv",
    "bcd" + USER + "u",
    "w" + END,
    END,
    "zz",
]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("skip", [True, False])
def test_a_stop_string_ends_a_row_where_it_does_for_transformers(
    stop: str, skip: bool, tmp_path: Path
):
    """Its text is cut before the stop string; transformers itself cuts nothing."""
    folder = save(tmp_path, TOKENIZER, PATH)
    engine = neoxlib.load(folder)
    pieces: list[str] = []
    found = engine.generate(
        [PATH[:1]],
        stop=stop,
        skip_special_tokens=skip,
        stream=lambda _, piece: pieces.append(piece),
    )[0]
    settings = {"stop_strings": [stop], "tokenizer": engine.tokenizer}
    assert found.token_ids == transformers_says(folder, PATH[0], **settings)
    whole = engine.tokenizer.decode(found.token_ids).partition(stop)[0]
    expected = whole if not skip else whole.replace(USER, "").replace(END, "")
    if skip and stop in ("R|>u", "|>uv", ">"):  # what is left of the special token is no text
        expected = "abcd"
    assert found.text == "".join(pieces) == expected and found.finish_reason == "stop"
