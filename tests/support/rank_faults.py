"""Faults inside a rank, on request. Ranks import this module, so it stays light."""

import faulthandler
import logging
import os
import threading
import time
from typing import Any


def fail_alone(rank: int) -> None:
    """Rank 1 raises; the others wait for it, as in a collective."""
    if rank == 1:
        raise ValueError("only here")
    time.sleep(60)


def disagree(rank: int) -> None:
    """Every rank raises an error of its own."""
    raise ValueError(f"rank {rank} says no")


def crash_alone(rank: int) -> None:
    """Rank 1 dies in native code; the others wait for it."""
    if rank == 1:
        os.write(2, "last words, 最后\n".encode())
        faulthandler._sigsegv()
    time.sleep(60)


def say_who(rank: int) -> str:
    """A plain answer, from outside the library."""
    print(f"rank {rank} was asked")
    return f"rank {rank}"


class Failed(Exception):
    """Its pickle cannot be loaded: that has one argument."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")


class OfOneProcess(Exception):
    """An error that can be loaded in the process that raised it alone."""

    def __reduce__(self) -> tuple:
        return of_process, (os.getpid(),)


def of_process(pid: int) -> Exception:
    """Load an OfOneProcess."""
    if pid != os.getpid():
        raise ValueError("of another process")
    return OfOneProcess("here")


class Unspeakable(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise ValueError("no text")


def give(engine: Any, kind: str) -> Any:
    """Return a value that is hard to send."""
    import torch

    values = {
        "error": lambda: [Failed("layer 3", "odd")],
        "generator": lambda: (n for n in range(3)),
        "lock": threading.Lock,
        "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
        "parameter": lambda: torch.nn.Parameter(torch.ones(3)),
        "empty": lambda: torch.zeros(0, 5),
        "days": lambda: torch.ones(3).numpy().astype("datetime64[D]"),
        "across": lambda: torch.arange(6.0).reshape(2, 3).T,
    }
    return values[kind]()


def refuse(engine: Any, kind: str) -> None:
    """Raise an error that is hard to send, on all ranks."""
    errors = {"process": OfOneProcess("odd"), "unspeakable": Unspeakable("odd")}
    raise errors.get(kind) or Failed("layer 3", "odd")


def time_by_forward_passes(engine: Any, slow: int, seconds: float) -> None:
    """From now on this rank's clock advances by `seconds` per forward pass of rank `slow` only."""
    now = [0.0]
    engine.model._forward_pre_hooks.clear()
    if engine.group.rank == slow:
        engine.model.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + seconds))
    time.perf_counter = lambda: now[0]


def run_out_of_memory(rank: int) -> None:
    """Rank 1 says that it has no memory, and answers after rank 0, which waited for it."""
    if rank == 0:
        time.sleep(0.5)
        raise RuntimeError("EI0006: Getting socket times out. Reason: Remote Rank did not send")
    print("torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2.00 GiB", flush=True)
    time.sleep(1.5)
    raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")


def hang_alone(rank: int) -> None:
    """Rank 1 does not come; rank 0 gives up."""
    if rank == 0:
        raise RuntimeError("EI0002: not received from remote rank: [1]")
    time.sleep(60)


def say_environment(engine: Any) -> None:
    """Print every variable, log them, and show a traceback with them."""
    told = [*os.environ.values(), os.path.expanduser("~")]
    print(*told)
    logging.getLogger("neoxlib").warning("%s", told)
    try:
        raise ValueError(*told)
    except ValueError:
        logging.getLogger("neoxlib").exception("it failed")
