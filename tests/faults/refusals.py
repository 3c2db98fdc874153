"""What cannot be done is refused at once, in little memory: before a rank, and without a wait."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.faults.rows import Row
from tests.support.special_files import KINDS, special_file

LATEST = 90.0  # seconds with the start of Python, on a busy machine; a hang would take forever
MOST_CPU = 8.0  # seconds of the processor, of which importing takes one or more
MOST_MB = 700
SESSION = """
import sys
import neoxlib
from neoxlib.errors import NeoXError
from neoxlib.ranks import launch
def start(self, n):
    print("a rank was started")
launch.RankLauncher.start = start
try:
    neoxlib.Session(sys.argv[1], int(sys.argv[2]), device="cpu")
except NeoXError as error:
    print(error, file=sys.stderr)
"""
EXAM = """
import sys
from neoxlib.errors import NeoXError
from neoxlib.exam import load_task
try:
    load_task("ceval", sys.argv[1])
except NeoXError as error:
    print(error, file=sys.stderr)
"""
PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)
print(done.stdout)
print(done.stderr, file=sys.stderr)
"""


def told(words: str, *command: str) -> str:
    """Run a command; return the line with `words`, and the time and memory of its processes."""
    start = time.monotonic()
    full = [sys.executable, "-c", PEAK, *command]
    done = subprocess.run(full, capture_output=True, text=True, timeout=120)
    took = time.monotonic() - start
    cpu, mb = map(float, done.stdout.split()[:2])
    assert words in done.stderr, (words, done.stderr)
    assert "a rank was started" not in done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    assert took < LATEST and cpu < MOST_CPU and mb < MOST_MB, (took, cpu, mb)
    last = next(line for line in done.stderr.splitlines() if words in line).strip()
    return f"{cpu:.1f} s of CPU, {mb:.0f} MB: {last[:200]}"


def session(folder: Path, words: str, ranks: int = 2, before: tuple[str, ...] = ()) -> str:
    return told(words, *before, sys.executable, "-c", SESSION, str(folder), str(ranks))


def with_config(model: Path, changes: dict[str, int], words: str) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(model, Path(name, "model")))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return session(folder, words)


def no_file(model: Path, name: str, kind: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(model, Path(place, "model")))
        (folder / name).unlink()
        special_file(folder / name, kind)
        return session(folder, str(folder)).replace(place, "…")


def no_exam(_: Path, kind: str) -> str:
    from neoxlib.demo import EXAM_DIR

    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(EXAM_DIR, Path(place, "exam")))
        path = sorted(folder.glob("val/*.csv"))[0]
        path.unlink()
        special_file(path, kind)
        said = told(path.name, sys.executable, "-c", EXAM, str(folder))
        return said.replace(place, "…")


def report(words: str, *more: str, **env: str) -> str:
    command = ["env", *(f"{name}={value}" for name, value in env.items()), sys.executable, "-m"]
    return told(words, *command, "neoxlib", "report", "00", "-p", "plan_only", "true", *more)


def no_preset(_: Path, kind: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        path = special_file(Path(place, "preset.yaml"), kind)
        return report(str(path), "-f", str(path)).replace(place, "…")


def no_outputs(_: Path, kind: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        path = special_file(Path(place, "outputs"), kind)
        return report(str(path), "--outputs", str(path)).replace(place, "…")


def bomb(_: Path) -> str:
    lines = ["prompts:", "- &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "preset.yaml")
        path.write_text("\n".join(lines))
        return report("at most 10,000", "-f", str(path)).replace(place, "…")


def few_files(model: Path) -> str:
    return session(model, "64 open files", before=("prlimit", "--nofile=64:64"))


def no_loopback(model: Path) -> str:
    own = ("unshare", "--net", "--map-root-user")
    if subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        return "not injected here: no network of its own can be made"
    return session(model, "`ip link set lo up`", before=own)


ROWS = (
    Row("16 ranks for 8 heads", partial(session, words="cannot be cut over 16 ranks", ranks=16)),
    *(
        Row(f"a config with {name}", partial(with_config, changes=changes, words="at most"))
        for name, changes in {
            "10^5 layers": {"num_hidden_layers": 10**5},
            "2^31 heads": {"num_attention_heads": 2**31, "hidden_size": 2**31},
            "2^40 words": {"vocab_size": 2**40},
        }.items()
    ),
    Row("a YAML bomb as preset", bomb),
    *(
        Row(f"{what} that is a {kind}", partial(inject, kind=kind))
        for what, inject in {
            "a config.json": partial(no_file, name="config.json"),
            "a model.safetensors": partial(no_file, name="model.safetensors"),
            "an exam's CSV": no_exam,
            "a preset": no_preset,
            "an output folder": no_outputs,
        }.items()
        for kind in KINDS
    ),
    Row("64 open files (ulimit -n)", few_files),
    Row("loopback down", no_loopback),
)
