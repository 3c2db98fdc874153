"""One CSV file of questions → rows of text and a list of what is wrong. Knows nothing of subjects or splits."""

import csv
import io
from collections import Counter
from pathlib import Path

LETTERS = ("A", "B", "C", "D")

Row = dict[str, str]


def read_table(path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> tuple[list[Row], list[str]]:
    """Rows with `columns` (those in `optional` may be absent) and every problem as `folder/file:row: …`.

    Cells stay text: `None`, `NA` and `001` are what they say, line breaks inside quotes are kept. A file with any
    problem gives the rows that could be read, and its problems; the caller refuses it.
    """
    where = f"{path.parent.name}/{path.name}"
    text, problem = _decode(path.read_bytes())
    if problem:
        return [], [f"{where}:{problem}"]
    records, problem = _records(text)
    if problem:
        return [], [f"{where}:{problem}"]
    problems = _header(records[0], columns, optional)
    rows = [] if problems else _rows(records, problems, [c for c in columns if c not in optional])
    return rows, [f"{where}:{problem}" for problem in problems]


def _decode(raw: bytes) -> tuple[str, str]:
    """UTF-8, with or without a byte order mark."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        return "", f"{row}: is not UTF-8 (byte 0x{raw[error.start]:02x}){_looks_like(raw)}; save it as UTF-8"
    return (text, "") if text.strip() else ("", "1: is empty; expected a header and questions")


def _looks_like(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ", it looks like UTF-16"
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return ", it may be GB18030"


def _records(text: str) -> tuple[list[list[str]], str]:
    """Every record, blank ones too, so that the index is the row a spreadsheet shows."""
    records: list[list[str]] = []
    try:
        for record in csv.reader(io.StringIO(text), strict=True):
            records.append(record)
    except csv.Error as error:
        return [], f"{len(records) + 1}: is not valid CSV: {error} (an unclosed quote?)"
    return records, ""


def _header(header: list[str], columns: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
    missing = [c for c in columns if c not in header and c not in optional]
    twice = [c for c, count in Counter(header).items() if count > 1 and c in columns]
    problems = [f"1: column {name!r} appears twice" for name in twice]
    if missing:
        problems.append(f"1: column(s) {', '.join(missing)} missing; found: {', '.join(header)[:200]}")
    return problems


def _rows(records: list[list[str]], problems: list[str], needed: list[str]) -> list[Row]:
    """Well-shaped rows; what is wrong with any row is added to `problems`."""
    header, rows, seen = records[0], [], {}
    for number, record in enumerate(records[1:], start=2):
        if not record:
            continue
        if len(record) != len(header):
            problems.append(f"{number}: has {len(record)} cells, the header has {len(header)} (an unquoted comma?)")
            continue
        row = dict(zip(header, record, strict=True))
        problems += [f"{number}: {problem}" for problem in _cells(row, needed)]
        if row["id"].strip() and seen.setdefault(row["id"], number) != number:
            problems.append(f"{number}: id {row['id']!r} is already in row {seen[row['id']]}")
        rows.append(row)
    if len(records) < 2 or not any(records[1:]):
        problems.append("2: the header is there, the questions are not")
    return rows


def _cells(row: Row, needed: list[str]) -> list[str]:
    problems = [f"{column} is empty" for column in needed if not row[column].strip()]
    answer = row.get("answer", "A")
    if answer.strip() and answer not in LETTERS:
        problems.append(f"answer is {answer[:20]!r}; expected one of {', '.join(LETTERS)}")
    return problems
