"""Answers on disk as they come: one JSON line per question, so that a killed run can continue.

The first line identifies the run. Every line carries a checksum of its own.
"""

import hashlib
import json
import zlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neoxlib.errors import DataError, SettingsError
from neoxlib.exam.data.load import Task
from neoxlib.exam.profiles import PROFILES, Profile
from neoxlib.exam.question import Answer
from neoxlib.files import append, replace, whole_lines
from neoxlib.forms import TEXT, Kind, parse, problems
from neoxlib.machine import environment

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference

NAME = "journal.jsonl"
# Rules that were implied by a profile's name before they became fields of it. The key has them
# only if they differ from what the name implies: earlier journals remain valid.
IMPLIED = ("whole_vocabulary", "split_may_differ")
# Of what an engine says of itself: other sums, and so other last bits of an answer.
LOADED = ("world_size", "device", "backend", "compile", "graph", "threads")
CODE = ("torch", "torch-npu", "git")
# Of float32, so no larger; rounding may lift the logarithm of a probability of 1 above 0.
LOGPROB = Kind(
    "the logarithm of a probability",
    lambda value: type(value) in (int, float) and -3.5e38 < value <= 1,
)
ENTRY = {"subject": TEXT, "id": TEXT, "prompt": TEXT, "logprobs": [LOGPROB], "text": TEXT}
_REPAIR = (
    "the file was damaged: delete this line to have its question asked again (line 1: the file)"
)


class QuestionKey(NamedTuple):
    """Identifies a question: results.KEY and the prompt; another text is another question."""

    subject: str
    id: str
    prompt: str  # SHA-256 of the text


def question_key(subject: str, number: str, prompt: str) -> QuestionKey:
    """The key under which the answer to a question is kept."""
    return QuestionKey(subject, number, _sha256(prompt))


def key(
    engine: "Inference", profile: Profile, task: Task, limit: int | None = None
) -> dict[str, Any]:
    """Everything that answers depend on, to the last bit: runs with the same key may share them."""
    about = engine.describe()
    tokenizer = engine.tokenizer.backend_tokenizer.to_str()
    return {
        "weights": about.get("fingerprint"),
        "tokenizer": _sha256(tokenizer),
        "dtype": about.get("dtype"),
        "quant": about.get("quant"),
        "max_seq_len": engine.max_seq_len,
        "loaded": {name: about.get(name) for name in LOADED},
        "code": _code(),
        **exam_key(profile, task, limit),
    }


def exam_key(profile: Profile, task: Task, limit: int | None = None) -> dict[str, Any]:
    """The part of `key` that is known without a model: the rules, and the questions asked by them.

    Runs may ask other subjects. Another limit makes other batches, which round otherwise.
    """
    texts = task.questions.astype(str)
    questions = {
        subject: [rows.to_csv(index=False), repr(task.examples.get(subject))]
        for subject, rows in texts.groupby("subject", sort=False)
    }
    digests = {subject: _sha256("\n".join(parts))[:16] for subject, parts in questions.items()}
    asked = {"split": task.split, "limit": limit or 0, "questions": digests}
    return {"profile": _rules(profile)} | asked


@cache
def _code() -> dict[str, Any]:
    """The versions that this process runs; a commit made meanwhile changes nothing."""
    found = environment.describe("cpu")
    return {name: found[name] for name in CODE}


def _rules(profile: Profile) -> dict[str, Any]:
    """The profile's rules with the types that JSON reads back, without what its name implies."""
    rules = json.loads(json.dumps(asdict(profile)))
    named = next((row for row in PROFILES if row.name == profile.name), None)
    for rule in IMPLIED:
        if rules[rule] == getattr(named, rule, False):
            del rules[rule]
    return rules


