"""Start, call and stop sessions again and again, and tell what is left of them.

`python -m tests.faults.cycles MODEL NUMBER`; two run at a time, as one session leaves a core idle.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

import neoxlib
from tests.faults.together import MOST_GROWTH, WARM, held


def cycle(folder: Path, size: int) -> None:
    """One session of `size` ranks."""
    with neoxlib.Session(folder, size, device="cpu") as session:
        session.logits([[5, 6, 7]])


def main(folder: str, count: str) -> int:
    """Return 0 if nothing is left."""
    sizes = [1 + n % 2 for n in range(int(count))]
    run = partial(cycle, Path(folder))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, sizes[:WARM]))
        before, memory = held(), psutil.Process().memory_info().rss
        list(pool.map(run, sizes[WARM:]))
        after, grown = held(), psutil.Process().memory_info().rss - memory
    left = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    print(f"{count} cycles; held before and after: {left or 'the same'}")
    what = ", ".join(f"{after[name]} {name}" for name in ("processes", "threads", "files", "ports"))
    print(f"{count} cycles left nothing: {what} as before; memory {grown / 2**20:+.1f} MiB")
    return int(bool(left) or grown > MOST_GROWTH or threading.active_count() > 8)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
