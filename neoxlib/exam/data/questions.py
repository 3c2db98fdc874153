"""Turn records as files have them into rows of texts under fixed names, checked cell by cell."""

import math
from typing import Any

from neoxlib.exam.data.benchmarks import Benchmark
from neoxlib.exam.data.records import Record
from neoxlib.exam.data.sources import Problems, Sheet, Where
from neoxlib.forms import is_digits

QuestionRow = dict[str, str]
MORE = tuple("EFGHIJ")  # choices that other exams have beyond four
LOST = "\ufffd"  # a decoder's mark for a character that it could not read


def read_rows(
    sheet: Sheet,
    benchmark: Benchmark,
    labelled: bool = True,
    explained: bool = False,
    from_zero: bool = False,
) -> tuple[list[QuestionRow], list[str]]:
    """The rows of a sheet (from `Source.read`), and every problem as `folder/file:row: …`.

    Each row has id, the benchmark's columns, answer (and explanation). Records without ids are
    numbered from 0. `from_zero`: answers that are texts of numbers number the choices. With a
    problem the rows are those that could be read, and the caller refuses them.
    """
    entries, problems = sheet
    rows = [
        (where, _row(record, benchmark, index, from_zero))
        for index, (where, record) in enumerate(entries)
    ]
    columns = (*benchmark.columns, "answer", *(["explanation"] if explained else []))
    needed = columns if labelled else tuple(c for c in columns if c != "answer")
    problems = [*problems, *_problems(sheet, rows, needed, benchmark.choices)]
    problems.sort(key=lambda problem: problem[0])
    kept = [{c: row.get(c, "") for c in dict.fromkeys(("id", *columns))} for _, row in rows]
    return kept, [f"{where}: {text}" for where, text in problems]


def _problems(
    sheet: Sheet,
    rows: list[tuple[Where, QuestionRow]],
    needed: tuple[str, ...],
    choices: tuple[str, ...],
) -> Problems:
    """Problems of the rows of a sheet: missing columns, bad cells, ids that occur twice."""
    missing, absent = _missing(rows, needed)
    problems = [*missing, *_nested(sheet, needed)]
    present = [column for column in needed if column not in absent]
    for where, row in rows:
        problems += [(where, problem) for problem in _cells(row, present, choices)]
    return problems + _twice(rows)


def _row(record: Record, benchmark: Benchmark, index: int, from_zero: bool) -> QuestionRow:
    """The texts of a record under one set of names, whatever exported the file."""
    record = dict(record)
    if isinstance(record.get("choices"), list) and benchmark.choices[0] in benchmark.columns:
        record |= dict(zip((*benchmark.choices, *MORE), record.pop("choices"), strict=False))
    if "answer" not in record and "label" in record:  # SuperGLUE's name
        record["answer"] = record["label"]
    if "answer" in record:
        answer = record["answer"]
        numbered = from_zero and isinstance(answer, str) and is_digits(answer)
        record["answer"] = _answer(int(answer) if numbered else answer, benchmark.choices)
    if "passage" in record and record.get("title"):  # one text in SuperGLUE and lm-eval
        record["passage"] = f"{record['title']} -- {record['passage']}"
    if "id" not in benchmark.columns:
        number = record.get("id", record.get("idx"))
        record["id"] = index if number in (None, "") else number
    return {name: _text(value) for name, value in record.items() if isinstance(name, str)}


def _answer(value: Any, choices: tuple[str, ...]) -> Any:
    """The choice that an answer names.

    Exports number the choices from 0; a bool numbers no and yes; -1 is no answer.
    """
    if value == -1:
        return ""
    if isinstance(value, bool) and len(choices) > 2:
        return value
    return choices[value] if isinstance(value, int) and 0 <= value < len(choices) else value


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _nested(sheet: Sheet, needed: tuple[str, ...]) -> Problems:
    """Cells that are lists or objects. An answer like that is reported as not a choice."""
    return [
        (where, f"{name} is a {type(record[name]).__name__}; expected a text")
        for where, record in sheet[0]
        for name in needed
        if name != "answer" and isinstance(record.get(name), (list, dict))
    ]


def _missing(
    rows: list[tuple[Where, QuestionRow]], needed: tuple[str, ...]
) -> tuple[Problems, set[str]]:
    """Columns that no row has, as one problem, and their names."""
    absent = {c for c in needed if rows and not any(c in row for _, row in rows)}
    if not absent:
        return [], set()
    found = ", ".join(rows[0][1])[:200]
    what = f"column(s) {', '.join(c for c in needed if c in absent)} missing; found: {found}"
    return [(rows[0][0]._replace(row=1), what)], absent


def _cells(row: QuestionRow, needed: list[str], choices: tuple[str, ...]) -> list[str]:
    problems = [f"{column} is empty" for column in needed if not row.get(column, "").strip()]
    answer = row.get("answer", "")
    if answer.strip() and answer not in choices:
        problems.append(f"answer is {answer[:20]!r}; expected one of {', '.join(choices)}")
    if more := [name for name in MORE if choices[0] in needed and row.get(name, "").strip()]:
        problems.append(f"has a choice {', '.join(more)}; expected only {', '.join(choices)}")
    for column in needed:
        if bad := [sign for sign in (LOST, "\0") if sign in row.get(column, "")]:
            sign = f"U+{ord(bad[0]):04X}"
            problems.append(
                f"{column} has the sign {sign}: text was lost when the file was written"
            )
    return problems


def _twice(rows: list[tuple[Where, QuestionRow]]) -> Problems:
    """Ids that an earlier row already has."""
    first: dict[str, Where] = {}
    problems = []
    for where, row in rows:
        name = row.get("id", "")
        if name.strip() and (earlier := first.setdefault(name, where)) != where:
            place = f"row {earlier.row}" if earlier.part == where.part else str(earlier)
            problems.append((where, f"id {name!r} is already in {place}"))
    return problems
