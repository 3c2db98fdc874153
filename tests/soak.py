"""Long runs: answers, memory and logs of one session, an exam that is killed, reports at once.

`make soak`, an hour; `make soak ARGS="--minutes 5 --kills 3"` is a short one. What was seen is
printed; the exit code is 1 if an answer changed, memory grew, a log had no bound, or a run was
lost.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import psutil

import neoxlib
from neoxlib.demo import MODEL_DIR
from neoxlib.errors import NeoXError
from neoxlib.workbook.pages import write_index

PROMPTS = (["The panda is"], ["Water", "A cat and a dog", "1, 2, 3"], ["狗"], ["a b c d e f g h"])
SAMPLES = 120  # of memory, over the whole time
SETTLED = 0.2  # of the samples are left out: weights are copied, pools fill
BLOCKS = 8  # whose means are fitted: neighbouring samples depend on each other
T = 2.447  # Student's for 95 % and BLOCKS - 2 degrees of freedom
FLAT = 16.0  # MB an hour: more than that is no noise
MOST_LOG = 256 << 10  # bytes that the logs of a session may grow by
REPORTS = 4
EXAM = """
import sys
import neoxlib
from neoxlib import exam
from neoxlib.demo import EXAM_DIR, MODEL_DIR
rules = exam.get_profile("official", "ceval")
paper = exam.load_task("ceval", EXAM_DIR, shots=rules.shots)
with neoxlib.Session(MODEL_DIR, 2, device="cpu", dtype="float32") as session:
    print("ready", flush=True)
    results = exam.evaluate(session, paper, rules, None, sys.argv[1] + "/journal.jsonl")
results.to_csv(sys.argv[1] + "/questions.csv")
"""


class Call(NamedTuple):
    """A call of a session; its answer can be compared."""

    name: str
    make: Callable[[neoxlib.Session], Any]


def calls() -> list[Call]:
    """The mix: greedy and sampled texts, streams, scores, logits, and a call that is refused."""
    found = []
    for prompts in PROMPTS:
        for more in ({}, {"temperature": 0.8, "seed": 7, "top_k": 20}, {"stream": lambda *_: None}):
            found.append(Call("generate", lambda s, p=prompts, m=more: _texts(s, p, m)))
        found.append(Call("score", lambda s, p=prompts: s.score(p, ["yes"] * len(p))))
        ids = [[5 + n, 9, 3, 7][: 2 + n] + [0] * (2 - n) for n in range(len(prompts))]
        mask = [[1] * (2 + n) + [0] * (2 - n) for n in range(len(prompts))]
        found.append(Call("logits", lambda s, i=ids, m=mask: s.logits(i, m).numpy().tobytes()))
    return [*found, Call("refused", _refused)]


def _texts(session: neoxlib.Session, prompts: list[str], more: dict[str, Any]) -> list[Any]:
    return [one.token_ids for one in session.generate(prompts, max_new_tokens=16, **more)]


def _refused(session: neoxlib.Session) -> str:
    try:
        session.logits([[10**9]])
    except NeoXError as error:
        return str(error)
    return "taken"


def taken_mb(pids: Sequence[int]) -> list[float]:
    """Memory of each process that no other process shares, in MB."""
    return [psutil.Process(pid).memory_full_info().uss / 1e6 for pid in pids]


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Growth an hour, and the half-width of its 95 % interval, of the means of BLOCKS blocks."""
    first = int(len(times) * SETTLED)
    blocks = np.array_split(np.arange(first, len(times)), BLOCKS)
    x = np.array([np.mean(np.take(times, block)) for block in blocks]) / 3600
    y = np.array([np.mean(np.take(values, block)) for block in blocks])
    fitted, covariance = np.polyfit(x, y, 1, cov=True)
    return float(fitted[0]), T * float(np.sqrt(covariance[0, 0]))


