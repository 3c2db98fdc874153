"""The rows of a check of hosts, and the report that shows them, like rows as one."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from neoxlib.errors import show_controls
from neoxlib.workbook import markup
from neoxlib.workbook.table import Table

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["OK", "WARN", "FAIL"]
ORDER: tuple[Status, ...] = ("OK", "WARN", "FAIL")
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
class HostsReport:
    """All rows. Displays as a table, in HTML and in plain text."""

    rows: tuple[HostRow, ...]

    @property
    def worst(self) -> Status:
        """The worst status of any row."""
        return max((row.status for row in self.rows), key=ORDER.index, default="OK")

    @property
    def summary(self) -> str:
        """The number of rows of each status, in one line."""
        counts = {status: sum(row.status == status for row in self.rows) for status in ORDER}
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    @property
    def frame(self) -> "pd.DataFrame":
        """The rows as a table, one for each host and check."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

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
