"""A stream that prints text as it comes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a notebook that only receives a Completion need not wait for transformers
    pass


class Printer:
    """A stream that prints: one prompt's text as it comes; of several prompts whole lines, with the row's number."""

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
