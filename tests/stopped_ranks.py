"""Sessions whose ranks are stopped at random points: every answer must have the bits of a settled
one.

`make stop-ranks ARGS="--sessions 200"`. A rank that had copied its weights and one that had not
once added float16 bytes to float32 bytes: about one fresh session in ten gave a wrong first answer.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import neoxlib
from tests.support.oracle_models import make_oracle, save_tokenizer

IDS = [[5, 3, 60, 2, 9], [9, 9, 1, 40, 7]]
PROMPTS = [[5, 3, 60, 2], [11, 12, 13]]
CALLS = 4  # of each kind while ranks are stopped
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 640,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 2560,
}


@dataclass(frozen=True)
class Setting:
    """One way to run the ranks: NEOXLIB_BACKEND, their number, and the session's options."""

    backend: str
    world_size: int
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        backend = self.backend or "shared memory"
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return ", ".join(filter(None, (backend, f"{self.world_size} ranks", options)))


SETTINGS = (
    Setting("", 2),
    Setting("", 4),
    Setting("gloo", 2),
    Setting("gloo", 4),
    Setting("", 2, {"quant": "int8"}),
    Setting("", 2, {"quant": "int4"}),
    Setting("", 2, {"compile": False}),
)


def answers(session: neoxlib.Session) -> list[bytes]:
    """The bits of logits, and the ids of greedy texts."""
    given = session.generate(PROMPTS, max_new_tokens=4)
    return [session.logits(IDS).numpy().tobytes(), repr([one.token_ids for one in given]).encode()]


@contextmanager
def stopping(pids: Sequence[int], rng: random.Random) -> Iterator[None]:
    """Stop one of `pids` after the other, each for a random time; at first for long."""
    ended = threading.Event()

    def stop_one(seconds: float) -> None:
        pid = rng.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)

    def stop_all() -> None:
        stop_one(rng.choice([0.0, 1.5]))
        while not ended.is_set():
            stop_one(rng.choice([0.01, 0.05, 0.3, 1.0]))
            time.sleep(rng.random() / 10)

    thread = threading.Thread(target=stop_all)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wrong_calls(folder: Path, setting: Setting, rng: random.Random) -> int:
    """Answers of one session, given while ranks were stopped, that are not those given
    afterwards.
    """
    os.environ["NEOXLIB_BACKEND"] = setting.backend
    with neoxlib.Session(
        folder, setting.world_size, device="cpu", dtype="float32", **setting.options
    ) as session:
        with stopping([int(pid) for pid in session.ranks["pid"]], rng):
            given = [answers(session) for _ in range(CALLS)]
        session.wait_until_resident()
        settled = answers(session)
    return sum(one != truth for each in given for one, truth in zip(each, settled, strict=True))


@click.command()
@click.option("--sessions", default=21, help="How many to open, shared out over the settings.")
@click.option("--seed", default=0, help="Of the points at which ranks are stopped.")
def main(sessions: int, seed: int) -> None:
    """Open SESSIONS sessions, and exit with 1 where any gave a wrong answer."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_oracle(**SHAPE).half().save_pretrained(folder)
        save_tokenizer(folder)
        wrong = 0
        for n in range(sessions):
            setting = SETTINGS[n % len(SETTINGS)]
            count = wrong_calls(folder, setting, rng)
            wrong += count > 0
            click.echo(f"{n + 1} of {sessions}: {setting}: {count} wrong answers")
    click.echo(f"{wrong} of {sessions} sessions gave a wrong answer")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
