"""A piece of work in a fresh process, timed and with its memory watched from outside."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
EVERY = 0.02  # seconds between two looks


def run(command: list[str]) -> dict[str, Any]:
    """Run `command`: its seconds, its peak resident memory, and the JSON of its last line.

    Memory is what `ps` calls RSS, and the part of it that is no file's: mapped files can be dropped
    at any time. Raises RuntimeError if the command fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    peak = {"rss_gb": 0.0, "own_gb": 0.0}
    try:
        while process.poll() is None:
            for key, value in _memory(process.pid).items():
                peak[key] = max(peak[key], value / 1e9)
            time.sleep(EVERY)
        seconds = time.perf_counter() - start
        output = process.stdout.read()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}")
    last = output.strip().rpartition("\n")[2]
    return {"seconds": seconds, **peak, **(json.loads(last) if last.startswith("{") else {})}


def job(name: str, **options: Any) -> dict[str, Any]:
    """Run a job of jobs.py."""
    return run([sys.executable, "-m", "benchmarks.jobs", name, json.dumps(options)])


def _memory(pid: int) -> dict[str, int]:
    try:
        seen = psutil.Process(pid).memory_info()
    except psutil.NoSuchProcess:
        return {}
    return {"rss_gb": seen.rss, "own_gb": seen.rss - seen.shared}


def sync() -> None:
    """Wait until the disk has everything: earlier writes must not slow down what is timed next."""
    os.sync()


def forget(*folders: Path) -> None:
    """Put the files of `folders` out of the page cache."""
    os.sync()
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(*paths: Path) -> None:
    """Have files, and those of folders, in the page cache."""
    for path in (path for top in paths for path in (top, *top.rglob("*")) if path.is_file()):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def end_well() -> None:
    """Let signals that end a process run its `finally` clauses, too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("ended by a signal; what was written is removed"))


def parser(module: str, about: str, out: Path) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--out", type=Path, default=out, help="folder for results")
    return made


Work = Callable[[], dict[str, Any]]


def each(work: dict[str, Work], rounds: int, before: Callable[[], None]) -> dict[str, list[Any]]:
    """Run every piece of `work` in turn, `rounds` times over, each after `before`: name -> results.

    Every second round goes backwards: a disk that was just written to is slower afterwards.
    """
    results: dict[str, list[Any]] = {name: [] for name in work}
    for number in range(rounds):
        for name in list(work) if number % 2 == 0 else reversed(work):
            before()
            results[name].append(work[name]())
            line = ", ".join(
                f"{key} {value:.2f}"
                for key, value in results[name][-1].items()
                if type(value) is float
            )
            print(f"{name}, round {number + 1} of {rounds}: {line}", flush=True)
    return results
