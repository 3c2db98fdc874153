"""What `npu-smi info` says, as data. It asks the driver, so no accelerator is initialised in this process."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

_FAILURE = re.compile(r"dcmi \w+ initiali[sz]ed? failed.*ret is (-\d+)")
_BUS = re.compile(r"^[0-9A-Fa-f]{4,}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\w$")
_USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")


@dataclass(frozen=True)
class Card:
    """One chip as the table prints it. Memory is HBM where that column exists, else the on-board DDR, in MiB."""

    npu: int
    chip: int
    name: str
    health: str
    bus_id: str
    used_mib: int | None
    total_mib: int | None

    @property
    def free_mib(self) -> int | None:
        return None if self.used_mib is None or self.total_mib is None else self.total_mib - self.used_mib


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a chip."""

    npu: int
    chip: int
    pid: int
    name: str
    mib: int


@dataclass(frozen=True)
class Smi:
    """A parsed answer: either cards or the reason why there are none."""

    version: str | None = None
    cards: tuple[Card, ...] = ()
    holders: tuple[Holder, ...] = ()
    failure: str | None = None


def parse(text: str) -> Smi:
    """Read the output of `npu-smi info` in any of its known shapes.

    The shapes differ by chip: 910B prints Memory and HBM, 310P a `Device` column and no HBM, A3 two chips for one NPU
    and a `Phy-ID` column. Only what all of them share is used: a line `id name | health | …` and, below it,
    `chip … | bus id | … used / total`. Where the device cannot be asked, a `dcmi …` line stands instead of a table.
    """
    failed = _FAILURE.search(text)
    if failed:
        return Smi(failure=failed.group(0))
    version = re.search(r"npu-smi\s+(\S+)", text)
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if "|" in line]
    cards = tuple(_card(up, low) for up, low in pairwise(rows) if _is_card(up, low))
    holders = tuple(_holder(row) for row in rows if _is_holder(row))
    if not cards:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        return Smi(failure=f"npu-smi printed no device table but: {first[:200]}")
    return Smi(version.group(1) if version else None, cards, holders)


def read(command: str = "npu-smi") -> Smi | None:
    """Run `npu-smi info`; None where there is no such command."""
    try:
        done = subprocess.run([command, "info"], capture_output=True, text=True, errors="replace", timeout=60)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        return Smi(failure=f"npu-smi could not be run: {error}")
    found = parse(done.stdout + done.stderr)
    return replace(found, cards=tuple(_with_memory(card, command) for card in found.cards))


def ask(*options: str, command: str = "npu-smi") -> str:
    """What `npu-smi info` prints with these options, `-m` or `-t topo`; empty where it cannot be run."""
    try:
        done = subprocess.run([command, "info", *options], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _with_memory(card: Card, command: str) -> Card:
    """The table of some chips has no memory column: then the usages are asked."""
    if card.total_mib is not None:
        return card
    usages = parse_pairs(ask("-t", "usages", "-i", str(card.npu), command=command))
    return replace(card, total_mib=memory_mib(usages))


@dataclass(frozen=True)
class Position:
    """A line of `npu-smi info -m`: where a chip is, and its number among all chips, which is what torch counts by."""

    npu: int
    chip: int
    logic: int | None  # the newest chips print none
    name: str


def parse_map(text: str) -> tuple[Position, ...]:
    """Read `npu-smi info -m`, whose columns differ by driver; controllers (`Mcu`, logic id `-`) are left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head = next((re.split(r"\s{2,}", line) for line in lines if line.startswith("NPU ID")), [])
    cells = (line.split(None, len(head) - 1) for line in lines if head and line[0].isdigit())  # the name has blanks
    rows = [dict(zip(head, values, strict=False)) for values in cells if len(values) == len(head)]
    return tuple(
        Position(int(row["NPU ID"]), int(row["Chip ID"]), int(logic) if logic else None, row.get("Chip Name", ""))
        for row in rows if (logic := row.get("Chip Logic ID")) != "-" and row.get("Chip Name") != "Mcu"
    )  # fmt: skip


def parse_pairs(text: str) -> dict[str, str]:
    """Read the lines `Key : Value` of `npu-smi info -t board` and `-t usages`; blanks round both are dropped."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def memory_mib(usages: Mapping[str, str]) -> int | None:
    """Device memory in what `-t usages` says: HBM where there is any, else DDR (310P), else plain `Capacity` (310B)."""
    sizes = (usages.get(f"{kind}Capacity(MB)", "") for kind in ("HBM ", "DDR ", ""))
    return next((int(size) for size in sizes if size.isdigit() and int(size) > 0), None)


@dataclass(frozen=True)
class Topology:
    """How the NPUs are linked (`links[a][b]`: HCCS, PIX, PHB, SYS …), and the host's cores near each of them."""

    links: dict[str, dict[str, str]]
    cores: dict[str, str]  # "144-167"

    @property
    def has_hccs(self) -> bool:
        """Whether some pair is linked by HCCS rather than over the host."""
        return any(link.startswith("HCCS") for row in self.links.values() for link in row.values())


def parse_topology(text: str) -> Topology:
    """Read `npu-smi info -t topo`: the rows of its matrix only, for the legend below them has the word HCCS, too."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    names = [cell for cell in lines[0] if cell.startswith("NPU")] if lines else []
    rows = [cells for cells in lines[1:] if cells[0] in names]
    links = {cells[0]: dict(zip(names, cells[1:], strict=False)) for cells in rows}
    cores = {cells[0]: cells[len(names) + 1] for cells in rows if len(cells) > len(names) + 1}
    return Topology(links, cores)


def _is_card(up: list[str], low: list[str]) -> bool:
    return len(up) == 3 and len(low) == 3 and bool(re.match(r"\d+\s+\S", up[0])) and bool(_BUS.match(low[1]))


def _card(up: list[str], low: list[str]) -> Card:
    npu, name = up[0].split(None, 1)
    usages = _USAGE.findall(low[2])  # [Memory, HBM] or [Memory]; "29096/ 32768" has no blank before the slash
    used, total = (int(n) for n in usages[-1]) if usages else (None, None)
    return Card(int(npu), int(low[0].split()[0]), name, up[1], low[1], used, total)


def _is_holder(row: list[str]) -> bool:
    return len(row) == 4 and bool(re.fullmatch(r"\d+\s+\d+", row[0])) and row[1].isdigit() and row[3].isdigit()


def _holder(row: list[str]) -> Holder:
    npu, chip = row[0].split()
    return Holder(int(npu), int(chip), int(row[1]), row[2], int(row[3]))  # the name cell may be empty
