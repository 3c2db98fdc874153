"""Any signal, to any process of a session, at any moment: told in time, or answered right.

`python -m tests.faults.chaos` runs these rows alone; NEOXLIB_SEED names the draw of an earlier run.
"""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import neoxlib
from neoxlib.errors import RankError
from tests.faults.rows import LATEST, Row, inject
from tests.faults.strikes import PROMPTS, Strike, processes
from tests.support.sessions import descendants, gone

STRIKES = 24
LONGEST = 1.5  # seconds until a signal, and that a stopped process rests
AFTER = 1.0  # seconds in which calls go on after a signal that no call has told of
HANG_SECONDS = 4.0
SIGNALS = sorted(s for s in signal.Signals if s < signal.SIGRTMIN)
DRAWN = [*SIGNALS, *[signal.SIGKILL, signal.SIGSTOP, None] * 3]  # None: it rests a while


def answers(session: neoxlib.Session) -> list[Any]:
    """One of each kind of call."""
    texts = session.generate(PROMPTS, max_new_tokens=12)
    scores = session.score_ids([([5, 6, 7], [8, 9]), ([9], [10])])
    rows = session.logits([[5, 6, 7, 8]] * 2).tolist()
    return [[text.token_ids for text in texts], scores, rows]


@dataclass
class Drawn(Strike):
    """A signal that may come to a process that has ended; a rest ends after `rest` seconds."""

    rest: float | None = None

    def _wait(self) -> None:
        with suppress(ProcessLookupError):
            super()._wait()
            if self.rest is not None:
                time.sleep(self.rest)
                os.kill(self.pid, signal.SIGCONT)


def drawn(session: neoxlib.Session, chance: random.Random) -> tuple[str, Drawn]:
    """The next signal in words, and what sends it."""
    (controller,) = processes("controller")
    pids = {f"rank {r}": int(pid) for r, pid in enumerate(session.ranks.pid)}
    role, pid = chance.choice(list((pids | {"the controller": controller}).items()))
    number = chance.choice(DRAWN)
    moment, rest = (chance.uniform(0, LONGEST) for _ in range(2))
    name = signal.Signals(number).name if number else f"a rest of {rest:.1f} s"
    at = time.monotonic() + moment
    more = {} if number else {"rest": rest}
    strike = Drawn(lambda: pid if time.monotonic() > at else None, number or signal.SIGSTOP, **more)
    return f"{name} for {role} after {moment:.2f} s", strike


def outcome(session: neoxlib.Session, right: list[Any], strike: Drawn) -> float | None:
    """In how many seconds it was told; None if all calls, and some after it, are answered right."""
    try:
        while not strike.at or time.monotonic() < strike.at + (strike.rest or 0) + AFTER:
            assert answers(session) == right, "another answer"
    except RankError as error:
        took = time.monotonic() - strike.at
        assert took < LATEST, f"told after {took:.1f} s: {error}"
        assert gone([strike.pid, *descendants()], 5), "a process was left"
        return took
    return None


def any_signal(model: Path) -> str:
    seed = int(os.environ.get("NEOXLIB_SEED") or random.randrange(10**6))
    chance = random.Random(seed)
    told: list[float] = []
    right = None
    session = None
    try:
        for _ in range(STRIKES):
            if session is None or session.ended:
                session = neoxlib.Session(model, 2, device="cpu", hang_timeout=HANG_SECONDS)
            right = right or answers(session)
            name, strike = drawn(session, chance)
            try:
                took = outcome(session, right, strike)
            except Exception as error:
                raise AssertionError(f"seed {seed}, {name}: {error}") from error
            told += [] if took is None else [took]
    finally:
        if session is not None:
            session.close()
    latest = f", after {max(told):.1f} s at most" if told else ""
    return f"{STRIKES} signals: {len(told)} told{latest}, the others answered right; seed {seed}"


ROWS = (Row("any signal, to any process of a session, at any moment", any_signal),)

if __name__ == "__main__":
    inject(ROWS)
