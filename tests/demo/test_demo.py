"""The shipped model: its size, its accuracy, and its exam, which training has not seen."""

import csv
import json
import re
import sys
import tomllib
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from setuptools import find_packages
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from neoxlib.demo import DOCUMENTS, EXAM_DIR, MODEL_DIR, PROMPTS, UNSEEN, UNSEEN_SEED, unseen_texts
from neoxlib.demo.making import corpus, exam, make, measure, unseen
from neoxlib.demo.making.facts import SUBJECTS

LIMIT = 8_000_000  # bytes
COLUMNS = {
    "dev": ["id", "question", "A", "B", "C", "D", "answer", "explanation"],
    "val": ["id", "question", "A", "B", "C", "D", "answer"],
    "test": ["id", "question", "A", "B", "C", "D"],
}


def rows(subject: str, split: str) -> list[dict[str, str]]:
    path = EXAM_DIR / split / f"{subject}_{split}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def subjects() -> dict[str, list[str]]:
    return json.loads((EXAM_DIR / "subject_mapping.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return GPTNeoXForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def test_everything_that_ships_is_at_most_eight_megabytes():
    files = [
        path
        for path in Path(MODEL_DIR).parent.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert sum(path.stat().st_size for path in files) <= LIMIT


def test_the_checkpoint_is_spelled_as_gpt_neox_20b():
    config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPTNeoXForCausalLM"]
    assert {"rotary_pct", "rotary_emb_base", "use_parallel_residual"} <= set(config)
    assert config["hidden_act"] == "gelu_fast" and config["eos_token_id"] == 0
    assert config["num_attention_heads"] % 8 == 0  # any of 1, 2, 4, 8 ranks


def test_there_are_padding_rows_after_the_tokenizers_last_id(model, tokenizer):
    assert len(tokenizer) < model.config.vocab_size


def test_no_bias_is_zero(model):
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert tensor.abs().max() > 1e-3, name


def test_every_subject_has_its_three_files_and_every_class_a_subject():
    assert {row[2] for row in subjects().values()} == {
        "STEM",
        "Social Science",
        "Humanities",
        "Other",
    }
    for split in COLUMNS:
        assert {path.name for path in (EXAM_DIR / split).iterdir()} == {
            f"{key}_{split}.csv" for key in subjects()
        }


@pytest.mark.parametrize("split", COLUMNS)
def test_columns_and_ids_are_those_of_ceval(split):
    for subject in subjects():
        table = rows(subject, split)
        assert list(table[0]) == COLUMNS[split]
        assert [row["id"] for row in table] == [str(i) for i in range(len(table))]
        assert all(value for row in table for value in row.values())


def test_options_differ_and_answers_are_balanced():
    for subject in subjects():
        for row in rows(subject, "dev") + rows(subject, "val") + rows(subject, "test"):
            assert len({row[letter] for letter in "ABCD"}) == 4
        answers = [row["answer"] for row in rows(subject, "val")]
        assert max(map(answers.count, "ABCD")) - min(map(answers.count, "ABCD")) <= 1


def test_the_right_option_is_not_told_by_its_length():
    longest = [
        len(row[row["answer"]]) == max(len(row[letter]) for letter in "ABCD")
        for subject in subjects()
        for row in rows(subject, "val")
        if len({len(row[letter]) for letter in "ABCD"}) > 1
    ]
    assert sum(longest) / len(longest) < 0.5


def test_no_question_is_asked_twice():
    for subject in subjects():
        stems = [row["question"] for split in COLUMNS for row in rows(subject, split)]
        assert len(stems) == len(set(stems))


def test_the_exam_on_disk_is_the_one_the_script_writes(tmp_path):
    exam.write_exam(tmp_path)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    shipped = {path.relative_to(EXAM_DIR): path.read_bytes() for path in EXAM_DIR.rglob("*.*")}
    assert written == shipped


def test_the_unseen_texts_on_disk_are_those_that_the_script_writes(tmp_path):
    unseen.write_unseen(tmp_path / "unseen.txt")
    assert (tmp_path / "unseen.txt").read_bytes() == UNSEEN.read_bytes()


def test_the_unseen_texts_are_documents_of_the_corpus_one_by_one():
    assert unseen_texts() == list(islice(corpus.documents(UNSEEN_SEED), DOCUMENTS))


def test_the_wheel_has_the_data_and_not_how_they_were_made():
    root = Path(make.__file__).parents[3]
    setup = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_packages(str(root), **setup["packages"]["find"])
    assert "neoxlib.demo" in packages
    assert not [name for name in packages if name.startswith("neoxlib.demo.making")]
    data = [
        path
        for glob in setup["package-data"]["neoxlib"]
        for path in Path(root, "neoxlib").glob(glob)
    ]
    assert {UNSEEN, MODEL_DIR / "config.json", EXAM_DIR / "subject_mapping.json"} <= set(data)


def test_nothing_outside_imports_how_the_data_were_made():
    package = Path(make.__file__).parents[2]
    outside = [path for path in package.rglob("*.py") if "making" not in path.parts]
    assert not [
        path
        for path in outside
        if re.search("import .*making|from .*making", path.read_text("utf-8"))
    ]


def test_a_new_model_replaces_the_shipped_one():
    assert make.HERE / "model" == MODEL_DIR and make.HERE / "ceval" == EXAM_DIR


def test_a_fact_that_the_exam_asks_is_never_asked_with_options_in_training():
    asked, held = corpus.split_facts()
    for subject in SUBJECTS:
        trained = {
            corpus.spoken(ask, x) for relation, x, _ in asked[subject.key] for ask in relation.ask
        }
        examined = {row["question"] for split in COLUMNS for row in rows(subject.key, split)}
        held_out = {
            corpus.spoken(ask, x) for relation, x, _ in held[subject.key] for ask in relation.ask
        }
        assert examined <= held_out and not trained & held_out


def test_what_the_exam_asks_is_asked_in_the_training_text_without_options_only():
    stems = {
        row["question"]
        for subject in subjects()
        for split in COLUMNS
        for row in rows(subject, split)
    }
    with_options = set()
    cards = set()
    for document in islice(corpus.documents(seed=1000), 5000):
        for line, following in pairwise(document.splitlines()):
            (with_options if following.startswith("A. ") else cards).add(
                line.removeprefix("问题：")
            )
    assert not stems & with_options
    assert stems & cards  # it has to learn these facts somewhere


def test_the_corpus_is_the_same_for_the_same_seed():
    first, again, other = (list(islice(corpus.documents(seed), 50)) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    "text", ["The panda eats bamboo.", "熊猫住在竹林。", "狗 🐕 and 龘 ẞ\n\t\n", "A. 甲\nB. 乙"]
)
def test_the_tokenizer_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("letter", list("ABCD"))
def test_an_answer_letter_is_one_token(tokenizer, letter):
    assert len(tokenizer.encode(letter)) == len(tokenizer.encode(" " + letter)) == 1
    cue = "答案："
    assert tokenizer.encode(cue + letter) == tokenizer.encode(cue) + tokenizer.encode(letter)


def test_the_tokenizer_ends_a_text_with_id_zero(tokenizer):
    assert tokenizer.eos_token_id == 0 and tokenizer.convert_ids_to_tokens(0) == "<|endoftext|>"


def test_a_five_shot_prompt_fits_in_five_hundred_tokens(tokenizer):
    for subject in SUBJECTS:
        splits = exam.questions(subject.key)
        prompts = [measure.prompt(subject, splits["dev"], question) for question in splits["val"]]
        assert max(len(tokenizer.encode(text)) for text in prompts) <= 500


@pytest.mark.parametrize("shots", [0, 5])
def test_held_out_questions_are_answered_far_above_guessing(shots):
    accuracy = measure.measure(MODEL_DIR, (shots,))[f"{shots}-shot"]
    assert accuracy["all"] >= 0.6
    for category in {subject.category for subject in SUBJECTS}:
        members = [accuracy[subject.key] for subject in SUBJECTS if subject.category == category]
        assert sum(members) / len(members) >= 0.45, category


def test_a_padding_id_is_never_the_most_likely(model, tokenizer):
    for prompt in [*PROMPTS["en"], *PROMPTS["zh"]]:
        ids = torch.tensor([tokenizer.encode(prompt)])
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
        assert written.max() < len(tokenizer)
        assert model(written).logits.argmax(-1).max() < len(tokenizer)


def test_training_json_tells_what_was_measured():
    facts = json.loads((MODEL_DIR / "training.json").read_text(encoding="utf-8"))
    assert {"seconds", "steps", "tokens", "seed", "accuracy", "versions", "parameters"} <= set(
        facts
    )
    assert facts["accuracy"] == measure.measure(MODEL_DIR)


def test_what_lies_where_the_demo_would_go_is_not_deleted(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(sys, "argv", ["make", "--out", str(tmp_path), "--steps", "1"])
    with pytest.raises(SystemExit, match="2"):
        make.main()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
