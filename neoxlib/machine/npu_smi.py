"""The output of `npu-smi info` as data. It asks the driver, so no accelerator is initialised.

Tables are read by their column names, since columns differ by chip and by driver.
"""

import logging
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from neoxlib.errors import telling
from neoxlib.forms import is_digits
from neoxlib.machine.npu_smi_table import Table, tables

log = logging.getLogger("neoxlib")

_FAILURE = re.compile(r"dcmi \w+ initiali[sz]ed? failed.*ret is (-\d+)")
_BUS = re.compile(r"[0-9A-Fa-f]{4,}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\w+")
_NOTHING = ("", "-", "NA", "N/A")  # printed for a missing value
_MAP_NAME = re.compile(r"\w+ (?:\w+ ID|Phy-ID|ID|Name)|\S+")
_ENDPOINT = re.compile(r"(NPU|Phy-ID|NIC)\d+")


@dataclass(frozen=True)
class Card:
    """One chip as the table prints it. Memory is the HBM if there is any, else the DDR, in MiB.

    `bus_id` is None for a chip that is not on a PCIe bus (310B, and 950 on its own bus); `health`
    is "" if no column has it.
    """

    npu: int
    chip: int
    name: str
    health: str
    bus_id: str | None
    used_mib: int | None
    total_mib: int | None

    @property
    def free_mib(self) -> int | None:
        if self.used_mib is None or self.total_mib is None:
            return None
        return self.total_mib - self.used_mib


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a chip, with its pids on the host and in its container."""

    npu: int
    chip: int
    pid: int
    name: str
    mib: int
    container_pid: int | None = None

    def seen(self, inside: bool) -> int:
        """Return the pid as seen from `inside` a container or from the host."""
        return self.container_pid if inside and self.container_pid is not None else self.pid


@dataclass(frozen=True)
class Smi:
    """A parsed answer: cards, or the reason for their absence.

    If there are cards, `failure` quotes a line of the process table that cannot be read.
    """

    version: str | None = None
    cards: tuple[Card, ...] = ()
    holders: tuple[Holder, ...] = ()
    failure: str | None = None


def parse(text: str) -> Smi:
    """Parse the output of `npu-smi info`, of any chip and driver, by its column names.

    Layouts differ: 910B prints Memory and HBM, 310P and 310B a `Device` column and no HBM, A3
    two chips for one NPU and a `Phy-ID` column, 950 no chip; since version 26 processes also have
    a pid in their container. If the driver does not answer, there is only a `dcmi …` line.
    A line that does not fit its columns is quoted in `failure`; if it is a card's, no card counts.
    """
    failed = _FAILURE.search(text)
    if failed:
        return Smi(failure=failed.group(0))
    version = re.search(r"npu-smi\s+(\S+)", text)
    found = tables(text)
    about = next((table for table in found if {"npu", "name"} <= table.names), None)
    if about is None or not about.rows:
        first = next((line.strip("| ") for line in telling(text)), "nothing")
        return Smi(failure=f"npu-smi printed no device table but: {first[:200]}")
    try:
        cards = _cards(about)
    except ValueError as error:
        return Smi(failure=f"npu-smi printed a card that cannot be read: {str(error)[:300]}")
    said = Smi(version.group(1) if version else None, cards)
    try:
        return replace(said, holders=_holders(found))
    except ValueError as error:
        failure = f"npu-smi printed a process that cannot be read: {str(error)[:300]}"
        return replace(said, failure=failure)


def query(command: str = "npu-smi") -> Smi | None:
    """Run `npu-smi info`; None if there is no such command."""
    try:
        done = subprocess.run(
            [command, "info"], capture_output=True, text=True, errors="replace", timeout=60
        )
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        return Smi(failure=f"npu-smi could not be run: {error}")
    found = parse(done.stdout + done.stderr)
    return replace(found, cards=tuple(_with_memory(card, command) for card in found.cards))


def ask(*options: str, command: str = "npu-smi") -> str:
    """Return the output of `npu-smi info` with options such as `-m`; empty if it cannot run."""
    try:
        done = subprocess.run(
            [command, "info", *options],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _with_memory(card: Card, command: str) -> Card:
    """Add the memory of `-t usages` if the chip's table has no memory column."""
    if card.total_mib is not None:
        return card
    usages = parse_pairs(ask("-t", "usages", "-i", str(card.npu), command=command))
    return replace(card, total_mib=memory_mib(usages))


@dataclass(frozen=True)
class Position:
    """A line of `npu-smi info -m`: a chip's place and `logic`, its number among all chips.

    torch counts by `logic`, which the newest chips do not print.
    """

    npu: int
    chip: int
    logic: int | None
    name: str


