"""Coverage-guided fuzzing of every reader with atheris: `make fuzz`.

The bytes that atheris makes are choices of edits (`mutate`), so structure survives. Inputs that
reached new code are kept in corpora/, and what raised a foreign exception in found/, which
`make test` reads.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
MOST_KEPT = 150  # inputs of a corpus
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
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        print("FOREIGN", *place, str(error)[:200], flush=True)


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


def fuzz_one(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one reader; it ends the process, with 1 if something foreign was raised."""
    import atheris

    with atheris.instrument_imports(include=["neoxlib"], enable_loader_override=False):
        from neoxlib.errors import NeoXError
        from tests.fuzz.readers import BY_NAME
    reader, finds = BY_NAME[name], Finds(name)
    folder = Path(tempfile.mkdtemp(prefix="neoxlib-fuzz-"))
    seeds = reader.make(folder)

    def once(data: bytes) -> None:
        choices = atheris.FuzzedDataProvider(data)

        def pick(count: int) -> int:
            return choices.ConsumeIntInRange(0, count - 1)

        spoilt = reader.spoil(seeds[pick(len(seeds))], pick)
        try:
            reader.read(folder, spoilt)
        except NeoXError as error:
            str(error).encode()
        except Exception as error:
            finds.note(error, spoilt)

    bounds = ["-timeout=60", "-rss_limit_mb=6000", f"-max_len={MOST_BYTES}"]
    atheris.Setup([name, str(corpus), f"-max_total_time={seconds}", *bounds], once)
    atheris.Fuzz()


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


def fuzz(name: str, seconds: int) -> bool:
    """Fuzz one reader in a process of its own; returns whether all it raised was ours."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch)
        for number, one in enumerate(kept(name)):
            (corpus / str(number)).write_bytes(one)
        command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(seconds)]
        done = subprocess.run(
            [*command, "--one", str(corpus), name], capture_output=True, text=True, errors="replace"
        )
        lines = (done.stdout + done.stderr).splitlines()
        foreign = [line for line in lines if line.startswith("FOREIGN")]
        runs = next((line for line in lines if line.startswith("Done ")), f"exit {done.returncode}")
        print(
            f"{name}: {runs}, {keep(name, corpus)} inputs kept, {len(foreign)} foreign", flush=True
        )
        print(
            "\n".join(foreign or lines[-5 * bool(done.returncode) :][: 5 * bool(done.returncode)])
        )
        return not foreign and done.returncode == 0


@click.command()
@click.option("--seconds", default=600, help="For each reader.")
@click.option("--one", help="A corpus folder: fuzz in this process.")
@click.argument("names", nargs=-1)
def main(seconds: int, one: str | None, names: tuple[str, ...]) -> None:
    """Fuzz the readers NAMES, by default all; exit with 1 where a foreign exception came out."""
    if one:
        fuzz_one(names[0], seconds, Path(one))
        return
    from tests.fuzz.readers import BY_NAME

    fine = [fuzz(name, seconds) for name in names or BY_NAME]
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
