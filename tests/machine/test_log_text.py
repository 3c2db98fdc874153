"""Logs as text: bounded reading, refusals, and who said a line and when."""

import io
import os
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from neoxlib.errors import DataError
from neoxlib.machine.log_text import HEAD, TAIL, LogText, find_logs, of_file, read_log


def at(text: str, word: str) -> tuple[datetime | None, str]:
    log = LogText("log", text)
    position = text.index(word)
    return log.time_at(position), log.who_at(position)


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("2025-10-11-15:09:34.713.335 x", datetime(2025, 10, 11, 15, 9, 34, 713335)),
        ("2024-10-21 10:42:00,218 - x", datetime(2024, 10, 21, 10, 42, 0, 218000)),
        ("2025-04-16 13:15:44.054 | x", datetime(2025, 4, 16, 13, 15, 44, 54000)),
        ("[E324 13:00:25.428029551 a.ts:5] x", datetime(2000, 3, 24, 13, 0, 25, 428029)),
        ("[W1117 11:40:21.576782641 a.ts:5] x", datetime(2000, 11, 17, 11, 40, 21, 576782)),
        ("F20251111 12:28:58.504206 2 a.cpp:3] x", datetime(2025, 11, 11, 12, 28, 58, 504206)),
        ("ERROR 03-25 06:14:02 [a.py:8] x", datetime(2000, 3, 25, 6, 14, 2)),
        ("2025-13-45 99:99:99 x", None),
        ("no time x", None),
    ],
)
def test_the_time_of_a_line_is_read_in_every_form(line: str, moment: datetime | None):
    assert at(line, "x")[0] == moment


def test_a_line_without_a_time_has_that_of_the_last_one_before_it():
    text = "2025-01-02 03:04:05,000 a\nno time\nx\n2025-01-02 09:00:00,000 later"
    assert at(text, "x")[0] == datetime(2025, 1, 2, 3, 4, 5)


def test_a_time_without_a_year_is_of_the_year_that_the_log_names():
    text = "2025-10-11-15:09:34.713.335 a\nERROR 10-12 06:14:02 x"
    assert at(text, "x")[0] == datetime(2025, 10, 12, 6, 14, 2)


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("[rank7]: x", "rank 7"),
        ("[Rank 1] Watchdog x", "rank 1"),
        ("(PID:13075, Device:0, RankID:8) x", "rank 8"),
        ("(VllmWorker rank=3 pid=5) localUserrank:7 x", "rank 3"),
        ("Rank[2] failed x", "rank 2"),
        ("(Worker_DP0_TP6_EP6 pid=17148) x", "worker DP0_TP6_EP6"),
        ("(VllmWorker TP1 pid=961) x", "worker TP1"),
        ("(PID:5, Device:1, RankID:-1) ERR00100\nEI0002: [PID: 5] x", "process 5"),
        ("(PID:5, Device:1, RankID:4) ERR00100\n\nEI0002: [PID: 5] x", "rank 4"),
        ("HCCL(2717288,python3):2025-07-23 x", "process 2717288"),
        ("from remote rank: [24] x", ""),
        ("rank 1 did not meet the other ranks x", ""),
        ("nobody x", ""),
        ("[rank2]: first\nnothing\nx", "rank 2"),
    ],
)
def test_a_line_is_of_the_rank_that_it_or_the_lines_before_it_name(text: str, who: str):
    assert at(text, " x" if " x" in text else "x")[1] == who


def test_the_rank_of_a_file_is_in_its_name_and_goes_before_its_lines():
    assert of_file("logs/rank3.log") == of_file("rank-3.txt") == "rank 3"
    assert of_file("ranks.log") == of_file("crank.log") == ""
    assert LogText("rank3.log", "[rank9]: x", rank="rank 3").who_at(9) == "rank 3"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (bytes(range(256)) * 40, "binary"),
        (b"\x7fELF" + bytes(5000), "binary"),
        (b"\x1f\x8b\x08\x00 text", "gzip"),
        ("EI0002: x".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "a.log"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_log(path)


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe, not a file"):
        read_log(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a device, not a file"):
        read_log(Path("/dev/zero"))
    with pytest.raises(DataError, match=r"cannot be read: No such file.*name a log"):
        read_log(tmp_path / "missing.log")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_log(tmp_path)


def test_of_a_log_of_5_gb_only_the_ends_are_read(tmp_path: Path):
    path = tmp_path / "rank0.log"
    with path.open("wb") as file:
        file.write(b"EI0006: first\n" + b"a quiet line\n" * 400_000)
        file.truncate(5 * 10**9)  # a hole: takes no room on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"a quiet line\n" * 600_000 + b"EL0004: last\n")
    log = read_log(path)
    assert "EI0006: first" in log.text and "EL0004: last" in log.text
    assert len(log.text) <= HEAD + TAIL + 1 and log.skipped > 4 * 10**9
    assert log.line_at(0)[0] == 1 and log.line_at(len(log.text) - 3)[0] == 0


def test_a_log_as_long_as_the_bound_is_read_whole(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_bytes(b"0123456789abcde\n" * ((HEAD + TAIL) // 16))
    log = read_log(path)
    assert log.skipped == 0 and log.text.encode() == path.read_bytes()


def test_a_folder_stands_for_its_logs_and_standard_input_for_a_dash(tmp_path: Path, monkeypatch):
    (tmp_path / "debug" / "plog").mkdir(parents=True)
    (tmp_path / "debug" / "plog" / "plog-7_2025.log").write_text("EI0002: x")
    (tmp_path / "rank0.log").write_text("y")
    (tmp_path / "empty.log").write_text("")
    (tmp_path / "weights.bin").write_text("z")
    found = find_logs([tmp_path, tmp_path / "weights.bin"])
    assert [path.name for path in found] == ["plog-7_2025.log", "rank0.log", "weights.bin"]
    with pytest.raises(DataError, match="holds no log"):
        find_logs([_empty(tmp_path)])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"EI0002: x")))
    assert read_log(Path("-")).text == "EI0002: x"


def _empty(folder: Path) -> Path:
    (folder / "none").mkdir()
    return folder / "none"


def test_colours_of_a_terminal_are_taken_out(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_text("\x1b[36m(Engine pid=5)\x1b[0m \x1b[31mEI0002: x\x1b[0m")
    assert read_log(path).text == "(Engine pid=5) EI0002: x"
