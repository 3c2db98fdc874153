"""The profile `lm_eval` against lm-evaluation-harness itself: equal prompts and answers.

The harness reads its installed task files, and computes with transformers.
"""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import neoxlib
import neoxlib.demo
from neoxlib.exam import evaluate, get_profile, load_task
from tests.support.lm_eval_tasks import run, transformers_model
from tests.support.oracle_models import make_oracle, save_tokenizer

MODEL = Path(neoxlib.demo.__file__).parent / "model"  # trained, on Chinese letters too
LETTERS = "ABCD"
CEVAL_COLUMNS = ["id", "question", "A", "B", "C", "D", "answer", "explanation"]

# Cells that a careless template would change: blanks at the ends, braces, quotes, and words that
# read as "missing".
CEVAL = {
    "logic": [
        ["“所有S是P”的矛盾命题是____。", "有的S不是P", "所有S不是P", "有的S是P", "无", "A", "矛盾"],
        [" 若p则q，且非q____ ", "p", "非p", "q", "None", "B", "否后"],
        ["{question}与{{A}}____", "{A}", "{{B}}", "{% C %}", "NA", "C", "括号"],
        ['他说"对"，她说____', '"错"', "'对'", "a,b", " 先空", "D", "引号"],
        ["1+1=____", "1", "2", "3", "nan", "B", "算"],
        ["100%的把握是____", "必然", "偶然", "可能", "null", "A", "词"],
        ["空格 在 中间____", "甲 ", " 乙", "丙", "丁", "C", "空"],
    ],
    "law": [
        ["宪法的修改由____提议", "全国人大常委会", "国务院", "法院", "检察院", "A", "宪法"],
        ["民法的____", "主体", "客体", "内容", "形式", "D", "民法"],
        ["刑罚____", "主刑", "附加刑", "两者", "都不", "C", "刑"],
        ["合同自____生效", "成立", "签字", "盖章", "履行", "A", "合同"],
        ["诉讼时效____年", "一", "二", "三", "四", "C", "期"],
    ],
}
MMLU = {
    "abstract_algebra": [
        ["Find the order of {0} in Z_7, e.g. '3'.", "0", "1", "6", "None", "B"],
        [" Every group has\nan identity ", "True", "False", "NA", '"maybe"', "A"],
        ["The ring Z_4 is a field.", "yes", "no, 2*2=0", "{}", "N/A", "B"],
        ["x, y and z commute", "a", "b ", " c", "d", "C"],
    ],
    "high_school_us_history": [
        ["The war ended in", "1863", "1865", "1867", "1870", "B"],
        ["He was", "king", "judge", "priest", "none", "B"],
        ["They wrote", "laws", "poems", "letters", "all of them", "D"],
        ["It cost", "$1", "$2", "5%", "nothing", "A"],
    ],
}
BOOLQ = [
    {
        "question": "is ice water",
        "passage": "Ice is frozen water. It floats.",
        "answer": True,
        "title": "Ice",
    },
    {
        "question": "does {iron} float ",
        "passage": " Iron sinks; cork floats.",
        "answer": False,
        "title": "Iron",
    },
    {
        "question": "is the moon a star",
        "passage": "The moon has no light.",
        "answer": False,
        "title": "Moon",
    },
]


def write_csv(path: Path, header: list[str] | None, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])


def read_csv(path: Path, names: list[str] | None) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, names))


def ceval_rows(folder: Path, subjects: list[str], limit: int = 99) -> dict:
    """The hub's data set of a C-Eval folder."""
    dev = {s: read_csv(folder / "dev" / f"{s}_dev.csv", None) for s in subjects}
    val = {s: read_csv(folder / "val" / f"{s}_val.csv", None)[:limit] for s in subjects}
    return {f"ceval-valid_{s}": {"dev": dev[s], "val": val[s]} for s in subjects}


