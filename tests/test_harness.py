"""The model `neoxlib` of lm-evaluation-harness against its model `hf`, request by request."""

from pathlib import Path

import pytest
from lm_eval.api.registry import get_model

import neoxlib.demo
from tests.support.lm_eval_tasks import ask, run, transformers_model
from tests.support.walker import END, USER, byte_tokenizer, path_of, save

WINDOW = 1024
SUM = {"abs": 1e-3, "rel": 1e-6}  # of a thousand tokens or more, which hf adds up in float32
MODEL = Path(neoxlib.demo.__file__).parent / "model"  # trained: it has something to say
ROOT = Path(__file__).parents[1]

EXAMS = {
    "ceval-valid_logic": {
        "dev": [
            {
                "question": "“有的人是学生”是____",
                "A": "特称",
                "B": "全称",
                "C": "单称",
                "D": "否定",
                "answer": "A",
            },
            {"question": "P且非P____", "A": "真", "B": "假", "C": "不定", "D": "空", "answer": "B"},
        ],
        "val": [
            {
                "question": f"{n}加{n}等于____ ",
                "A": str(2 * n),
                "B": "None",
                "C": " 7",
                "D": "负数",
                "answer": "A",
            }
            for n in range(5)
        ],
    },
    "mmlu_anatomy": {
        "dev": [
            {
                "question": "How many hands has a man?",
                "choices": ["One", "Two", "Three", "Four"],
                "answer": 1,
            },
            {
                "question": "The heart pumps",
                "choices": ["air", "bile", "blood", "milk"],
                "answer": 2,
            },
        ],
        "test": [
            {"question": q, "choices": ["left", "right", "both", "neither"], "answer": n % 4}
            for n, q in enumerate(
                ["Where is the liver?", "The spleen lies", "Kidneys lie " + "so " * 500]
            )
        ],
    },
    "boolq": {
        "train": [{"passage": "Iron sinks.", "question": "does iron float", "label": 0}],
        "validation": [
            {"passage": p, "question": q, "label": 1}
            for p, q in [
                ("Snow is frozen water.", "is snow water"),
                ("The moon has no air. " * 200, "can one breathe there"),
            ]
        ],
    },
}
PAGES = {
    "wikitext": {
        split: [
            {"page": " = Neon = \n\n Neon is a gas . \n" * n} for n in (1, 200, 7)
        ]  # the second is three windows long
        for split in ("train", "validation", "test")
    }
}
SUMS = {
    "gsm8k": {
        split: [
            {
                "question": f"Tom has {n} pens. {'He counts. ' * n}How many?",
                "answer": f"{n} #### {n}",
            }
            for n in (2, 5, 400, 3)
        ]
        for split in ("train", "test")
    }
}


@pytest.fixture(scope="module")
def theirs():
    return transformers_model(MODEL)


@pytest.fixture(scope="module", params=[1, 2], ids="world_size={}".format)
def ours(request: pytest.FixtureRequest):
    model = get_model("neoxlib").create_from_arg_obj(
        {"pretrained": str(MODEL), "world_size": request.param, "dtype": "float32"},
        {"batch_size": 3, "device": "cpu"},
    )
    yield model
    model.model.close()


@pytest.mark.parametrize("shots", [0, 2])
def test_every_choice_of_an_exam_is_as_likely_as_for_hf(ours, theirs, shots, caplog):
    exams = EXAMS if shots == 0 else {name: rows for name, rows in EXAMS.items() if name != "boolq"}
    found = run(ours, exams, shots)
    expected = run(theirs, exams, shots)
    assert (
        "lost their beginning" in caplog.text
    )  # there are prompts past the window, and hf loses as much of them
    for task, samples in expected.items():
        assert len(samples) == len(found[task]) == len(list(exams[task].values())[-1])
        for mine, oracle in zip(found[task], samples, strict=True):
            assert mine["arguments"] == oracle["arguments"]
            for (logprob, greedy), (wanted, wanted_greedy) in zip(
                mine["filtered_resps"], oracle["filtered_resps"], strict=True
            ):
                assert logprob == pytest.approx(wanted, abs=1e-3) and greedy == wanted_greedy
            assert mine["acc"] == oracle["acc"]


def test_a_text_longer_than_the_window_is_as_likely_as_for_hf(ours, theirs):
    found = run(ours, PAGES)["wikitext"]
    expected = run(theirs, PAGES)["wikitext"]
    sums = [sample["filtered_resps"][0] for sample in found]
    assert sums == pytest.approx([sample["filtered_resps"][0] for sample in expected], **SUM)
    assert len(ours.tok_encode(PAGES["wikitext"]["test"][1]["page"])) > 2 * WINDOW


