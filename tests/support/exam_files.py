"""A made-up exam in C-Eval's layout, small enough to read, and ways to spoil it."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from neoxlib.errors import DataError
from neoxlib.exam import load_task

MAPPING = {
    "tiny_sums": ["Tiny Sums", "小算术", "STEM"],
    "colours": ["Colours", "颜色", "Other"],
}
HEADER = ["id", "question", "A", "B", "C", "D", "answer"]
ROWS = {
    "tiny_sums": [
        ["0", "1+1=____", "2", "3", "4", "5", "A"],
        ["1", "2+1=____", "1", "3", "5", "7", "B"],
        ["2", "4-1=____", "9", "8", "3", "1", "C"],
    ],
    "colours": [
        ["0", "天是____", "红", "蓝", "绿", "黑", "B"],
        ["1", "草是____", "None", "NA", "绿", "白", "C"],
    ],
}
DEV = {
    "tiny_sums": [
        ["0", "1+2=____", "3", "4", "5", "6", "A", "加法"],
        ["1", "5-5=____", "7", "1", "2", "0", "D", "减法"],
    ],
    "colours": [
        ["0", "雪是____", "白", "黑", "红", "蓝", "A", "看"],
        ["1", "炭是____", "白", "黑", "红", "蓝", "B", "看"],
    ],
}


def csv_text(rows: list[list[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue()


def write_exam(root: Path, mapping: dict | None = MAPPING) -> Path:
    """dev, val and (without answers) test; `mapping` None leaves subject_mapping.json out."""
    for split in ("dev", "val", "test"):
        (root / split).mkdir(parents=True)
    for subject, rows in ROWS.items():
        put(root / "val" / f"{subject}_val.csv", csv_text([HEADER, *rows]))
        put(
            root / "test" / f"{subject}_test.csv",
            csv_text([HEADER[:-1], *(row[:-1] for row in rows)]),
        )
        put(
            root / "dev" / f"{subject}_dev.csv", csv_text([[*HEADER, "explanation"], *DEV[subject]])
        )
    if mapping is not None:
        put(root / "subject_mapping.json", json.dumps(mapping))
    return root


def put(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.write_bytes(text.encode(encoding))


MMLU_ROWS = [
    ["What is 1+1?", "None", "2", "3, or 4", "NA", "B"],
    ["A line\nand another?", "w", "x", "y", "z", "D"],
]
MMLU_COLUMNS = ["question", "A", "B", "C", "D"]


def write_mmlu(root: Path, header: bool = False) -> Path:
    """dev and test of two subjects as hendrycks' archive has them, without a line of names."""
    for split in ("dev", "test"):
        (root / split).mkdir(parents=True)
        for subject in ("anatomy", "world_religions"):
            names = [[*MMLU_COLUMNS, "answer"]] if header else []
            put(root / split / f"{subject}_{split}.csv", csv_text([*names, *MMLU_ROWS]))
    return root


def mmlu(root: Path, **asked) -> pd.DataFrame:
    return load_task("mmlu", root, **{"split": "test", "shots": 0} | asked).questions


def problems(task: str, root: Path, **asked) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_task(task, root, **{"shots": 0} | asked)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def parquet(path: Path, rows: list[dict]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'neoxlib[eval]'")
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path