def mixed(minutes: float, rng: random.Random) -> tuple[bool, str]:
    """Whether a session of two ranks stays as it was for `minutes`, and what was seen."""
    end = time.monotonic() + 60 * minutes
    times, taken, different, made = [], [], 0, 0
    with neoxlib.Session(MODEL_DIR, 2, device="cpu", dtype="float32") as session:
        known = [(call, call.make(session)) for call in calls()]
        before = _logs(session)
        pids = [os.getpid(), *(one.pid for one in psutil.Process().children(recursive=True))]
        pids += [int(pid) for pid in session.ranks["pid"] if int(pid) not in pids]
        due = start = time.monotonic()
        while time.monotonic() < end:
            call, answer = rng.choice(known)
            different += call.make(session) != answer
            made += 1
            if time.monotonic() >= due:
                times.append(time.monotonic() - start)
                taken.append(taken_mb(pids))
                due += 60 * minutes / SAMPLES
        different += sum(call.make(session) != answer for call, answer in known)
        logs = _logs(session) - before
    memory = [sum(each) for each in taken]
    growth, unsure = slope(times, memory)
    alone = ", ".join(f"{slope(times, each)[0]:.1f}" for each in zip(*taken, strict=True))
    fine = not different and growth + unsure < FLAT and logs < MOST_LOG
    return fine, (
        f"{made + len(known)} calls in {minutes:g} minutes, {different} answers differ from the "
        f"first; memory {statistics.fmean(memory):.0f} MB in {len(pids)} processes, growth "
        f"{growth:.1f} ± {unsure:.1f} MB an hour (limit {FLAT:g}; of each process {alone}); "
        f"logs grew by {logs:,} bytes"
    )


def _logs(session: neoxlib.Session) -> int:
    return sum(path.stat().st_size for path in Path(session.log_dir).rglob("*.log"))


def killed_exam(kills: int, rng: random.Random) -> tuple[bool, str]:
    """Whether an exam that is killed at random ends with the table of one that is not."""
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        seconds = _ask(whole)
        done = 0
        while done < kills and not (broken / "questions.csv").exists():
            done += _ask(broken, 1.5 * seconds * rng.random() / max(1, kills)) is None
        if not (broken / "questions.csv").exists():
            _ask(broken)
        same = (whole / "questions.csv").read_bytes() == (broken / "questions.csv").read_bytes()
        lines = len((broken / "journal.jsonl").read_bytes().splitlines())
    equal = "equals" if same else "DIFFERS FROM"
    return same, (
        f"an exam of {lines - 1} questions, killed {done} times, {equal} the unbroken one"
    )


def _ask(folder: Path, kill_after: float | None = None) -> float | None:
    """Ask the exam; return its seconds, None if it was killed."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", EXAM, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while (line := process.stdout.readline()) != b"ready\n":
            assert line, process.stderr.read().decode()[-2000:]
        start = time.monotonic()
        try:
            _, said = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None
    assert process.returncode == 0, said.decode()[-2000:]
    return time.monotonic() - start


def reports_at_once(rng: random.Random) -> tuple[bool, str]:
    """Whether a killed report leaves those beside it, and the index, whole."""
    with tempfile.TemporaryDirectory() as name:
        outputs = Path(name)
        command = [sys.executable, "-m", "neoxlib", "report", "02", "--outputs", name]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = [subprocess.Popen(command, **quiet) for _ in range(REPORTS)]
        while len(_runs(outputs)) < REPORTS:
            assert any(one.poll() is None for one in running), "no run was begun"
            time.sleep(0.5)
        time.sleep(10 * rng.random())
        victim = rng.choice([one for one in running if one.poll() is None])
        victim.send_signal(signal.SIGKILL)
        codes = [one.wait() for one in running]
        states = [json.loads(path.read_text())["status"] for path in _runs(outputs)]
        page = write_index(outputs).read_text(encoding="utf-8")
        listed = sum(path.parent.name in page for path in _runs(outputs))
    well = states.count("ok") + states.count("noisy")  # each is the others' noise
    whole = [well, codes.count(0), listed]
    fine = whole == [REPORTS - 1, REPORTS - 1, REPORTS] and -signal.SIGKILL in codes
    return fine, (
        f"{REPORTS} reports at once, one killed: {well} whole, states "
        f"{', '.join(sorted(states))}; {listed} listed in the index"
    )


def _runs(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("*/*/results.json"))


@click.command()
@click.option("--minutes", default=60.0, help="Of mixed calls.")
@click.option("--kills", default=10, help="Of the exam.")
@click.option("--seed", default=0, help="Of the calls and of the moments of the kills.")
@click.argument("parts", nargs=-1)
def main(minutes: float, kills: int, seed: int, parts: tuple[str, ...]) -> None:
    """Run the PARTS mixed, exam and reports, by default all; exit with 1 where one fails."""
    rng = random.Random(seed)
    every = {
        "mixed": lambda: mixed(minutes, rng),
        "exam": lambda: killed_exam(kills, rng),
        "reports": lambda: reports_at_once(rng),
    }
    failed = False
    for name in parts or every:
        fine, said = every[name]()
        click.echo(f"{name}: {'ok' if fine else 'FAILED'}: {said}")
        failed |= not fine
    sys.exit(failed)


if __name__ == "__main__":
    main()
