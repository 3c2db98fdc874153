"""What runs on the test host that a user sits at: a session over the other hosts.

`verify.py` starts it. It prints lines of JSON, and waits after each for a line of standard input,
so that what listens and travels can be looked at from outside meanwhile.
"""

import json
import logging
import select
import sys
import time
from pathlib import Path

import numpy as np

import neoxlib
from neoxlib.demo import MODEL_DIR, PROMPTS
from neoxlib.errors import RankError
from tests.hosts import on_ranks

COUNT = 1 << 18  # values of a sum: 1 MiB
SHORT, LONG = 8, 200  # tokens of an answer
# What ranks are asked for by a word: 16 MiB of sums, and what they would be given on NPUs.
ASKED = {"sums\n": (on_ranks.sums, 15, COUNT), "hccl\n": (on_ranks.hccl, "910B3")}


def say(**words: object) -> None:
    print("desk:" + json.dumps(words), flush=True)
    sys.stdin.readline()


def right(model_dir: str, profile: str, world_size: str, logs: str, secret: str) -> None:
    """Compare a session over the profile's hosts with one process here."""
    prompts = [prompt for texts in PROMPTS.values() for prompt in texts[:2]]
    alone = neoxlib.load(model_dir, dtype="float32", device="cpu")
    with opened(model_dir, profile, world_size, logs) as session:
        say(**seen(session))
        say(**compared(session, alone, prompts))
        say(bytes=session.apply(on_ranks.sums, 4, COUNT), count=COUNT)
        answer = session.generate([secret], max_new_tokens=12)[0].text
        say(secret=answer, due=alone.generate([secret], max_new_tokens=12)[0].text)
    say(closed=sorted(path.name for path in Path(logs).iterdir()))


def called(
    model_dir: str, profile: str, world_size: str, logs: str, secret: str, due: str = ""
) -> None:
    """Open a session and do with it what standard input asks for; say all with its time.

    `due` begins with each right answer.

    "call": one short answer. "work": long answers, until the next word comes. An end of the input
    closes the session.
    """
    due = due or one_process(secret)
    logging.getLogger("neoxlib").addHandler(Teller(logging.ERROR))
    start = time.time()
    with opened(model_dir, profile, world_size, logs) as session:
        tell(opened=time.time() - start, pids=session.ranks["pid"].tolist())
        for word in sys.stdin:
            if word in ASKED:
                start = time.time()
                tell(answer=session.apply(*ASKED[word]), seconds=time.time() - start)
                continue
            while answered(session, secret, due, SHORT if word == "call\n" else LONG):
                if word == "call\n" or select.select([sys.stdin], [], [], 0)[0]:
                    break


def one_process(prompt: str) -> str:
    """The answer of the shipped model in one process."""
    alone = neoxlib.load(MODEL_DIR, dtype="float32", device="cpu")
    return alone.generate([prompt], max_new_tokens=LONG)[0].text


def answered(session: neoxlib.Session, prompt: str, due: str, count: int) -> bool:
    """Say whether an answer is right, or with which error it ended."""
    start = time.time()
    try:
        text = session.generate([prompt], max_new_tokens=count)[0].text
    except RankError as error:
        tell(error=str(error).splitlines()[0], seconds=time.time() - start)
        return False
    tell(answer=due.startswith(text) and bool(text), seconds=time.time() - start)
    return True


def tell(**words: object) -> None:
    print("desk:" + json.dumps(words | {"at": time.time()}), flush=True)


class Teller(logging.Handler):
    """Says what neoxlib's log tells a user between two calls."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(log=record.getMessage())


def opened(model_dir: str, profile: str, world_size: str, logs: str) -> neoxlib.Session:
    given = {"cluster_profile": profile, "log_dir": logs}
    return neoxlib.Session(model_dir, int(world_size), "float32", "cpu", **given)


def seen(session: neoxlib.Session) -> dict[str, object]:
    table = session.ranks
    return {
        "hosts": table["host"].tolist(),
        "places": session.apply(on_ranks.places),
        "backend": session.describe()["backend"],
        "scratch": session._ranks._scratch,
    }


def compared(session: neoxlib.Session, alone: neoxlib.Engine, prompts: list[str]) -> dict:
    """The largest difference of the logits, and whether greedy texts are the same."""
    ids = np.arange(48).reshape(3, 16) * 37 % alone.config.vocab_size
    mask = np.ones_like(ids)
    mask[1, :5] = 0  # padded to the left
    difference = (session.logits(ids, mask) - alone.logits(ids, mask)).abs().max().item()
    ours, due = (
        [answer.text for answer in model.generate(prompts, max_new_tokens=24)]
        for model in (session, alone)
    )
    return {"difference": difference, "texts": len(due), "same": ours == due}


if __name__ == "__main__":
    {"right": right, "called": called}[sys.argv[1]](*sys.argv[2:])
