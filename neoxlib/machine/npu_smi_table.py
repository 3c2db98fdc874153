"""Tables drawn with bars, as npu-smi prints them, read by their column names."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

RULER = re.compile(r"[+=\s-]*(==|--)[+=\s-]*")
NAME = re.compile(r"NPU ID|NPU Util\(%\)|Process id in container|Process \w+(?:\(\w+\))?|\S+", re.I)
VALUE = re.compile(r"\S+?\s*/\s*\S+|\S+")  # "29096/ 32768" is one: used and total
HEADS = {"name", "health", "chip", "bus-id", "device", "phy-id", "process id"}  # and Temp(C) …
UNIT = re.compile(r"\w\([\w%]+\)$")
REMARK = re.compile(r"No (running )?process|npu-smi\s", re.I)


@dataclass
class Table:
    """Rows under a header of one or more lines; a record has as many lines as the header."""

    heads: list[list[list[str]]]  # line, column, names: several values may share a column
    rows: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        return {name for line in self.heads for column in line for name in column}

    def records(self) -> Iterator[tuple[dict[str, str], str]]:
        """Yield each record by column name, with its original lines.

        Raises ValueError, with the lines, for a record that does not fit the columns.
        """
        height = len(self.heads)
        for start in range(0, len(self.rows), height):
            lines = self.rows[start : start + height]
            whole = " / ".join(line.strip() for line in lines)
            columns = [names for head in self.heads for names in head]
            cells = [cell for line in lines for cell in _cells(line)]
            if [len(_cells(line)) for line in lines] != [len(head) for head in self.heads]:
                raise ValueError(whole)
            pairs = zip(columns, cells, strict=True)
            yield {key: value for pair in pairs for key, value in _values(*pair, whole)}, whole


def tables(text: str) -> list[Table]:
    """Find every table of the text. The version, rulers and remarks are left out."""
    found: list[Table] = []
    for line in _whole_lines(text):
        cells = _cells(line)
        names = [[_plain(name) for name in NAME.findall(cell)] for cell in cells]
        words = {name for column in names for name in column}
        first = next((cell for cell in cells if cell), "")
        if not first or REMARK.match(first):
            continue
        if not first[0].isdigit() and (words & HEADS or any(UNIT.search(word) for word in words)):
            if not found or found[-1].rows:
                found.append(Table([]))
            found[-1].heads.append(names)
        elif found:
            found[-1].rows.append(line)
    return found


def _plain(name: str) -> str:
    """Lower-case a column's name; 950 calls the card's number NPU ID, all others NPU."""
    return "npu" if name.lower() == "npu id" else name.lower()


def _whole_lines(text: str) -> list[str]:
    """List the rows between bars, with wrapped lines joined.

    A narrow terminal wraps lines, and a copy of it may lack the spaces at its edge.
    """
    lines = text.splitlines()
    drawn = [line for line in lines if line.lstrip().startswith(("|", "+"))]
    indent = min((len(line) - len(line.lstrip()) for line in drawn), default=0)
    width = max(map(len, drawn), default=0)
    cut = any(not line.rstrip().endswith(("|", "+")) for line in drawn)
    rows: list[str] = []
    within = False
    closed = True  # the last row may be complete, yet further pieces may follow
    for line in lines:
        if line[indent:].startswith("+") or RULER.fullmatch(line):
            within = False
            continue
        if within and cut and not (closed and line[indent:].startswith("|")):
            rows[-1] += line.ljust(width)
        elif within := line[indent:].startswith("|"):
            rows.append(line.ljust(width))
        closed = line.endswith("|") or (len(line) < width and line.rstrip().endswith("|"))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _values(names: Sequence[str], cell: str, line: str) -> Iterator[tuple[str, str]]:
    """Yield a column's values by name. Usages ("0 / 0") go to the usage names, in order."""
    if len(names) == 1 and "usage(" not in names[0]:
        yield names[0], cell
        return
    words = VALUE.findall(cell)
    if len(words) == len(names):
        yield from zip(names, words, strict=True)
        return
    usages = [name for name in names if "usage(" in name]
    pairs = [word for word in words if "/" in word] if usages else []
    if pairs and len(pairs) != len(usages):
        raise ValueError(line)
    yield from zip(usages, pairs, strict=False)
    others = [name for name in names if name not in usages]
    rest = [word for word in words if word not in pairs]
    if len(rest) > len(others) > 0:  # the last may contain spaces
        rest[len(others) - 1 :] = [" ".join(rest[len(others) - 1 :])]
    yield from zip(others, rest, strict=False)
