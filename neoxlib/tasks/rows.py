"""Records as files have them → questions as neoxlib has them: texts under fixed names, checked cell by cell."""

import math
from collections import Counter
from typing import Any

from neoxlib.tasks.benchmarks import Benchmark
from neoxlib.tasks.table import File, Record, read_table

Row = dict[str, str]
LOST = "\ufffd"  # what a decoder writes for a character that it could not read


def read_rows(
    path: File, benchmark: Benchmark, labelled: bool = True, explained: bool = False
) -> tuple[list[Row], list[str]]:
    """Rows of `id`, the benchmark's columns, `answer` (and `explanation`), and every problem as `folder/file:row: …`.

    Files without ids count their questions from 0. A file with any problem gives the rows that could be read, and its
    problems; the caller refuses it.
    """
    columns = (*benchmark.columns, "answer", *(["explanation"] if explained else []))
    headerless = (*benchmark.columns, "answer") if benchmark.headerless else ()
    records, problems = read_table(path, headerless)
    rows = [(number, _row(record, benchmark, index)) for index, (number, record) in enumerate(records)]
    needed = columns if labelled else tuple(c for c in columns if c != "answer")
    missing, absent = _missing(rows, needed)
    problems += missing
    for number, row in rows:
        found = _cells(row, [c for c in needed if c not in absent], benchmark.choices)
        problems += [f"{number}: {problem}" for problem in found]
    problems += _twice(rows)
    kept = [{c: row.get(c, "") for c in dict.fromkeys(("id", *columns))} for _, row in rows]
    return kept, [f"{label(path)}:{problem}" for problem in sorted(problems, key=_number)]


def label(path: File) -> str:
    """What problems call a file: its folder and name."""
    return f"{path.parent.name}/{path.name}"


def _row(record: Record, benchmark: Benchmark, index: int) -> Row:
    """Texts under one set of names, whoever exported the file."""
    record = dict(record)
    choices = record.pop("choices", None)
    if isinstance(choices, list) and len(choices) == len(benchmark.choices):
        record |= dict(zip(benchmark.choices, choices, strict=True))
    if "answer" not in record and "label" in record:  # SuperGLUE's name
        record["answer"] = record["label"]
    if "answer" in record:
        record["answer"] = _answer(record["answer"], benchmark.choices)
    if "passage" in record and record.get("title"):  # SuperGLUE has both in one, and lm-eval asks with both
        record["passage"] = f"{record['title']} -- {record['passage']}"
    if "id" not in benchmark.columns:
        record["id"] = record.get("id", record.get("idx", index))
    return {name: _text(value) for name, value in record.items() if isinstance(name, str)}


def _answer(value: Any, choices: tuple[str, ...]) -> Any:
    """Exports number the choices from 0; a bool is the number of no and yes; -1 says that there is none."""
    if value == -1:
        return ""
    return choices[value] if isinstance(value, int) and 0 <= value < len(choices) else value


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _missing(rows: list[tuple[int, Row]], needed: tuple[str, ...]) -> tuple[list[str], set[str]]:
    """Columns that no row has, in one line; cells that are not there in one row only are its own problem."""
    absent = {c for c in needed if rows and not any(c in row for _, row in rows)}
    if not absent:
        return [], set()
    found = ", ".join(rows[0][1])[:200]
    return [f"1: column(s) {', '.join(c for c in needed if c in absent)} missing; found: {found}"], absent


def _cells(row: Row, needed: list[str], choices: tuple[str, ...]) -> list[str]:
    problems = [f"{column} is empty" for column in needed if not row.get(column, "").strip()]
    answer = row.get("answer", "")
    if answer.strip() and answer not in choices:
        problems.append(f"answer is {answer[:20]!r}; expected one of {', '.join(choices)}")
    for column in needed:
        if bad := [sign for sign in (LOST, "\0") if sign in row.get(column, "")]:
            problems.append(f"{column} has the sign U+{ord(bad[0]):04X}: text was lost when the file was written")
    return problems


def _twice(rows: list[tuple[int, Row]]) -> list[str]:
    """Ids that an earlier row has already."""
    counts, first, problems = Counter(row.get("id", "") for _, row in rows), {}, []
    for number, row in rows:
        name = row.get("id", "")
        if name.strip() and counts[name] > 1 and first.setdefault(name, number) != number:
            problems.append(f"{number}: id {name!r} is already in row {first[name]}")
    return problems


def _number(problem: str) -> int:
    return int(problem.partition(":")[0])
