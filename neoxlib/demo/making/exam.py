"""The exam in C-Eval's layout: {dev,val,test}/<subject>_<split>.csv and subject_mapping.json."""

import csv
import json
import random
from pathlib import Path

from neoxlib.demo.making.corpus import LETTERS, Question, pose, split_facts
from neoxlib.demo.making.facts import SUBJECTS

SIZES = {"dev": 5, "val": 28, "test": 7}  # questions per subject
COLUMNS = ["id", "question", "A", "B", "C", "D", "answer", "explanation"]
KEPT = {"dev": 8, "val": 7, "test": 6}  # how many of COLUMNS a split has


def questions(key: str) -> dict[str, list[Question]]:
    """Return the splits of a subject: held-out facts, each stem once, answers balanced over A-D."""
    rng = random.Random(key)
    stems = [(fact, ask) for fact in split_facts()[1][key] for ask in fact[0].ask]
    rng.shuffle(stems)
    chosen = iter(stems)
    splits = {}
    for split, size in SIZES.items():
        letters = [LETTERS[i % 4] for i in range(size)]
        rng.shuffle(letters)
        splits[split] = [pose(*next(chosen), rng, letter) for letter in letters]
    return splits


def write_exam(folder: Path) -> None:
    """Write all subjects under `folder`."""
    for split in SIZES:
        (folder / split).mkdir(parents=True, exist_ok=True)
    for subject in SUBJECTS:
        for split, rows in questions(subject.key).items():
            write_csv(folder / split / f"{subject.key}_{split}.csv", rows, KEPT[split])
    mapping = {s.key: [s.english, s.chinese, s.category] for s in SUBJECTS}
    text = json.dumps(mapping, ensure_ascii=False, indent=1) + "\n"
    (folder / "subject_mapping.json").write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: list[Question], columns: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS[:columns])
        for number, question in enumerate(rows):
            explanation = f"1. {question.explanation}"
            row = [number, question.stem, *question.options, question.answer, explanation]
            writer.writerow(row[:columns])
