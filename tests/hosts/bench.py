"""The test hosts as the steps of `verify` use them, and the lines of what was found."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.build import Host

ROOT = Path(__file__).parents[2]
LIMIT = 600  # seconds for a command


@dataclass
class Lines:
    """What was found, step by step."""

    step: str = ""
    spaces: set[str] = field(default_factory=set)  # the hosts' namespaces
    folder: str = ""  # and their folder
    rows: list[tuple[str, str, bool, str]] = field(default_factory=list)

    def add(self, law: str, holds: bool, found: str) -> None:
        self.rows.append((self.step, law, bool(holds), found))
        print(f"{'OK' if holds else 'FAIL':4}  {self.step}: {law}: {found}", flush=True)


@dataclass(frozen=True)
class Bench:
    """The hosts, the first of which a user sits at, and where results go."""

    hosts: list[Host]
    lines: Lines

    @property
    def desk(self) -> Host:
        return self.hosts[0]

    @property
    def others(self) -> list[Host]:
        return self.hosts[1:]

    @property
    def model(self) -> Path:
        """The model's folder, as every host sees it on its own disk."""
        return self.desk.folder.parent / "disk" / "model"

    def cluster(self, *words: str) -> tuple[int, str]:
        """`neoxlib cluster` at the desk: exit code and output."""
        command = [sys.executable, "-m", "neoxlib", "cluster", "--ssh", *words]
        done = subprocess.run(
            self.desk.command(*command), capture_output=True, text=True, cwd=ROOT, timeout=LIMIT
        )
        return done.returncode, done.stdout + done.stderr


def wait_for(true: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
