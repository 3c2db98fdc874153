"""The contenders' processes: started when first needed, and kept while memory lasts."""

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
GRACE = 20  # seconds to leave by itself


@dataclass(frozen=True)
class Contender:
    """A row of the table: `kind` is a class of contenders.py, `options` what it is made with."""

    name: str
    precision: str  # "fp32", "bf16", "8 bit", "4 bit"
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        return f"{self.name}, {self.precision}"

    @property
    def bytes_per_weight(self) -> float:
        return {"fp32": 4, "bf16": 2, "8 bit": 1.1, "4 bit": 0.7}[self.precision]


class Failed(Exception):
    """Why a contender gave no answer."""


class Worker:
    """One contender's process, which has loaded its model."""

    def __init__(
        self, contender: Contender, python: Path, model_dir: Path, threads: int, log: Path
    ) -> None:
        start = {"contender": contender.kind, "model_dir": str(model_dir), "threads": threads}
        command = [
            python,
            "-m",
            "benchmarks.worker",
            json.dumps(start | {"options": dict(contender.options)}),
        ]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.about: dict[str, Any] = {}

    def answer(self, seconds: float) -> dict[str, Any]:
        """Return the next answer. Raises Failed for its error, its death or a timeout."""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                raise Failed(f"no answer within {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"its process ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def ask(self, seconds: float, **request: Any) -> dict[str, Any]:
        """Give a request, and wait for its answer."""
        try:
            self.process.stdin.write(f"{json.dumps(request)}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"its process ended with code {self.process.wait()}") from None
        return self.answer(seconds)

    def close(self) -> None:
        """End the process and what it started."""
        self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


class Pool:
    """Workers by contender. Where memory is short, those longest out of use make room."""

    def __init__(
        self,
        pythons: Mapping[str, Path],
        model_dir: Path,
        parameters: int,
        threads: int,
        logs: Path,
    ) -> None:
        self.pythons = pythons
        self.model_dir = model_dir
        self.threads = threads
        self.logs = logs
        self.parameters = parameters
        self.workers: dict[Contender, Worker] = {}
        self.broken: dict[Contender, str] = {}
        self.about: dict[Contender, dict[str, Any]] = {}

    def run(self, contender: Contender, seconds: float, **request: Any) -> dict[str, Any]:
        """Return the contender's answer. Raises Failed; one that failed to load is not retried."""
        if contender in self.broken:
            raise Failed(self.broken[contender])
        worker = self.workers.pop(contender, None) or self._start(contender, seconds)
        self.workers[contender] = worker  # now the last that was used
        try:
            return worker.ask(seconds, **request)
        except Failed as failure:
            if worker.process.poll() is not None or "no answer" in str(failure):
                self._drop(contender, str(failure))
            raise

    def _start(self, contender: Contender, seconds: float) -> Worker:
        need = 1.5 * self.parameters * contender.bytes_per_weight + 2e9
        while self.workers and psutil.virtual_memory().available < need:
            self.workers.pop(next(iter(self.workers))).close()
        python = self.pythons["own" if contender.kind.startswith("Neoxlib") else "peers"]
        log = self.logs / f"{contender.key.replace(', ', '-').replace(' ', '-')}.log"
        self.workers[contender] = Worker(contender, python, self.model_dir, self.threads, log)
        try:
            self.about[contender] = self.workers[contender].answer(seconds)
        except Failed as failure:
            self._drop(contender, str(failure))
            raise
        return self.workers[contender]

    def _drop(self, contender: Contender, reason: str) -> None:
        self.broken[contender] = reason
        self.workers.pop(contender).close()

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
