"""The chip whose rules hold, and how a simulated operator refuses what its page does not allow."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)
EVERY = 2**31 - 1  # pre_tokens or next_tokens that leave nothing out

here = SimpleNamespace(family="A2")  # the chip family whose constraints hold
# Every operator that was called, and its keyword arguments.
calls: list[tuple[str, dict[str, Any]]] = []


class Contract(ValueError):
    """An operator was given what its page does not allow."""

    def __init__(self, page: str, what: str) -> None:
        super().__init__(f"torch_npu-{page}.md: {what}")


def need(ok: bool, page: str, what: str) -> None:
    if not ok:
        raise Contract(page, what)


@contextmanager
def on_chip(family: str) -> Iterator[None]:
    """Let the constraints of this chip family hold, and forget the calls before."""
    before = here.family
    here.family = family
    calls.clear()
    try:
        yield
    finally:
        here.family = before


def called() -> set[str]:
    """Names of the operators called since the last `on_chip`."""
    return {name for name, _ in calls}


def only_defaults(page: str, arguments: dict[str, Any]) -> None:
    """Refuse arguments that are not modelled, unless they have their default."""
    given = [name for name, value in arguments.items() if value not in (None, 0, False)]
    need(not given, page, f"not modelled here: {given}")