class Journal:
    """The journal of one run. `answers` has those of this run and of the one it continues.

    Raises SettingsError for an earlier journal of another key: all that differs is listed; and
    DataError, as `file:line`, for a damaged one. A last line that a kill cut off is left out.
    """

    def __init__(
        self, path: str | Path, key: dict[str, Any], resume: str | Path | None = None
    ) -> None:
        self.path = Path(path)
        self.answers = read_answers(find(resume), key) if resume else {}
        if self.path.exists():
            self.answers |= read_answers(self.path, key)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace(self.path, (_line({"answers of": key}) + _lines(self.answers)).encode(), ".part")
        self.file = self.path.open("ab")

    def add(self, answers: dict[QuestionKey, Answer]) -> None:
        """Add a batch of answers; when this returns they are on disk."""
        self.answers |= answers
        append(self.file, _lines(answers).encode())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def find(resume: str | Path) -> Path:
    """The journal of an earlier run, given as its folder or as the file itself.

    Raises SettingsError if it does not exist.
    """
    path = Path(resume)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise SettingsError(
            f"no {NAME} in {resume}; to go on with an earlier run give the folder of that run"
        )
    return path


def read_answers(path: Path, key: dict[str, Any]) -> dict[QuestionKey, Answer]:
    """The answers of a journal whose key is `key`; Journal says what is refused."""
    lines = whole_lines(path.read_bytes())
    records = [_checked(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    if not records:
        return {}
    theirs = records[0].get("answers of")
    if not isinstance(theirs, dict):
        raise DataError(f"{path}:1: does not say whose answers these are; {_REPAIR}")
    if lines := _differences(theirs, key):
        raise SettingsError(
            f"{path} has answers of another run, which cannot be used:\n  " + "\n  ".join(lines)
        )
    choices = len(key["profile"]["answers"])  # none if answers are written
    numbered = enumerate(records[1:], start=2)
    return dict(_entry(record, choices, f"{path}:{number}") for number, record in numbered)


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Say in what two keys differ; other rules show other examples, which is no news then."""
    same_rules = all(theirs.get(name) == ours.get(name) for name in ("profile", "split"))
    names = [name for name in ours if name != "questions" or same_rules]
    told = (_difference(name, theirs.get(name), ours[name]) for name in names)
    return [text for text in told if text]


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """In what one entry of a key differs; "" if it does not.

    Subjects that only one of the runs asks are no difference.
    """
    if theirs == ours:
        return ""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        there = "not recorded" if theirs is None else theirs
        return f"{name}: {there} there, {ours} here"
    if name == "questions":
        other = [subject for subject in ours if theirs.get(subject, ours[subject]) != ours[subject]]
        return f"{name}: those of {', '.join(other)} are others, or their examples" * bool(other)
    parts = [part for part in {**theirs, **ours} if theirs.get(part) != ours.get(part)]
    return f"{name}: " + "; ".join(
        f"{part} {theirs.get(part)!r} there, {ours.get(part)!r} here" for part in parts
    )


def _entry(record: dict[str, Any], choices: int, where: str) -> tuple[QuestionKey, Answer]:
    wrong = problems(record, ENTRY)
    if not wrong and (count := len(record["logprobs"])) != choices:
        wrong = [f"it has {count} log-probabilities, expected {choices}"]
    if wrong:
        what = "; ".join(wrong)
        raise DataError(f"{where}: is no answer to a question ({what}); {_REPAIR}")
    question = QuestionKey(*(record[name] for name in QuestionKey._fields))
    return question, Answer(tuple(record["logprobs"]), record["text"])


def _lines(answers: dict[QuestionKey, Answer]) -> str:
    return "".join(
        _line(question._asdict() | asdict(answer)) for question, answer in answers.items()
    )


def _line(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    return f'{{"crc": "{zlib.crc32(text.encode()):08x}", "line": {text}}}\n'


def _checked(line: bytes, where: str) -> dict[str, Any]:
    """The record of a line. Raises DataError unless the line is as it was written."""
    try:
        record = parse(line, halves=True)["line"]
        whole = isinstance(record, dict) and line.decode() == _line(record)[:-1]
    except (ValueError, KeyError, TypeError):  # a UnicodeDecodeError is a ValueError
        whole = False
    if not whole:
        raise DataError(f"{where}: is not as it was written; {_REPAIR}")
    return record


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
