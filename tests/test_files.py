"""No writer that dies or fails leaves half a file under a file's own name."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neoxlib import files
from tests.support.disk import full_disk
from tests.support.special_files import special_file

# Replaces the file of argv[1], and is killed when the new content is asked to be made durable.
KILLED = """
import os, signal, sys
from pathlib import Path
from neoxlib import files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.{function}(Path(sys.argv[1]), b"new" * 9999{rest})
"""
WRITERS = {"replace": ', ".part"', "overwrite": ""}


def write(function: str, path: Path, data: bytes) -> None:
    getattr(files, function)(path, data, *([".part"] if function == "replace" else []))


@pytest.mark.parametrize("function", WRITERS)
def test_a_writer_that_is_killed_leaves_the_old_content_whole(function, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = KILLED.format(function=function, rest=WRITERS[function])
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -signal.SIGKILL and path.read_bytes() == b"old"
    write(function, path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("function", WRITERS)
def test_a_writer_without_room_leaves_the_old_content_and_nothing_else(
    function, tmp_path, monkeypatch
):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        write(function, path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_program_that_writes_the_file_and_fails_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match="broken"),
        files.replacing(tmp_path / "file", ".tmp") as aside,
    ):
        aside.write_bytes(b"half")
        assert aside.name == "file.tmp"
        raise OSError(errno.EIO, "broken")
    assert not os.listdir(tmp_path)


def test_a_file_that_the_user_named_keeps_its_mode_and_a_link_its_place(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o750)
    link.symlink_to(path)
    files.overwrite(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o750


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    for function in WRITERS:
        write(function, tmp_path / function, b"")
        (tmp_path / "plain").write_bytes(b"")
        assert (tmp_path / function).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    files.overwrite(pipe, b"text")
    assert reader.communicate()[0] == b"text" and pipe.is_fifo()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"torn", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\n\nto", [b"a", b""]),
        (b"a\r\nb\x0bc\n", [b"a\r", b"b\x0bc"]),
    ],
)
def test_a_line_is_whole_if_a_line_feed_ends_it(data, lines):
    assert files.whole_lines(data) == lines


def test_what_was_appended_is_on_the_disk_at_return(tmp_path, monkeypatch):
    path = tmp_path / "file"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes()))
    with path.open("ab") as file:
        files.append(file, b"a\n")
        files.append(file, b"b\n")
    assert synced == [b"a\n", b"a\nb\n"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("FIFO", "is a FIFO"), ("socket", "No such device"), ("device", "is a device")],
)
def test_what_has_no_end_is_not_read(tmp_path, kind, said):
    path = special_file(tmp_path / "thing", kind)
    with pytest.raises(OSError, match=said):
        files.read_whole(path, 1 << 20)


def test_a_file_is_read_whole_up_to_the_size_that_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert files.read_whole(path, 100) == b"x" * 100
    with pytest.raises(OSError, match=r"has 100 bytes, and at most 99 are read"):
        files.read_whole(path, 99)
    with pytest.raises(OSError, match="is a folder"):
        files.read_whole(tmp_path, 99)


def test_a_fifo_that_nobody_reads_is_not_waited_for(tmp_path, monkeypatch):
    path = special_file(tmp_path / "thing", "FIFO")
    monkeypatch.setattr(files, "READER_SECONDS", 0.1)
    with pytest.raises(OSError, match="No such device"):
        files.overwrite(path, b"x")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    files.overwrite(path, b"x")
    assert os.read(reader, 9) == b"x"
    os.close(reader)