def parse_map(text: str) -> tuple[Position, ...]:
    """Parse `npu-smi info -m`, whose columns differ by driver.

    Controllers (`Mcu`, logic id `-`) are left out.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head = next((_MAP_NAME.findall(line) for line in lines if line.startswith("NPU ID")), [])
    # The name is the last column and may contain spaces.
    cells = (line.split(None, len(head) - 1) for line in lines if head and line[0].isdigit())
    rows = [dict(zip(head, values, strict=False)) for values in cells if len(values) == len(head)]
    chips = [row for row in rows if row.get("Chip Name") != "Mcu" and "-" not in row.values()]
    names = ("NPU ID", "Chip ID", "Chip Logic ID")
    ids = [[_whole(row.get(name)) for name in names] for row in chips]
    return tuple(
        Position(npu, chip or 0, logic, row.get("Chip Name", ""))
        for (npu, chip, logic), row in zip(ids, chips, strict=True)
        if npu is not None
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and is_digits(text) else None


def parse_pairs(text: str) -> dict[str, str]:
    """Parse the lines `Key : Value` of `npu-smi info -t board` and `-t usages`, stripped."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def memory_mib(usages: Mapping[str, str]) -> int | None:
    """Return the device memory of `-t usages`: HBM if there is any, else DDR, else 310B's."""
    sizes = (usages.get(f"{kind}Capacity(MB)", "") for kind in ("HBM ", "DDR ", "Memory ", ""))
    return next((int(size) for size in sizes if is_digits(size) and int(size) > 0), None)


@dataclass(frozen=True)
class Topology:
    """Links between NPUs (`links[a][b]`: HCCS, SIO, UB, PIX, SYS …) and the cores near each NPU.

    The names are those of the output: NPU0, or Phy-ID0 on A3, which has two chips per card. The
    ARM hosts of A3 and 950 have no cores near a chip.
    """

    links: dict[str, dict[str, str]]
    cores: dict[str, str]  # "144-167"

    @property
    def has_hccs(self) -> bool:
        """Whether HCCS, rather than the host, links at least one pair."""
        return any(link.startswith("HCCS") for row in self.links.values() for link in row.values())


def parse_topology(text: str) -> Topology:
    """Parse the matrix of `npu-smi info -t topo`; the legend below it contains HCCS as well.

    Lines may be wrapped between any two words; only in the header do names follow each other.
    """
    matrix = text.partition("Legend")[0]
    near = "CPU Affinity" in matrix
    links: dict[str, dict[str, str]] = {}
    cores: dict[str, str] = {}
    for head, name, cells in _topology_rows(re.sub(r"(CPU|NUMA) Affinity", "", matrix).split()):
        if len(cells) < len(head):
            log.warning("a row of npu-smi's topology cannot be read: %s", " ".join([name, *cells]))
        elif not name.startswith("NIC"):
            row = dict(zip(head, cells, strict=False))
            npus = {to: link for to, link in row.items() if not to.startswith("NIC")}
            links.setdefault(name, {}).update(npus)
            if near and len(cells) > len(head):
                cores[name] = cells[len(head)]
    return Topology(links, cores)


def _topology_rows(words: Sequence[str]) -> Iterator[tuple[list[str], str, list[str]]]:
    """Yield each row of the matrix: the names of its columns, its own name and its cells."""
    starts = [place for place, word in enumerate(words) if _ENDPOINT.fullmatch(word)]
    head: list[str] = []
    run: list[str] = []
    for start, end in pairwise([*starts, len(words)]):
        run.append(words[start])
        if end > start + 1:  # cells follow: the last name is the row's, earlier ones a header
            head = run[:-1] or head
            yield head, run[-1], list(words[start + 1 : end])
            run = []


def _cards(table: Table) -> tuple[Card, ...]:
    cards: list[Card] = []
    for record, line in table.records():
        npu = record.get("npu", "")
        bus = record.get("bus-id", "")
        chip = record.get("chip") or str(sum(str(card.npu) == npu for card in cards))
        if not (is_digits(npu) and is_digits(chip) and record.get("name")):
            raise ValueError(line)
        if bus not in _NOTHING and not _BUS.fullmatch(bus):
            raise ValueError(line)
        memory = _memory(record)
        health = record.get("health", "")
        bus_id = None if bus in _NOTHING else bus
        cards.append(Card(int(npu), int(chip), record["name"], health, bus_id, *memory))
    return tuple(cards)


def _memory(record: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the used and total MiB of the kind of memory that the chip has."""
    for name in ("hbm-usage(mb)", "memory-usage(mb)"):
        used, _, total = (part.strip() for part in record.get(name, "").partition("/"))
        if is_digits(total) and int(total):
            return int(used) if is_digits(used) else None, int(total)
    return None, None


def _holders(found: Sequence[Table]) -> tuple[Holder, ...]:
    processes = [table for table in found if "process id" in table.names]
    return tuple(_holder(*record) for table in processes for record in table.records())


def _holder(record: Mapping[str, str], line: str) -> Holder:
    memory = record.get("process memory(mb)", "")
    place = record.get("npu", ""), record.get("chip") or "0"
    numbers = *place, record.get("process id", ""), memory
    if not all(is_digits(number) for number in numbers):
        raise ValueError(line)
    npu, chip, pid, mib = map(int, numbers)
    inner = record.get("process id in container", "")
    name = record.get("process name", "")  # may be empty
    return Holder(npu, chip, pid, name, mib, int(inner) if is_digits(inner) else None)
