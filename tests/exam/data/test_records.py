"""Bounds of reading: no small file makes a reader busy for long, or fills the memory."""

import json
import resource
import zipfile
from pathlib import Path

import pytest

from neoxlib.errors import DataError
from neoxlib.exam import load_task
from tests.support.exam_files import parquet, problems, write_exam
from tests.support.exam_files import put as put_text


def put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    put_text(path, text)


HEAD = "id,question,A,B,C,D,answer\n"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("csv", HEAD + "\n" * 100, "31: is one row too many; at most 30 are read"),
        ("csv", HEAD + "0,a,1,2,3,4,A\n" * 100, "31: is one row too many"),
        ("jsonl", "{}\n" * 100, "31: is one row too many"),
        ("csv", ",".join(map(str, range(9))) + "\n1", "1: has 9 columns; at most 8 are read"),
        ("csv", HEAD + "," * 21, "2: is not valid CSV: a row has more than 20 commas"),
        ("csv", HEAD + ('"\n",' + "," * 9) * 3, "2: is not valid CSV: a row has more than 20"),
        ("jsonl", json.dumps({str(n): n for n in range(9)}), "1: has 9 names; at most 8"),
    ],
)
def test_a_file_of_more_rows_or_columns_than_an_exam_has_is_not_read_on(
    tmp_path, monkeypatch, name, text, told
):
    for limit, value in (("ROWS", 30), ("COLUMNS", 8), ("CELLS", 20)):
        monkeypatch.setattr(f"neoxlib.exam.data.records.MOST_{limit}", value)
    put(tmp_path / f"val/logic_val.{name}", text)
    (found,) = problems("ceval", tmp_path)
    assert found.startswith(f"val/logic_val.{name}:{told}")


def test_a_parquet_file_of_more_rows_than_an_exam_has_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("neoxlib.exam.data.records.MOST_ROWS", 30)
    parquet(tmp_path / "logic/val-00000-of-00001.parquet", [{"question": "q"}] * 31)
    (found,) = problems("ceval", tmp_path)
    assert found == "logic/val-00000-of-00001.parquet:31: is one row too many; at most 30 are read"


def test_more_questions_than_an_exam_has_are_refused_over_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr("neoxlib.exam.data.load.MOST_ROWS", 4)
    with pytest.raises(DataError, match="more than 4 questions up to subject 'colours'"):
        load_task("ceval", write_exam(tmp_path / "exam"), shots=0)


@pytest.mark.parametrize(("name", "line"), [("csv", "a"), ("jsonl", "x")])
def test_of_many_bad_rows_the_first_hundred_are_told_and_the_others_counted(tmp_path, name, line):
    put(tmp_path / f"val/logic_val.{name}", HEAD * (name == "csv") + f"{line}\n" * 500)
    found = problems("ceval", tmp_path)
    first = 101 + (name == "csv")
    assert len(found) == 101
    assert found[-1].endswith(f":{first}: is the first of 400 more with a problem")


def test_of_many_problems_two_hundred_are_told_and_all_are_counted(tmp_path):
    put(tmp_path / "val/logic_val.csv", HEAD + "".join(f"{n},,,,,,A\n" for n in range(100)))
    with pytest.raises(DataError, match=r"^500 problem") as caught:
        load_task("ceval", tmp_path, shots=0)
    assert len(str(caught.value).splitlines()) == 202 and str(caught.value).endswith("…")


def test_an_lzma_dictionary_of_gigabytes_is_told_as_what_it_is(tmp_path):
    path = tmp_path / "exam.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("val/logic_val.csv", HEAD + "0,a,1,2,3,4,A\n")
    raw = bytearray(path.read_bytes())
    size = raw.index(b"val/logic_val.csv") + len("val/logic_val.csv") + 5
    raw[size : size + 4] = b"\xff" * 4
    path.write_bytes(raw)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
    try:
        found = problems("ceval", path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert found == ["val/logic_val.csv:1: cannot be read: there is not enough memory"]
