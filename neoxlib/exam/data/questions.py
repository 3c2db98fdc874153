"""Records as files have them → questions as neoxlib has them: texts under fixed names, checked cell by cell."""

import math
from typing import Any

from neoxlib.exam.data.benchmarks import Benchmark
from neoxlib.exam.data.records import Record
from neoxlib.exam.data.sources import Problems, Sheet, Where

Row = dict[str, str]
MORE = tuple("EFGHIJ")  # choices that other exams have beyond four
LOST = "\ufffd"  # what a decoder writes for a character that it could not read


def read_rows(
    sheet: Sheet,
    benchmark: Benchmark,
    labelled: bool = True,
    explained: bool = False,
    from_zero: bool = False,
) -> tuple[list[Row], list[str]]:
    """Rows of `id`, the benchmark's columns, `answer` (and `explanation`), and every problem as `folder/file:row: …`.

    `sheet` is what `Source.read` gives. Records without ids are counted from 0. Answers that are texts of numbers count
    the choices where `from_zero` says so. With any problem the rows are those that could be read; the caller refuses
    them.
    """
    entries, problems = sheet
    columns = (*benchmark.columns, "answer", *(["explanation"] if explained else []))
    rows = [
        (where, _row(record, benchmark, index, from_zero))
        for index, (where, record) in enumerate(entries)
    ]
    needed = columns if labelled else tuple(c for c in columns if c != "answer")
    missing, absent = _missing(rows, needed)
    problems = [*problems, *missing, *_nested(sheet, needed)]
    for where, row in rows:
        found = _cells(row, [c for c in needed if c not in absent], benchmark.choices)
        problems += [(where, problem) for problem in found]
    problems += _twice(rows)
    kept = [{c: row.get(c, "") for c in dict.fromkeys(("id", *columns))} for _, row in rows]
    return kept, [
        f"{where}: {text}" for where, text in sorted(problems, key=lambda problem: problem[0])
    ]


def _row(record: Record, benchmark: Benchmark, index: int, from_zero: bool) -> Row:
    """Texts under one set of names, whoever exported the file."""
    record = dict(record)
    if isinstance(record.get("choices"), list) and benchmark.choices[0] in benchmark.columns:
        record |= dict(zip((*benchmark.choices, *MORE), record.pop("choices"), strict=False))
    if "answer" not in record and "label" in record:  # SuperGLUE's name
        record["answer"] = record["label"]
    if "answer" in record:
        answer = record["answer"]
        numbered = from_zero and isinstance(answer, str) and answer.isdigit()
        record["answer"] = _answer(int(answer) if numbered else answer, benchmark.choices)
    if "passage" in record and record.get(
        "title"
    ):  # SuperGLUE has both in one, and lm-eval asks with both
        record["passage"] = f"{record['title']} -- {record['passage']}"
    if "id" not in benchmark.columns:
        number = record.get("id", record.get("idx"))
        record["id"] = index if number in (None, "") else number
    return {name: _text(value) for name, value in record.items() if isinstance(name, str)}


def _answer(value: Any, choices: tuple[str, ...]) -> Any:
    """Exports number the choices from 0; a bool is the number of no and yes only; -1 says that there is none."""
    if value == -1:
        return ""
    if isinstance(value, bool) and len(choices) > 2:
        return value
    return choices[value] if isinstance(value, int) and 0 <= value < len(choices) else value


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _nested(sheet: Sheet, needed: tuple[str, ...]) -> Problems:
    """Cells that are no text and have none; an answer that is a list is told as any other that is no choice."""
    return [
        (where, f"{name} is a {type(record[name]).__name__}; expected a text")
        for where, record in sheet[0]
        for name in needed
        if name != "answer" and isinstance(record.get(name), (list, dict))
    ]


def _missing(rows: list[tuple[Where, Row]], needed: tuple[str, ...]) -> tuple[Problems, set[str]]:
    """Columns that no row has, in one line; cells that are not there in one row only are its own problem."""
    absent = {c for c in needed if rows and not any(c in row for _, row in rows)}
    if not absent:
        return [], set()
    found = ", ".join(rows[0][1])[:200]
    what = f"column(s) {', '.join(c for c in needed if c in absent)} missing; found: {found}"
    return [(rows[0][0]._replace(row=1), what)], absent


def _cells(row: Row, needed: list[str], choices: tuple[str, ...]) -> list[str]:
    problems = [f"{column} is empty" for column in needed if not row.get(column, "").strip()]
    answer = row.get("answer", "")
    if answer.strip() and answer not in choices:
        problems.append(f"answer is {answer[:20]!r}; expected one of {', '.join(choices)}")
    if more := [name for name in MORE if choices[0] in needed and row.get(name, "").strip()]:
        problems.append(f"has a choice {', '.join(more)}; expected only {', '.join(choices)}")
    for column in needed:
        if bad := [sign for sign in (LOST, "\0") if sign in row.get(column, "")]:
            problems.append(
                f"{column} has the sign U+{ord(bad[0]):04X}: text was lost when the file was written"
            )
    return problems


def _twice(rows: list[tuple[Where, Row]]) -> Problems:
    """Ids that an earlier row has already."""
    first: dict[str, Where] = {}
    problems = []
    for where, row in rows:
        name = row.get("id", "")
        if name.strip() and (earlier := first.setdefault(name, where)) != where:
            place = f"row {earlier.row}" if earlier.part == where.part else str(earlier)
            problems.append((where, f"id {name!r} is already in {place}"))
    return problems
