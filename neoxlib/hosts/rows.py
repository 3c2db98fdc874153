"""The rows of a check of hosts, and the report that shows them, like rows as one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neoxlib.errors import show_controls
from neoxlib.workbook import markup
from neoxlib.workbook.table import Checked, Status, Table

if TYPE_CHECKING:
    pass

COLUMNS = ("status", "hosts", "check", "found", "needed", "repair")


@dataclass(frozen=True)
class HostRow:
    """One check of one host: found, needed, and the shell command that repairs it."""

    host: str
    check: str
    status: Status
    found: str
    needed: str = ""
    repair: str = ""


@dataclass(frozen=True)
class HostsReport(Checked):
    """All rows. Displays as a table, in HTML and in plain text."""

    rows: tuple[HostRow, ...]

    @property
    def table(self) -> Table:
        """The rows, those that differ by nothing but the host as one."""
        return Table(COLUMNS, self._merged())

    def _merged(self) -> list[tuple[str, ...]]:
        merged: dict[tuple[str, ...], list[str]] = {}
        for row in self.rows:
            # What is needed is of interest where it is missing.
            needed = "" if row.status == "OK" else row.needed
            key = row.status, row.check, row.found, needed, row.repair
            merged.setdefault(key, []).append(row.host)
        return [(status, ", ".join(of), *rest) for (status, *rest), of in merged.items()]

    def __repr__(self) -> str:
        rows = self._merged()
        widths = [max((len(row[i]) for row in rows), default=0) for i in (1, 2)]
        return show_controls("\n".join([*(_line(row, *widths) for row in rows), self.summary]))

    def _repr_html_(self) -> str:
        return self.table._repr_html_() + markup.paragraph(self.summary)


def _line(row: tuple[str, ...], hosts: int, check: int) -> str:
    """A row for a terminal; what is needed, and the repair, on lines of their own."""
    first = f"{row[0]:5} {row[1]:{hosts}}  {row[2]:{check}}  {row[3]}"
    names = zip(("needed", "repair"), row[4:], strict=True)
    return "\n".join([first, *(f"        {name}: {words}" for name, words in names if words)])
