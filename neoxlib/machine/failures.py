"""What NPUs, their libraries and ranks say when they fail: each message with cause and cure.

The rows stand in four tables by subject; each row names its source. A code is a code of CANN
(EI0002), of torch_npu (ERR00100), a return code of its runtime (507014) or of HCCL (HCCL 9).
"""

import os
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path

# The kinds of messages. A rank that waited for another is never the first to fail.
CAUSE = "cause"  # what failed
STATE = "state"  # a return code: what failed, and another message often says why
INNER = "inner"  # a return code that says no more than where inside
LINK = "link"  # the connection, or the other end of it
WAITING = "waiting"  # this rank waited in vain
AFTER = "after"  # follows from an earlier failure of the same rank
GENERAL = "general"  # that something failed
ORDER = {CAUSE: 0, STATE: 0, INNER: 0, LINK: 1, WAITING: 2, AFTER: 3, GENERAL: 4}

# Where to look first.
HERE = "the rank that says it"
AWAITED = "the rank that it names as remote; without one, the rank that says nothing like this"
BOTH = "both ends: the rank that says it, and the one that it names as remote"
HOST = "the machine, before any rank"

MARK = "<!-- tables: from here on written by `neoxlib.machine.failures.write_page` -->"
TABLES = ("collective", "peers", "device", "cores", "operator", "host")
CODE = re.compile(r"E[A-Z]\d{4}|E\d{5}|ERR\d{5}|\d{6}|HCCL \d{1,2}")


@dataclass(frozen=True)
class Failure:
    """One failure: the codes it is known by, or a pattern of its words, and what to do.

    `name` lists the codes, or is a short title; a part of it that is a code is looked for as one.
    """

    name: str
    kind: str
    words: str  # regular expression of messages without a code; "" if there are none
    cause: str
    look: str
    cure: str
    source: str

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """The codes that stand for this failure."""
        return tuple(part for part in self.name.split(", ") if CODE.fullmatch(part))


# Families of codes, for a code that has no row: hicann/runtime 681ef761,
# docs/zh/guidelines/error_message_guide/macro-selection-guide.md:32 and :345, and Ascend/pytorch
# 9e73e708, docs/zh/user_guide/troubleshooting/error_code_description/error_code_information.md.
FAMILIES = {
    "EE": "CANN's runtime",
    "EH": "AscendCL, CANN's interface",
    "EI": "HCCL, the collectives",
    "EJ": "HCCP, the processes of the collectives",
    "EK": "the profiler",
    "EL": "the driver",
    "EZ": "the operators and their interface",
    "E2": "the compiler of fused operators",
    "E3": "the AI CPU",
    "E4": "the compiler of operators",
    "E9": "the compiler of operators",
    "ERR": "torch_npu",
    "10": "CANN: a wrong argument",
    "14": "CANN: a wrong argument",
    "16": "an operator: a wrong argument",
    "20": "CANN: a resource that is used up or absent",
    "36": "an operator, when it called the runtime",
    "50": "CANN: an internal error",
    "56": "an operator, when it was prepared",
    "HCCL": "HCCL, the collectives",
}


@cache
def failures() -> tuple[Failure, ...]:
    """Return every row of every table."""
    modules = [import_module(f"neoxlib.machine.failures_{name}") for name in TABLES]
    return tuple(row for module in modules for row in module.ROWS)


@cache
def by_code() -> dict[str, Failure]:
    """Return the rows by each of their codes."""
    return {code: row for row in failures() for code in row.codes}


def unknown(code: str) -> Failure | None:
    """Return a row for a code that no table has, by its family; None for no code of a family."""
    family = next((name for name in FAMILIES if code.startswith(name)), None)
    if family is None:
        return None
    return Failure(
        code,
        GENERAL,
        "",
        f"neoxlib's table has no row for it; it is of {FAMILIES[family]}",
        HERE,
        "read the lines beside it, and look the code up in the vendor's troubleshooting guide",
        "the families of codes in neoxlib/machine/failures.py",
    )


def table_text() -> str:
    """Return all rows as the tables of docs/troubleshooting.md, by subject."""
    parts = []
    for name in TABLES:
        module = import_module(f"neoxlib.machine.failures_{name}")
        lines = [f"## {module.TITLE}", "", "| message | kind | cause | look at first | cure |"]
        lines += ["|---|---|---|---|---|", *map(_line, module.ROWS)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def write_page(path: str | os.PathLike[str]) -> None:
    """Replace what stands behind the mark of docs/troubleshooting.md by the tables."""
    page = Path(path)
    text, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
    page.write_text(f"{text}{mark}\n\n{table_text()}", encoding="utf-8")


def _line(row: Failure) -> str:
    cells = (row.name, row.kind, f"{row.cause} ({row.source})", row.look, row.cure)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
