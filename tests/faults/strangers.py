"""Another user of this machine at the ports, the files and the memory of a session.

`python -m tests.faults.strangers` runs these rows alone.
"""

import os
import sys
import time
from pathlib import Path

import torch

import neoxlib
from neoxlib.ranks.meeting import ServedPlace, store_at
from tests.faults.rows import Row, inject
from tests.faults.strikes import logits
from tests.support.sessions import descendants
from tests.support.strangers import as_nobody, heard, listeners, plain_answers, refused

GREETING = 64  # bytes, of ZeroMQ
NOT_HERE = "not injected here: only root can be another user, too"


def at_ports(folder: Path) -> str:
    if os.geteuid():
        return NOT_HERE
    with neoxlib.Session(folder, 2, device="cpu") as session:
        before = logits(session)
        open_to = listeners(descendants())
        assert {one.address for one in open_to} == {"127.0.0.1"}, open_to
        ports = sorted({one.port for one in open_to})
        said = as_nobody(plain_answers, ports)
        assert all(len(bytes.fromhex(words)) <= GREETING for words in said), said
        for encrypted in (False, True):
            assert as_nobody(heard, ports, encrypted, 1.0) == []
        assert torch.equal(logits(session), before)
        ranks = sum(one.pid in set(session.ranks.pid) for one in open_to)
    return (
        f"{len(ports)} ports on 127.0.0.1, {ranks} of them the ranks'; a greeting, nothing else, "
        "is heard of them, and the same bits are answered after garbage, questions and orders"
    )


def at_files(folder: Path) -> str:
    if os.geteuid():
        return NOT_HERE
    with neoxlib.Session(folder, 2, device="cpu") as session:
        places = Path(session._ranks._scratch), session.log_dir
        paths = [str(path) for place in places for path in (place, *place.rglob("*"))]
        for pid in session.ranks.pid:
            paths += [f"/proc/{pid}/{name}" for name in ("mem", "environ")]
            paths += [str(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert as_nobody(refused, paths) == paths
    return f"{len(paths)} files, folders and open files of ranks, memory among them: none opened"


def at_the_store(_: Path) -> str:
    if os.geteuid():
        return NOT_HERE
    served = ServedPlace("127.0.0.1")
    try:
        store = store_at(served.place, 2)
        store.set("address", "of rank 0")
        port = int(served.place.url.rpartition(":")[2])
        start = time.monotonic()
        assert as_nobody(heard, [port], False, 2.0) == as_nobody(heard, [port], True, 2.0) == []
        assert store.get("address") == b"of rank 0" and store.num_keys() == 1
    finally:
        served.close()
    return f"he heard nothing in {time.monotonic() - start:.0f} s and wrote nothing"


ROWS = (
    Row("another user at the ports of a session", at_ports),
    Row("another user at its files and memory", at_files),
    Row("another user at the store of ranks on several hosts", at_the_store),
)


if __name__ == "__main__":
    from tests.faults import strangers

    inject(strangers.ROWS, *sys.argv[1:])
