"""Which torch, torch_npu, CANN and Python go together: the vendor's tables, the guide's era and today's.

Sources: COMPATIBILITY and SUPPORT pages of Ascend/pytorch, read in August 2026; the guide for its own row.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    pass


class Pair(NamedTuple):
    """A release of torch_npu, the torch it is built for and the CANN it needs (None: the tables name none yet)."""

    torch_npu: str
    torch: str
    cann: str | None


PAIRS: tuple[Pair, ...] = (
    Pair("2.13.0", "2.13.0", None),  # on PyPI; the tables name its Pythons, and CANN up to 2.12.0
    Pair("2.12.0", "2.12.0", "9.1.0"),
    Pair("2.11.0", "2.11.0", "9.1.0"),
    Pair("2.10.0.post4", "2.10.0", "9.1.0"),
    Pair("2.10.0.post2", "2.10.0", "9.0.0"),
    Pair("2.9.0.post6", "2.9.0", "9.1.0"),
    Pair("2.9.0.post2", "2.9.0", "9.0.0"),
    Pair("2.9.0", "2.9.0", "8.5.0"),
    Pair("2.8.0.post4", "2.8.0", "9.0.0"),
    Pair("2.8.0.post2", "2.8.0", "8.5.0"),
    Pair("2.8.0", "2.8.0", "8.3.RC1"),
    Pair("2.7.1.post8", "2.7.1", "9.1.0"),
    Pair("2.7.1.post4", "2.7.1", "9.0.0"),
    Pair("2.7.1.post2", "2.7.1", "8.5.0"),
    Pair("2.7.1", "2.7.1", "8.3.RC1"),
    Pair("2.6.0.post5", "2.6.0", "8.5.0"),
    Pair("2.6.0.post3", "2.6.0", "8.3.RC1"),
    Pair("2.6.0", "2.6.0", "8.2.RC1"),
    Pair("2.5.1.post1", "2.5.1", "8.2.RC1"),
    Pair("2.5.1", "2.5.1", "8.1.RC1"),
    Pair("2.4.0.post4", "2.4.0", "8.1.RC1"),
    Pair("2.4.0.post2", "2.4.0", "8.0.0"),
    Pair("2.4.0", "2.4.0", "8.0.RC3"),
    Pair("2.3.1.post6", "2.3.1", "8.1.RC1"),
    Pair("2.3.1.post4", "2.3.1", "8.0.0"),
    Pair("2.1.0.post17", "2.1.0", "8.3.RC1"),
    Pair("2.1.0.post13", "2.1.0", "8.2.RC1"),
    Pair("2.1.0.post12", "2.1.0", "8.1.RC1"),
    Pair("2.1.0.post10", "2.1.0", "8.0.0"),
    Pair("2.1.0.post8", "2.1.0", "8.0.RC3"),
    Pair("2.1.0.post6", "2.1.0", "8.0.RC2"),
    Pair("2.1.0.post4", "2.1.0", "8.0.RC1"),
    Pair("2.1.0", "2.1.0", "7.0.0"),
    Pair("2.0.1.post1", "2.0.1", "7.0.0"),  # the guide's era
    Pair("2.0.1", "2.0.1", "7.0.RC1"),
    Pair("2.0.1.rc1", "2.0.1", "6.3.RC2"),
    Pair("1.11.0.post8", "1.11.0", "7.0.0"),  # the guide's other torch
)
PYTHONS: dict[str, tuple[str, str]] = {  # torch -> first and last Python
    "2.13.0": ("3.10", "3.14"),
    "2.12.0": ("3.10", "3.14"),
    "2.11.0": ("3.10", "3.14"),
    "2.10.0": ("3.10", "3.13"),
    "2.9.0": ("3.10", "3.13"),
    "2.8.0": ("3.9", "3.13"),
    "2.7.1": ("3.9", "3.13"),
    "2.6.0": ("3.9", "3.11"),
    "2.5.1": ("3.9", "3.11"),
    "2.4.0": ("3.8", "3.11"),
    "2.3.1": ("3.8", "3.11"),
    "2.1.0": ("3.8", "3.11"),
    "2.0.1": ("3.8", "3.9"),
    "1.11.0": ("3.7", "3.10"),
}


class Era(NamedTuple):
    """What is installed together at a time; None where the version depends on the card and its page names it."""

    pair: Pair
    python: str
    cann: str
    driver: str | None
    firmware: str | None


def pair_of(torch_npu: str) -> Pair | None:
    """The row of a torch_npu release; a build (`+git…`) does not matter."""
    plain = torch_npu.partition("+")[0]
    return next((pair for pair in PAIRS if pair.torch_npu == plain), None)


def cann_for(pair: Pair) -> str:
    """The CANN that a release needs; for one without, that of the newest release before it: no earlier will do."""
    later = PAIRS[PAIRS.index(pair) :]
    return next(other.cann for other in later if other.cann)


def order(version: str | None) -> tuple[int, ...]:
    """Versions to compare: 2.4 is below 2.27, 8.0.RC3 below 8.0.0, a build after + does not matter."""
    numbers: list[int] = []
    for part in (version or "").partition("+")[0].lower().split("."):
        digits = int("".join(c for c in part if c.isdigit()) or 0)
        numbers.append(digits - 1000 if part.startswith(("rc", "t", "alpha", "beta")) else digits)
    return tuple(numbers)


def same_cann(found: str, wanted: str) -> bool:
    """9.1.0 for 9.1.0, 9.1.0.B080 and 9.1: later parts are builds of one release."""
    have = order(found)
    want = order(wanted)
    return have[: len(want)] == want[: len(have)]


def fits_python(torch: str, python: str) -> bool:
    """Whether wheels for this Python exist; True where the tables do not say."""
    low, high = PYTHONS.get(torch, ("0", "99"))
    return order(low) <= order(python)[:2] <= order(high)


TODAY = Era(PAIRS[0], "3.11", cann_for(PAIRS[0]), None, None)
GUIDE = Era(
    next(pair for pair in PAIRS if pair.torch_npu == "2.0.1.post1"),
    "3.9",
    "7.0.0",
    "23.0.0",
    "7.1.0.3.220",
)
ERAS: dict[str, Era] = {"today": TODAY, "guide": GUIDE}
PYTHON_NEEDS = "numpy pyyaml decorator attrs scipy psutil sympy cffi protobuf absl-py"  # CANN's tools fail without them