def mmlu_rows(folder: Path, subjects: list[str], limit: int = 99) -> dict:
    """The same of an MMLU folder: choices as a list, the answer as a number."""

    def read(split: str, subject: str) -> list[dict]:
        cells = read_csv(
            folder / split / f"{subject}_{split}.csv", ["question", *LETTERS, "answer"]
        )
        return [
            {
                "question": c["question"],
                "choices": [c[x] for x in LETTERS],
                "answer": LETTERS.index(c["answer"]),
            }
            for c in cells
        ]

    return {f"mmlu_{s}": {"dev": read("dev", s), "test": read("test", s)[:limit]} for s in subjects}


def cmmlu_rows(folder: Path) -> dict:
    """The same of a CMMLU folder, its columns with capitals."""

    def read(split: str) -> list[dict]:
        rows = read_csv(folder / split / "logical.csv", None)
        return [{name: cell for name, cell in row.items() if name} for row in rows]

    return {"cmmlu_logical": {split: read(split) for split in ("dev", "test")}}


def boolq_rows(folder: Path) -> dict:
    """The same of BoolQ's lines, in SuperGLUE's words."""
    rows = [
        json.loads(line) for line in (folder / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for row in rows:
        row |= {
            "passage": f"{row.pop('title')} -- {row['passage']}",
            "label": int(row.pop("answer")),
        }
    return {"boolq": {"train": rows[:1], "validation": rows}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exams")
    for subject, rows in CEVAL.items():
        numbered = [[str(n), *row] for n, row in enumerate(rows)]
        asked = [row[:-1] for row in reversed(numbered)]
        write_csv(root / "ceval" / "dev" / f"{subject}_dev.csv", CEVAL_COLUMNS, numbered[:5])
        write_csv(root / "ceval" / "val" / f"{subject}_val.csv", CEVAL_COLUMNS[:-1], asked)
    for subject, rows in MMLU.items():
        write_csv(root / "mmlu" / "dev" / f"{subject}_dev.csv", None, rows[:3])
        write_csv(root / "mmlu" / "test" / f"{subject}_test.csv", None, rows[::-1])
    for split, several in (("dev", CEVAL["logic"][:5]), ("test", CEVAL["logic"][::-1])):
        numbered = [[str(n), *row[:-1]] for n, row in enumerate(several)]
        write_csv(
            root / "cmmlu" / split / "logical.csv", ["", "Question", *LETTERS, "Answer"], numbered
        )
    (root / "boolq").mkdir()
    (root / "boolq" / "dev.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in BOOLQ), encoding="utf-8"
    )
    return {name: root / name for name in ("ceval", "mmlu", "cmmlu", "boolq")}


@pytest.fixture(scope="module")
def shipped():
    return neoxlib.load(MODEL), transformers_model(MODEL)


def compare(
    results: pd.DataFrame, expected: dict, choices: str | tuple[str, ...], name: str
) -> None:
    """Compare prompt, log-probabilities, prediction and mark of every question, and the average."""
    assert not results["too_long"].any()
    samples = [(task, sample) for task, several in expected.items() for sample in several]
    assert len(samples) == len(results)
    by_task = results.groupby(results["subject"].map(name.format))
    rows = {task: part.to_dict("records") for task, part in by_task}
    for task, sample in samples:
        row = rows[task].pop(0)
        assert row["prompt"] == sample["arguments"][0][0]
        logprobs = [value for value, _ in sample["filtered_resps"]]
        assert [row[f"logprob_{c}"] for c in choices] == pytest.approx(logprobs, abs=1e-3)
        assert row["predicted"] == choices[logprobs.index(max(logprobs))]
        assert row["correct"] == sample["acc"]
    assert results["correct"].mean() == pytest.approx(
        sum(sample["acc"] for _, sample in samples) / len(samples)
    )


@pytest.mark.parametrize("shots", [0, 3, 5])
def test_ceval_is_answered_as_by_the_harness(folders, shipped, shots):
    engine, harness = shipped
    task = load_task("ceval", folders["ceval"], shots=shots)
    found = evaluate(engine, task, get_profile("lm_eval", "ceval", shots=shots))
    compare(
        found,
        run(harness, ceval_rows(folders["ceval"], ["law", "logic"]), shots),
        LETTERS,
        "ceval-valid_{}",
    )
    assert set(found["shots_used"]) == {shots}


@pytest.mark.parametrize("shots", [0, 3])
def test_mmlu_is_answered_as_by_the_harness(folders, shipped, shots):
    engine, harness = shipped
    task = load_task("mmlu", folders["mmlu"], split="test", shots=shots)
    found = evaluate(engine, task, get_profile("lm_eval", "mmlu", shots=shots))
    compare(found, run(harness, mmlu_rows(folders["mmlu"], list(MMLU)), shots), LETTERS, "mmlu_{}")


@pytest.mark.parametrize("shots", [0, 3])
def test_cmmlu_is_answered_as_by_the_harness(folders, shipped, shots):
    engine, harness = shipped
    task = load_task("cmmlu", folders["cmmlu"], split="test", shots=shots)
    found = evaluate(engine, task, get_profile("lm_eval", "cmmlu", shots=shots))
    compare(found, run(harness, cmmlu_rows(folders["cmmlu"]), shots), LETTERS, "cmmlu_{}")


def test_boolq_is_answered_as_by_the_harness(folders, shipped):
    engine, harness = shipped
    found = evaluate(
        engine, load_task("boolq", folders["boolq"], shots=0), get_profile("lm_eval", "boolq")
    )
    compare(found, run(harness, boolq_rows(folders["boolq"])), ("no", "yes"), "{}")


def test_rows_of_the_vocabulary_that_are_padding_count_as_in_the_harness(folders, tmp_path):
    make_oracle(vocab_size=300, max_position_embeddings=512).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)  # 257 ids
    task = load_task("mmlu", folders["mmlu"], split="test", shots=0)
    found = evaluate(neoxlib.load(tmp_path), task, get_profile("lm_eval", "mmlu", shots=0))
    compare(
        found,
        run(transformers_model(tmp_path), mmlu_rows(folders["mmlu"], list(MMLU))),
        LETTERS,
        "mmlu_{}",
    )


@pytest.fixture(scope="module")
def large_vocabulary(data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A random model under GPT-NeoX-20B's tokenizer and vocabulary, padding included."""
    folder = tmp_path_factory.mktemp("model")
    make_oracle(vocab_size=50432, max_position_embeddings=4096, hidden_size=32).save_pretrained(
        folder
    )
    tokenizer = Tokenizer.from_file(str(data / "neox20b" / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(
        folder
    )
    return neoxlib.load(folder), transformers_model(
        folder, batch_size=1
    )  # it keeps every token's whole distribution


def test_published_ceval_is_answered_as_by_the_harness(data, large_vocabulary):
    (engine, harness) = large_vocabulary
    subjects = ["college_chemistry", "logic"]
    task = load_task("ceval", data / "ceval", subjects=subjects, shots=5)
    found = evaluate(engine, task, get_profile("lm_eval", "ceval"), limit=2)
    compare(
        found, run(harness, ceval_rows(data / "ceval", subjects, 2), 5), LETTERS, "ceval-valid_{}"
    )


def test_published_mmlu_is_answered_as_by_the_harness(data, large_vocabulary):
    (engine, harness) = large_vocabulary
    subjects = ["astronomy", "high_school_statistics"]
    task = load_task("mmlu", data / "mmlu", split="test", subjects=subjects, shots=5)
    found = evaluate(engine, task, get_profile("lm_eval", "mmlu"), limit=3)
    compare(found, run(harness, mmlu_rows(data / "mmlu", subjects, 3), 5), LETTERS, "mmlu_{}")
