"""What `npu-smi info` says, as data. It asks the driver, so no accelerator is initialised in this process."""

import re
import subprocess
from dataclasses import dataclass
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
    return parse(done.stdout + done.stderr)


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
