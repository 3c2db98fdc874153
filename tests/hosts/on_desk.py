"""What runs on the test host that a user sits at: a session over the other hosts.

`verify.py` starts it. It prints lines of JSON, and waits after each for a line of standard input,
so that what listens and travels can be looked at from outside meanwhile.
"""

import json
import sys
from pathlib import Path

import numpy as np

import neoxlib
from neoxlib.demo import PROMPTS
from neoxlib.errors import RankError
from tests.hosts import on_ranks

COUNT = 1 << 18  # values of a sum: 1 MiB


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


def lost(model_dir: str, profile: str, world_size: str, logs: str, secret: str) -> None:
    """Call a session again and again while something happens to its hosts."""
    with opened(model_dir, profile, world_size, logs) as session:
        say(ready=True)
        while True:
            try:
                found = session.generate([secret], max_new_tokens=12)[0].text
            except RankError as error:
                say(error=str(error).splitlines()[0])
                return
            say(answer=found)


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
    {"right": right, "lost": lost}[sys.argv[1]](*sys.argv[2:])
