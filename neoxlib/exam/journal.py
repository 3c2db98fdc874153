"""Answers as they come, on the disk: one JSON line per question, so that a run that was killed goes on where it was.

The first line says whose answers they are. Every line carries a checksum of its own.
"""

import hashlib
import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.errors import DataError, SettingsError
from neoxlib.exam.profiles import Profile

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference

NAME = "journal.jsonl"
Place = tuple[
    str, str, str
]  # subject, id, and hash of the prompt: another text is another question


@dataclass(frozen=True)
class Answer:
    """What the model said to one question: log-probabilities in the order of the choices, or a text."""

    logprobs: tuple[float, ...] = ()
    text: str = ""


def key(engine: "Inference", profile: Profile) -> dict[str, Any]:
    """What answers hang on: two runs with the same key may share them."""
    about = engine.describe()
    tokenizer = engine.tokenizer.backend_tokenizer.to_str()
    return {
        "weights": about.get("fingerprint"),
        "tokenizer": _sha256(tokenizer),
        "dtype": about.get("dtype"),
        "quant": about.get("quant"),
        "max_seq_len": engine.max_seq_len,
        "profile": json.loads(json.dumps(asdict(profile))),  # as it is read again
    }


def place(subject: str, number: str, prompt: str) -> Place:
    """Where the answer to a question is kept."""
    return subject, number, _sha256(prompt)


class Journal:
    """The journal of one run. `answers` are those it has, of this run and of the one that it goes on with.

    Raises SettingsError where an earlier journal is of another model, tokenizer, profile, dtype, quant or window, and
    DataError, as `file:line`, where one is damaged; its last line may be torn, as by a kill, and is then left out.
    """

    def __init__(
        self, path: str | Path, key: dict[str, Any], resume: str | Path | None = None
    ) -> None:
        self.path = Path(path)
        self.answers = read(find(resume), key) if resume else {}
        if self.path.exists():
            self.answers |= read(self.path, key)
        text = _line({"answers of": key}) + "".join(
            _line(_record(*item)) for item in self.answers.items()
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f"{self.path.name}.part")
        with aside.open("w", encoding="utf-8") as file:
            _put(file, text)
        aside.replace(self.path)
        self.file = self.path.open("a", encoding="utf-8")

    def add(self, answers: dict[Place, Answer]) -> None:
        """Take in a batch of answers; when this returns they are on the disk."""
        self.answers |= answers
        _put(self.file, "".join(_line(_record(*item)) for item in answers.items()))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def find(resume: str | Path) -> Path:
    """The journal of an earlier run, given as its folder or as the file. Raises SettingsError where there is none."""
    path = Path(resume)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise SettingsError(
            f"no {NAME} in {resume}; to go on with an earlier run give the folder of that run"
        )
    return path


def read(path: Path, key: dict[str, Any]) -> dict[Place, Answer]:
    """The answers of a journal whose key is `key`; see Journal for what is refused."""
    *lines, torn = path.read_bytes().split(b"\n")
    del torn  # a whole line ends with a line break
    records = [_checked(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    if not records:
        return {}
    theirs = records[0].get("answers of")
    if not isinstance(theirs, dict):
        raise DataError(f"{path}:1: does not say whose answers these are; {_REPAIR}")
    if different := [name for name in key if theirs.get(name) != key[name]]:
        lines = [_difference(name, theirs.get(name), key[name]) for name in different]
        raise SettingsError(
            f"{path} has answers of another run, which cannot be used:\n  " + "\n  ".join(lines)
        )
    return dict(
        _entry(record, f"{path}:{number}") for number, record in enumerate(records[1:], start=2)
    )


_REPAIR = (
    "the file was damaged: delete this line to have its question asked again (line 1: the file)"
)


def _difference(name: str, theirs: Any, ours: Any) -> str:
    if not isinstance(theirs, dict):
        return f"{name}: {theirs} there, {ours} here"
    parts = [part for part in {**theirs, **ours} if theirs.get(part) != ours.get(part)]
    return f"{name}: " + "; ".join(
        f"{part} {theirs.get(part)!r} there, {ours.get(part)!r} here" for part in parts
    )


def _entry(record: dict[str, Any], where: str) -> tuple[Place, Answer]:
    try:
        return (record["subject"], record["id"], record["prompt"]), Answer(
            tuple(record["logprobs"]), record["text"]
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: is no answer to a question; {_REPAIR}") from error


def _record(place: Place, answer: Answer) -> dict[str, Any]:
    subject, number, prompt = place
    return {
        "subject": subject,
        "id": number,
        "prompt": prompt,
        "logprobs": answer.logprobs,
        "text": answer.text,
    }


def _line(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    return f'{{"crc": "{zlib.crc32(text.encode()):08x}", "line": {text}}}\n'


def _checked(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)["line"]
        whole = isinstance(record, dict) and line.decode() == _line(record)[:-1]
    except (ValueError, KeyError, TypeError):  # a UnicodeDecodeError is a ValueError
        whole = False
    if not whole:
        raise DataError(f"{where}: is not as it was written; {_REPAIR}")
    return record


def _put(file: Any, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
