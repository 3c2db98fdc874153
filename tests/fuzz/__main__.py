"""Coverage-guided fuzzing of every reader with atheris: `make fuzz`.

The bytes that atheris makes are choices of edits (`mutate`), so structure survives. Inputs that
reached new code are kept in corpora/, and what raised a foreign exception in found/; `make test`
reads both. Only errors of neoxlib may come out, within `bounds`.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click

from tests.fuzz.mutate import picker
from tests.support.page_rows import put_rows

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
HEAD = ("reader", "seconds", "files read", "inputs kept", "foreign exceptions")
MOST_KEPT = 60  # inputs of a corpus
MOST_BYTES = 256  # of an input: three edits need about forty


class Finds:
    """What raised a foreign exception, once for each place."""

    def __init__(self, name: str) -> None:
        self.folder = HERE / "found" / name
        self.places: set[tuple[Any, ...]] = set()

    def note(self, error: BaseException, data: bytes) -> None:
        """Keep the file that raised it, and say where."""
        place = _place(error)
        if place in self.places:
            return
        self.places.add(place)
        found = self.keep(data)
        print("FOREIGN", *place, found, " ".join(str(error).split())[:200], flush=True)

    def keep(self, data: bytes) -> str:
        """Write a file to the finds; return its name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(data).hexdigest()[:16]
        (self.folder / name).write_bytes(data)
        return name


def _place(error: BaseException) -> tuple[Any, ...]:
    """The class of an exception, and the line of neoxlib nearest to it."""
    place: tuple[Any, ...] = ()
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/neoxlib/" in code.co_filename:
            place = (code.co_filename.rpartition("/neoxlib/")[2], trace.tb_lineno)
        trace = trace.tb_next
    return (type(error).__name__, *place)


def fuzz_one(reader: Any, seconds: int, scratch: Path) -> None:
    """Fuzz one reader, with the corpus in `scratch`; this ends the process.

    The file that is read is in `current` meanwhile: one that kills the process stays there.
    """
    import atheris

    with (scratch / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    tempfile.tempdir = str(scratch)
    folder = Path(tempfile.mkdtemp(prefix="read-"))
    once = _once(reader, folder, scratch / "current")
    bounds = [f"-max_total_time={seconds}", "-timeout=300", "-rss_limit_mb=8000"]
    bounds += [f"-max_len={MOST_BYTES}", f"-artifact_prefix={scratch}/"]
    atheris.Setup([reader.name, str(scratch / "corpus"), *bounds], once)
    atheris.Fuzz()


def _once(reader: Any, folder: Path, current: Path) -> Callable[[bytes], None]:
    """What atheris calls: it reads one spoilt file."""
    from neoxlib.errors import NeoXError
    from tests.fuzz.bounds import bounded

    finds, seeds = Finds(reader.name), reader.make(folder)

    def once(data: bytes) -> None:
        pick = picker(data)
        try:
            spoilt = reader.spoil(seeds[pick(len(seeds))], pick)
        except RecursionError:  # edits nested deeper than they can be made here
            return
        current.write_bytes(spoilt)
        try:
            with bounded():
                reader.read(folder, spoilt)
        except NeoXError as error:
            str(error).encode()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of tokenizers is no Exception
            finds.note(error, spoilt)

    return once


def kept(name: str) -> list[bytes]:
    """The corpus of a reader."""
    path = HERE / "corpora" / f"{name}.json"
    return [bytes.fromhex(one) for one in json.loads(path.read_text())] if path.is_file() else []


def keep(name: str, corpus: Path) -> int:
    """Write the smallest inputs of a corpus back; returns their number."""
    inputs = sorted(
        (path.read_bytes() for path in corpus.iterdir()), key=lambda one: (len(one), one)
    )
    path = HERE / "corpora" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([one.hex() for one in inputs[:MOST_KEPT]], indent=0) + "\n")
    return len(inputs[:MOST_KEPT])


class Begun(NamedTuple):
    """A fork that fuzzes a reader."""

    reader: Any
    place: tempfile.TemporaryDirectory  # with its corpus, its log and the file it reads


def begin(reader: Any, seconds: int) -> tuple[int, Begun]:
    """Fuzz one reader in a fork of this process, and return the fork."""
    begun = Begun(reader, tempfile.TemporaryDirectory(prefix="neoxlib-fuzz-"))
    corpus = Path(begun.place.name, "corpus")
    corpus.mkdir()
    for number, one in enumerate(kept(reader.name)):
        (corpus / str(number)).write_bytes(one)
    pid = os.fork()
    if not pid:
        try:
            fuzz_one(reader, seconds, Path(begun.place.name))
        except SystemExit as ended:
            os._exit(bool(ended.code))  # not by an exit function: the folder is the parent's
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return pid, begun


def end(begun: Begun, code: int) -> bool:
    """Keep what a fork found, and tell it; returns whether all that was raised was ours."""
    name = begun.reader.name
    with begun.place as place:
        scratch = Path(place)
        lines = (scratch / "log").read_text(errors="replace").splitlines()
        foreign = [line for line in lines if line.startswith("FOREIGN")]
        if code:
            current = scratch / "current"
            kept_as = Finds(name).keep(current.read_bytes()) if current.exists() else "no file"
            foreign += [f"ENDED with {code}: {kept_as}", *lines[-12:]]
        runs = next((line for line in lines if line.startswith("Done ")), "")
        count = keep(name, scratch / "corpus")
    said = f"{name}: {runs or f'exit {code}'}, {count} inputs kept, {len(foreign)} foreign"
    print(said, *foreign, sep="\n", flush=True)
    files, seconds = re.findall(r"\d+", runs)[:2] if runs else ("?", "?")
    row = (name, seconds, files, str(count), str(len(foreign)))
    put_rows(PAGE, "fuzz", HEAD, [row], keys=1, keep=True)
    return not foreign


def fuzz(readers: Iterable[Any], seconds: int, jobs: int) -> bool:
    """Fuzz readers, some at once; returns whether all that they raised was ours."""
    waiting, running, fine = [*readers], {}, True
    while waiting or running:
        while waiting and len(running) < jobs:
            pid, begun = begin(waiting.pop(0), seconds)
            running[pid] = begun
        pid, status = os.wait()
        fine &= end(running.pop(pid), os.waitstatus_to_exitcode(status))
    return fine


@click.command()
@click.option("--seconds", default=600, help="For each reader.")
@click.option("--jobs", default=1, help="Readers at once.")
@click.argument("names", nargs=-1)
def main(seconds: int, jobs: int, names: tuple[str, ...]) -> None:
    """Fuzz the readers NAMES, by default all; exit with 1 where a foreign exception came out."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads could not fork
    import atheris

    with atheris.instrument_imports(include=["neoxlib"], enable_loader_override=False):
        from tests.fuzz.readers import BY_NAME
    sys.exit(not fuzz([BY_NAME[name] for name in names or BY_NAME], seconds, jobs))


if __name__ == "__main__":
    main()
