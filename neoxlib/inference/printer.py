"""Streams, which get text as it comes, and the one that prints it without terminal commands."""

from collections.abc import Callable, Sequence
from typing import Any

from neoxlib.errors import show_controls

Stream = Callable[[int, str], Any]  # (row, new text, a Piece)
Chosen = tuple[int, float, list[tuple[int, float]]]  # id, log-probability, alternatives with theirs
# Milliseconds of a step: pre, forward, communication and post, as in a Completion's Timings.
Times = tuple[float, float, float, float]


class Piece(str):
    """New text of a row; `tokens` are those chosen since the piece before, as in a Completion.

    `clocks` are the times of their steps.
    """

    tokens: tuple[Chosen, ...] = ()
    clocks: tuple[Times, ...] = ()

    @classmethod
    def of(cls, text: str, tokens: Sequence[Chosen], clocks: Sequence[Times] = ()) -> "Piece":
        """Return `text` with the tokens that it comes from, and the times of their steps."""
        piece = cls(text)
        piece.tokens = tuple(tokens)
        piece.clocks = tuple(clocks)
        return piece


class Printer:
    """Print one prompt's text as it comes, or whole lines of several prompts with their row."""

    def __init__(self, rows: int) -> None:
        self.held = [""] * rows

    def __call__(self, row: int, piece: str) -> None:
        if len(self.held) == 1:
            print(show_controls(piece), end="", flush=True)
            return
        *lines, self.held[row] = (self.held[row] + piece).split("\n")
        for line in lines:
            print(f"[{row}] {show_controls(line)}", flush=True)

    def close(self) -> None:
        """End the last lines."""
        if len(self.held) == 1:
            print(flush=True)
            return
        for row, rest in enumerate(self.held):
            print(f"[{row}] {show_controls(rest)}", flush=True)
