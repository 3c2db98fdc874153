"""What HCCL, the NPUs' collective library, asks of chips, ranks, servers and host ports.

Facts of hccl 09300b70, paths below docs/zh; each rule names its line.
"""

from collections.abc import Callable
from dataclasses import dataclass

from neoxlib.errors import SettingsError
from neoxlib.forms import is_digits
from neoxlib.machine.chips import Chip

GUIDE = "user_guide"
CONSTRAINTS = f"{GUIDE}/constraints.md"
# The ports by which a group's ranks find each other on the host, unless HCCL_IF_BASE_PORT or
# HCCL_HOST_SOCKET_PORT_RANGE names others (user_guide/hccl_env/HCCL_IF_BASE_PORT.md:7, 19).
FIRST_PORT = 60000
PORT_COUNT = 32
# Families that take a range of ports, or "auto" (HCCL_HOST_SOCKET_PORT_RANGE.md:37-48).
TAKE_RANGES = ("950", "A3", "A2")


@dataclass(frozen=True)
class Ranks:
    """Ranks on chips of one kind: in all, on this server, on servers, and this server's chip ids.

    `ids` are the chips that the ranks see as 0, 1, …; None if they are not known.
    """

    chip: Chip
    size: int
    here: int
    servers: int = 1
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RankRule:
    """A rule: whether ranks break it, what it asks, and the line that says so."""

    breaks: Callable[[Ranks], bool]
    asks: str
    source: str


def _across(ranks: Ranks) -> bool:
    """Whether 2 or 4 ranks of a 910A lie in both halves of its eight chips."""
    ids = ranks.ids or ()
    return ranks.here in (2, 4) and len({i // 4 for i in ids[: ranks.here]}) > 1


def _family(name: str, breaks: Callable[[Ranks], bool]) -> Callable[[Ranks], bool]:
    return lambda ranks: ranks.chip.family == name and breaks(ranks)


RULES: tuple[RankRule, ...] = (
    RankRule(
        lambda ranks: ranks.chip.family == "310P" and "hccl" not in ranks.chip.collectives,
        "of the 310P cards only the 300I Duo has HCCL; use one rank",
        f"{GUIDE}/hccl_intro.md:58",
    ),
    RankRule(
        lambda ranks: ranks.chip.family != "310P" and not ranks.chip.collectives,
        "use one rank: no source says that HCCL serves this chip",
        f"{GUIDE}/hccl_intro.md:36-50",
    ),
    RankRule(
        _family("910A", lambda ranks: ranks.here not in (1, 2, 4, 8)),
        "a server of 910A takes part with 1, 2, 4 or 8 ranks",
        f"{CONSTRAINTS}:44",
    ),
    RankRule(
        _family("910A", _across),
        "2 or 4 ranks of a 910A lie within chips 0 to 3 or within 4 to 7",
        f"{CONSTRAINTS}:44",
    ),
    RankRule(
        _family("310P", lambda ranks: ranks.servers > 1),
        "ranks of a 300I Duo run on one server",
        f"{CONSTRAINTS}:50",
    ),
    RankRule(
        _family("A2", lambda ranks: ranks.servers > 1 and ranks.here > 8),
        "each of several A2 servers takes part with 8 ranks at most",
        f"{CONSTRAINTS}:37",
    ),
)


def ports(base: str) -> range:
    """Return HCCL's ports of the host for a value of HCCL_IF_BASE_PORT; "" is the default."""
    first = int(base) if is_digits(base) else FIRST_PORT
    return range(first, min(first + PORT_COUNT, 65536))


def broken_rules(ranks: Ranks) -> tuple[str, ...]:
    """List what `ranks` would have to keep, each with its source; one rank keeps every rule."""
    if ranks.size == 1 or ranks.chip.name == "cpu":
        return ()
    broken = [rule for rule in RULES if rule.breaks(ranks)]
    return tuple(f"{rule.asks} (hccl 09300b70, docs/zh/{rule.source})" for rule in broken)


def refuse_ranks(
    chip: Chip,
    size: int,
    *,
    here: int | None = None,
    servers: int = 1,
    ids: tuple[int, ...] | None = None,
) -> None:
    """Raise SettingsError, with every broken rule, for ranks that HCCL does not serve.

    `here` is the number of ranks on this server, by default all.
    """
    broken = broken_rules(Ranks(chip, size, size if here is None else here, servers, ids))
    if broken:
        on = f" on {servers} servers" if servers > 1 else ""
        raise SettingsError(f"{size} ranks on {chip.name}{on} cannot run: {'; '.join(broken)}")


def remark(chip: Chip, size: int) -> str:
    """Return what a plan of ranks has to say about their cards; empty if nothing."""
    if size == 1 or chip.name != "310P3":
        return ""
    return (
        "310P3 is taken for half of a 300I Duo: a 300I Pro or 300V Pro, which npu-smi calls 310P3 "
        f"as well, has no HCCL and runs one rank (hccl 09300b70, docs/zh/{GUIDE}/hccl_intro.md:58)"
    )
