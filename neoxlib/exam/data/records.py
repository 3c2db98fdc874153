"""Read the records of one file of questions, unchanged. No benchmark is known here."""

import csv
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from neoxlib.files import read_whole
from neoxlib.forms import parse

Record = dict[str, Any]
# (row in the file, record); rows are counted as a spreadsheet does, the header is row 1.
Records = list[tuple[int, Record]]
File = Path | zipfile.Path
# Bytes of one file of questions, and of all that an archive has; a real exam has a few million.
LARGEST = 1 << 26
MOST_ROWS = 100_000  # of one file, and of all questions together; a real exam has 15,000
MOST_COLUMNS = 100  # also names of an object
MOST_CELLS = 100_000  # of one row, whose commas may be in a text
MOST_PROBLEMS = 100  # of one file that cannot be read row by row
# Errors of reading a broken archive; RuntimeError: it needs a password, or a newer zip;
# MemoryError: an LZMA that asks for a dictionary of gigabytes.
DAMAGE = (
    OSError,
    MemoryError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
NO_PYARROW = (
    "1: reading parquet needs pyarrow, which the extra eval brings; "
    "run: pip install 'neoxlib[eval]'"
)


def read_table(path: File, headerless: tuple[str, ...] = ()) -> tuple[Records, list[str]]:
    """Every record of a .csv, .jsonl or .parquet file, and every problem as `row: …`.

    Cells of a CSV stay text, such as `None`, `NA` and `001`; line breaks inside quotes are kept.
    `headerless` names the columns of a CSV whose first row is a question, not their names.
    """
    try:
        raw = read_file(path)
    except DAMAGE as error:
        return [], [f"1: cannot be read: {reason(error)}"]
    if path.name.endswith(".parquet"):
        return _parquet(raw)
    text, problem = _decode(raw)
    if problem:
        return [], [problem]
    return _json_lines(text) if path.name.endswith(".jsonl") else _csv(text, headerless)


def read_file(path: File) -> bytes:
    """The content of a file. Raises an error of DAMAGE, also for more than LARGEST bytes."""
    return read_whole(path, LARGEST) if isinstance(path, Path) else path.read_bytes()


def _decode(raw: bytes) -> tuple[str, str]:
    """Decode UTF-8, with or without a byte order mark: (text, problem)."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x}"
        return "", f"{row}: is not UTF-8 ({found}){_looks_like(raw)}; save it as UTF-8"
    return (text, "") if text.strip() else ("", "1: is empty; expected questions")


def _looks_like(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ", it looks like UTF-16"
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return ", it may be GB18030"


def reason(error: Exception) -> str:
    """The words of an error of DAMAGE; a MemoryError has none of its own."""
    return str(error) or "there is not enough memory"


def _rows(text: str) -> tuple[list[list[str]], str]:
    """The cells of each row of a CSV, and why it cannot be read, or ""."""
    rows: list[list[str]] = []
    lines = _Lines(text)
    try:
        for row in csv.reader(lines, strict=True):
            rows.append(row)
            lines.cells = 0
            if len(rows) > MOST_ROWS:
                return [], _too_many_rows()
    except csv.Error as error:
        return [], f"{len(rows) + 1}: is not valid CSV: {error} (an unclosed quote?)"
    return rows, ""


def _csv(text: str, headerless: tuple[str, ...]) -> tuple[Records, list[str]]:
    rows, problem = _rows(text)
    if problem:
        return [], [problem]
    named = not headerless or {"question", "answer"} <= {name.lower() for name in rows[0]}
    header = rows[0] if named else list(headerless)
    if len(header) > MOST_COLUMNS:
        return [], [f"1: has {len(header)} columns; at most {MOST_COLUMNS} are read"]
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        return [], [f"1: column {name!r} appears twice" for name in twice]
    records = []
    problems = []
    for number, row in enumerate(rows[named:], start=1 + named):
        if row and len(row) != len(header):
            what = "the header has" if named else "expected are"
            size = f"has {len(row)} cells, {what} {len(header)}"
            problems.append(f"{number}: {size} (an unquoted comma or line break?)")
        elif row:  # a blank line is counted, but is not a record
            records.append((number, dict(zip(header, row, strict=True))))
    if not any(rows[named:]):
        problems.append("2: the header is there, the questions are not")
    return records, _first(problems)


class _Lines(io.StringIO):
    """The lines of a CSV; a row of more than MOST_CELLS ends them with csv.Error."""

    def __init__(self, text: str) -> None:
        super().__init__(text, newline="")
        self.cells = 0  # of the row that is read

    def __next__(self) -> str:
        line = super().__next__()
        self.cells += line.count(",")
        if self.cells > MOST_CELLS:
            raise csv.Error(f"a row has more than {MOST_CELLS:,} commas")
        return line


def _too_many_rows() -> str:
    return f"{MOST_ROWS + 1}: is one row too many; at most {MOST_ROWS:,} are read"


def _first(problems: list[str]) -> list[str]:
    """At most MOST_PROBLEMS, and how many there are more."""
    more = len(problems) - MOST_PROBLEMS
    if more <= 0:
        return problems
    row = problems[MOST_PROBLEMS].partition(":")[0]
    return [*problems[:MOST_PROBLEMS], f"{row}: is the first of {more:,} more with a problem"]


def _json_lines(text: str) -> tuple[Records, list[str]]:
    records = []
    problems = []
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if number > MOST_ROWS:
            return [], [_too_many_rows()]
        if not line.strip():
            continue
        try:
            record = json_value(line)
        except ValueError as error:
            problems.append(f"{number}: is not JSON: {error}")
            continue
        if isinstance(record, dict) and len(record) > MOST_COLUMNS:
            problems.append(f"{number}: has {len(record)} names; at most {MOST_COLUMNS} are read")
        elif isinstance(record, dict):
            records.append((number, record))
        else:
            problems.append(f"{number}: expected an object in braces, found {line.strip()[:40]!r}")
    return records, _first(problems)


def json_value(text: str) -> Any:
    """Parse JSON. Raises ValueError also for an object with a name twice: one would be lost."""
    return parse(text, unique=True)


def _parquet(raw: bytes) -> tuple[Records, list[str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return [], [NO_PYARROW]
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        if file.metadata.num_rows > MOST_ROWS:
            return [], [_too_many_rows()]
        rows = file.read().to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        return [], [f"1: is not valid parquet: {str(error)[:200]}"]
    return list(enumerate(rows, start=1)), [] if rows else ["1: is empty; expected questions"]