@pytest.mark.parametrize("until", [["Question:"], ["\x16", "e"]])
def test_generated_text_is_that_of_hf(ours, theirs, until):
    settings = {"until": until, "max_gen_toks": 30}
    found, expected = (
        run(model, SUMS, shots=1, generation=settings)["gsm8k"] for model in (ours, theirs)
    )
    texts = [sample["resps"][0][0] for sample in found]
    assert texts == [sample["resps"][0][0] for sample in expected]
    assert len(set(texts)) > 1 and any(texts)


def test_odd_requests_are_answered_as_by_hf(ours, theirs):
    end = ours.tokenizer.eos_token
    long = "all of it is gone " * 400 + "now"
    pairs = ask(
        "loglikelihood",
        ("", "start"),
        ("", end + "start"),
        ("trailing blanks  ", "after"),
        ("twice", " the same"),
        ("twice", " the same"),
        (long, " x" * (WINDOW // 2)),
        (end + "begins with it", "?"),
        ("a\n", "\nb"),
    )
    for mine, oracle in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert mine == (pytest.approx(oracle[0], abs=1e-3), oracle[1])
    texts = ask("loglikelihood_rolling", ("",), ("a",), ("b" * WINDOW,), ("c" * (WINDOW + 1),))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        theirs.loglikelihood_rolling(texts), **SUM
    )
    assert (
        ours.loglikelihood([]) == []
        and ours.loglikelihood_rolling([]) == []
        and ours.generate_until([]) == []
    )


def test_what_the_model_itself_says_is_found_greedy(ours):
    [text] = ours.generate_until(
        ask("generate_until", ("The moon is", {"until": [], "max_gen_toks": 4}))
    )
    pairs = ask("loglikelihood", ("The moon is", text), ("The moon is", text + " zzz"))
    assert [greedy for _, greedy in ours.loglikelihood(pairs)] == [True, False]


def test_prompts_that_end_at_the_window_and_empty_ones_are_continued(ours):
    settings = {"until": ["never"], "max_gen_toks": 5}
    full = ours.tokenizer.decode(ours.tok_encode("The moon is bright. " * 300)[: WINDOW - 5])
    texts = [(text, settings) for text in (full, "The lost beginning. " + full, "")]
    whole, cut, begun = ours.generate_until(ask("generate_until", *texts))
    assert len(ours.tok_encode(full)) == WINDOW - 5 and whole == cut and begun


TALK = byte_tokenizer(USER)
PATH = path_of(TALK, "Habcd", USER, "uvw", END)
ENDS = {
    "one": {},
    "several": {"eos_token_id": [0, 263]},
    "an ordinary token": {"eos_token_id": PATH[-3]},
    "as generate has it": {"generation": {"eos_token_id": [PATH[-2], 0]}},
}


@pytest.mark.parametrize("ends", ENDS)
def test_text_ends_at_special_tokens_and_ends_of_text_where_it_ends_for_hf(
    ends: str, tmp_path: Path
):
    """Of each request alone: in a batch `hf` writes on where a row has ended, until all have."""
    folder = save(tmp_path, TALK, PATH, **ENDS[ends])
    mine = get_model("neoxlib")(str(folder), dtype="float32", device="cpu")
    oracle = transformers_model(folder, 1)
    stops = (
        [],
        [USER],
        ["d" + USER],
        ["R|>u"],
        ["du"],
        ["bc", "c"],
        "v",
        [END],
        ["\n\n", USER],
        ["<|"],
        ["vw" + END],
    )
    for until in stops:
        settings = {"until": until, "max_gen_toks": 20}
        wanted = ask(
            "generate_until",
            ("H", settings),
            ("xH", settings),
            ("Hab", settings | {"max_gen_toks": 3}),
        )
        assert mine.generate_until(wanted) == oracle.generate_until(wanted), until


@pytest.fixture(scope="module")
def padded(checkpoint: Path):
    """A random model with more rows than the tokenizer has ids, as published ones have."""
    mine = get_model("neoxlib")(str(checkpoint), dtype="float32", device="cpu")
    return mine, transformers_model(checkpoint)


def test_rows_of_the_vocabulary_that_are_padding_count_as_they_do_for_hf(padded):
    mine, oracle = padded
    pairs = ask("loglikelihood", ("abc", "def"), ("abc", "x"), ("", "begin"))
    for answer, wanted in zip(mine.loglikelihood(pairs), oracle.loglikelihood(pairs), strict=True):
        assert answer == (pytest.approx(wanted[0], abs=1e-3), wanted[1])
