"""Cuts that are killed, filled up, changed or met by another one, at every change to the disk."""

import json
import math
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from neoxlib.checkpoint.manifest import MANIFEST
from neoxlib.checkpoint.shard import shard
from neoxlib.checkpoint.tensor_file import read_header
from neoxlib.checkpoint.verify import verify
from neoxlib.errors import WeightsError
from tests.faults.rows import Row, inject
from tests.support.checkpoint_files import SMALL, contents
from tests.support.kill_points import KILLED, count_of, in_a_fork, kill, with_change

RANKS = 2
NOBODY = 65534
ROOM = "size=8m"  # of a disk: several times a cut
Trial = Callable[[Path, int, dict[str, bytes]], bool]  # in a folder, at a change; the files due


def cut(source: Path, to: Path) -> Callable[[], Any]:
    """The cut of `source` that the faults meet: many small files for two ranks."""
    return partial(shard, source, to, RANKS, **SMALL)


def whole(source: Path, folder: Path) -> tuple[dict[str, bytes], int]:
    """The files of an undisturbed cut, and how many changes to the disk it makes."""
    count = count_of(cut(source, folder / "whole"))
    return contents(folder / "whole"), count


def points(count: int, most: int) -> list[int]:
    """At most `most` of the changes 1 to `count`, the first and the last among them."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(n * (count - 1) / (most - 1)) for n in range(most)})


def at_changes(source: Path, most: int, trial: Trial) -> tuple[int, int, int]:
    """Make a trial at changes of a cut: how many trials, of how many changes, and how many True."""
    with tempfile.TemporaryDirectory() as name:
        expected, count = whole(source, Path(name))
        places = points(count, most)
        found = [trial(Path(name), at, expected) for at in places]
    return len(places), count, sum(found)


def killed(source: Path, most: int = 10_000) -> str:
    """Kill a cut at its changes; each is finished by the same command to the same bits."""

    def trial(folder: Path, at: int, expected: dict[str, bytes]) -> bool:
        to = folder / str(at)
        code, said = with_change(cut(source, to), at, kill)
        assert code == KILLED, (at, code, said)
        finished = _looks_finished(to)
        _finishes(source, to, expected)
        shutil.rmtree(to)
        return finished

    tried, count, finished = at_changes(source, most, trial)
    return (
        f"{tried} kills at {count} changes to the disk: each resumed to the same bits; "
        f"{finished} had written the manifest, and were whole"
    )


def _finishes(source: Path, to: Path, expected: dict[str, bytes]) -> None:
    """The same command ends a broken cut, to the same bits."""
    code, said = in_a_fork(cut(source, to))
    assert code == 0 and contents(to) == expected, (to.name, code, said)


def _looks_finished(to: Path) -> bool:
    """Whether a killed cut has a manifest: it must then be whole, and else be called unfinished."""
    if (to / MANIFEST).exists():
        verify(to, progress=False)
        return True
    try:
        verify(to, progress=False)
    except WeightsError as error:
        assert "is not finished" in str(error) or "holds no finished cut" in str(error), error
        return False
    raise AssertionError("an unfinished cut passed")


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, in memory. Raises CalledProcessError without the right to mount one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", ROOM, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all room that a disk has left."""
    with (folder / "of others").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def full(source: Path, most: int = 40) -> str:
    """Others fill the disk at a change; the cut says so, and resumes once there is room."""

    def trial(folder: Path, at: int, expected: dict[str, bytes]) -> bool:
        with disk(folder / "disk") as room:
            to = room / "cut"
            code, said = with_change(cut(source, to), at, partial(fill, room))
            told = code == 1 and "No space left" in said and "same command again" in said
            assert told or code == 0, (at, code, said)
            (room / "of others").unlink()
            _finishes(source, to, expected)
        (folder / "disk").rmdir()
        return told

    tried, _, told = at_changes(source, most, trial)
    return (
        f"filled at {tried} changes: told {told} times, {tried - told} times nothing "
        "more was needed; each resumed to the same bits"
    )


def read_only(source: Path) -> str:
    """A disk that may only be read, and a folder in which this user may not write."""
    with tempfile.TemporaryDirectory() as name, disk(Path(name, "disk")) as room:
        subprocess.run(["mount", "-o", "remount,ro", str(room)], check=True)
        code, said = in_a_fork(cut(source, room / "cut"))
        assert code == 1 and "Read-only file system" in said, (code, said)
        said = said.replace(name, "…")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        code, denied = in_a_fork(lambda: os.setuid(NOBODY) or cut(source, Path(name, "cut"))())
        assert code == 1 and "Permission denied" in denied, (code, denied)
    return said


