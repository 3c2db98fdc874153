"""Streams, which get text as it comes, and the one that prints it."""

from collections.abc import Callable
from typing import Any

Stream = Callable[[int, str], Any]  # (row, new text)


class Printer:
    """Print one prompt's text as it comes, or whole lines of several prompts with their row."""

    def __init__(self, rows: int) -> None:
        self.held = [""] * rows

    def __call__(self, row: int, piece: str) -> None:
        if len(self.held) == 1:
            print(piece, end="", flush=True)
            return
        *lines, self.held[row] = (self.held[row] + piece).split("\n")
        for line in lines:
            print(f"[{row}] {line}", flush=True)

    def close(self) -> None:
        """End the last lines."""
        if len(self.held) == 1:
            print(flush=True)
            return
        for row, rest in enumerate(self.held):
            print(f"[{row}] {rest}", flush=True)
