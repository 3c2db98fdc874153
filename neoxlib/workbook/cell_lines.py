"""The lines that a headless run prints while its cells run."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import nbformat

from neoxlib.workbook.cells import cell_name
from neoxlib.workbook.progress import MARK

Say = Callable[[str], None]


class CellLines:
    """Prints a line per code cell, and the lines of a cell's own `progress.Progress` as they come.

    It knows which cell is running, also when the kernel dies without a message.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self.number = 0
        self.total = 0
        self.cell = None
        self.began = 0.0

    def start(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """Start the clock of a code cell."""
        if cell.cell_type == "code":
            self.number = self.number + 1
            self.cell = cell
            self.began = time.perf_counter()

    def done(
        self, cell: nbformat.NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]
    ) -> None:
        """Print the line of a cell that has ended."""
        self._line("" if execute_reply["content"]["status"] == "ok" else "  stopped")

    def write(self, text: str) -> None:
        """Forward a cell's progress lines to the terminal as they arrive."""
        for line in text.splitlines():
            if line.startswith(MARK):
                self.say(f"  {line}")

    def flush(self) -> None:
        """Do nothing: papermill uses this object as a file."""

    def broke(self) -> None:
        """Print the line of the cell in which the run was broken off."""
        if self.cell:
            self._line("  broken off")

    def _line(self, ending: str) -> None:
        seconds = time.perf_counter() - self.began
        self.say(f"  [{self.number}/{self.total}] {cell_name(self.cell)} … {seconds:.1f} s{ending}")