def changed(source: Path, most: int = 24) -> str:
    """Change the source at a change to the disk: nothing of it is kept."""

    def trial(folder: Path, at: int, expected: dict[str, bytes]) -> bool:
        copy = Path(shutil.copytree(source, folder / "source"))
        to = folder / "cut"
        code, said = with_change(cut(copy, to), at, partial(flip, copy / "model.safetensors"))
        if code:
            assert code == 1 and "has changed while it was read" in said, said
            assert not any(contents(to).values()), at
        else:  # after the last look at it; the manifest names another source
            files = contents(to) | {MANIFEST: expected[MANIFEST]}
            assert files == expected, at
        shutil.rmtree(copy)
        shutil.rmtree(to)
        return bool(code)

    tried, _, told = at_changes(source, most, trial)
    return f"changed at {tried} changes: told {told} times, else it was read before"


def flip(path: Path, at: int = -5) -> None:
    """Turn one bit of a file over."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def together(source: Path, most: int = 24) -> str:
    """Begin a second cut into the folder at a change of the first; that one ends whole."""

    def trial(folder: Path, at: int, expected: dict[str, bytes]) -> bool:
        to = folder / "cut"
        with waiting(cut(source, to)) as begin:
            answers = [with_change(cut(source, to), at, begin), begin(answer=True)]
        codes = sorted(code for code, _ in answers)
        said = " ".join(words for _, words in answers)
        assert codes == [0, 0] or (codes == [0, 1] and "another process" in said), (at, said)
        assert contents(to) == expected, (at, said)
        shutil.rmtree(to)
        return codes == [0, 1]

    tried, _, refused = at_changes(source, most, trial)
    return f"begun at {tried} changes: one of the two refused {refused} times, the cut whole"


@contextmanager
def waiting(call: Callable[[], Any]) -> Iterator[Callable[..., Any]]:
    """A process that waits to run `call`: begun, it is waited for; its answer can be read after."""
    start, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.read(start[0], 1)
        os.write(done[1], json.dumps(in_a_fork(call)).encode())
        os._exit(0)
    os.close(done[1])

    def begin(answer: bool = False) -> Any:
        if answer:
            return json.loads(os.read(done[0], 1 << 16))
        os.write(start[1], b"x")
        select.select([done[0]], [], [])
        return None

    try:
        yield begin
    finally:
        os.waitpid(pid, 0)
        for end in (*start, done[0]):
            os.close(end)


def every_region(model: Path, each: int = 6) -> str:
    """Turn one bit over in every region of every file of a cut; `verify` must tell of it."""
    count = 0
    with tempfile.TemporaryDirectory() as name:
        cut = Path(name, "cut")
        shard(model, cut, 2, progress=False)
        for path in [path for path in cut.rglob("*") if path.is_file()]:
            for at in sorted(_places(path, each)):
                flip(path, at)
                try:
                    verify(cut, progress=False)
                except WeightsError:
                    count += 1
                else:
                    raise AssertionError(f"byte {at} of {path.name} was not told")
                flip(path, at)
        verify(cut, progress=False)
    return f"{count} single bits in headers, tensors, padding, manifest and companions: each told"


def _places(path: Path, each: int) -> set[int]:
    """Bytes of a file: its first and last, and some of each region."""
    size = path.stat().st_size
    ends = {0, size}
    if path.suffix == ".safetensors":
        tensors, _ = read_header(path)
        ends |= {8} | {tensor.offset for tensor in tensors.values()}
    starts = sorted(ends)
    found = set()
    for start, end in pairwise(starts):
        step = max(1, math.ceil((end - start) / each))
        found |= {*range(start, end, step), end - 1}
    return found


ROWS = (
    Row("shard killed at every change to the disk", killed),
    Row("a disk that others fill in mid-cut", full),
    Row("a target that may only be read", read_only),
    Row("a source that changes in mid-cut", changed),
    Row("two cuts into one folder", together),
    Row("any bit of a cut turned over", every_region),
)

if __name__ == "__main__":
    inject(ROWS)
