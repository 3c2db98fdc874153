"""Versions of torch, torch_npu, CANN and Python that go together, and their comparison.

Sources: COMPATIBILITY and SUPPORT pages of Ascend/pytorch, read in August 2026; the guide for its
own row.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Release(NamedTuple):
    """A release of torch_npu, the torch it is built for and the CANN it needs.

    `cann` is None if the tables do not name it yet.
    """

    torch_npu: str
    torch: str
    cann: str | None


RELEASES: tuple[Release, ...] = (
    Release("2.13.0", "2.13.0", None),  # on PyPI; the tables name its Pythons, not its CANN
    Release("2.12.0", "2.12.0", "9.1.0"),
    Release("2.11.0", "2.11.0", "9.1.0"),
    Release("2.10.0.post4", "2.10.0", "9.1.0"),
    Release("2.10.0.post2", "2.10.0", "9.0.0"),
    Release("2.9.0.post6", "2.9.0", "9.1.0"),
    Release("2.9.0.post2", "2.9.0", "9.0.0"),
    Release("2.9.0", "2.9.0", "8.5.0"),
    Release("2.8.0.post4", "2.8.0", "9.0.0"),
    Release("2.8.0.post2", "2.8.0", "8.5.0"),
    Release("2.8.0", "2.8.0", "8.3.RC1"),
    Release("2.7.1.post8", "2.7.1", "9.1.0"),
    Release("2.7.1.post4", "2.7.1", "9.0.0"),
    Release("2.7.1.post2", "2.7.1", "8.5.0"),
    Release("2.7.1", "2.7.1", "8.3.RC1"),
    Release("2.6.0.post5", "2.6.0", "8.5.0"),
    Release("2.6.0.post3", "2.6.0", "8.3.RC1"),
    Release("2.6.0", "2.6.0", "8.2.RC1"),
    Release("2.5.1.post1", "2.5.1", "8.2.RC1"),
    Release("2.5.1", "2.5.1", "8.1.RC1"),
    Release("2.4.0.post4", "2.4.0", "8.1.RC1"),
    Release("2.4.0.post2", "2.4.0", "8.0.0"),
    Release("2.4.0", "2.4.0", "8.0.RC3"),
    Release("2.3.1.post6", "2.3.1", "8.1.RC1"),
    Release("2.3.1.post4", "2.3.1", "8.0.0"),
    Release("2.1.0.post17", "2.1.0", "8.3.RC1"),
    Release("2.1.0.post13", "2.1.0", "8.2.RC1"),
    Release("2.1.0.post12", "2.1.0", "8.1.RC1"),
    Release("2.1.0.post10", "2.1.0", "8.0.0"),
    Release("2.1.0.post8", "2.1.0", "8.0.RC3"),
    Release("2.1.0.post6", "2.1.0", "8.0.RC2"),
    Release("2.1.0.post4", "2.1.0", "8.0.RC1"),
    Release("2.1.0", "2.1.0", "7.0.0"),
    Release("2.0.1.post1", "2.0.1", "7.0.0"),  # the guide's era
    Release("2.0.1", "2.0.1", "7.0.RC1"),
    Release("2.0.1.rc1", "2.0.1", "6.3.RC2"),
    Release("1.11.0.post8", "1.11.0", "7.0.0"),  # the guide's other, which it calls 1.11.1
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
    """Versions that were installed together at one time.

    None for a version that depends on the card and is named on the card's page.
    """

    release: Release
    python: str
    cann: str
    driver: str | None
    firmware: str | None


def release_of(torch_npu: str) -> Release | None:
    """Return the row of a torch_npu release; a build suffix (`+git…`) is ignored."""
    plain = torch_npu.partition("+")[0]
    return next((release for release in RELEASES if release.torch_npu == plain), None)


def cann_for(release: Release) -> str:
    """Return the CANN that a release needs.

    If the tables name none, return that of the newest earlier release: it is the lower bound.
    """
    not_newer = RELEASES[RELEASES.index(release) :]
    return next(other.cann for other in not_newer if other.cann)


def order(number: str | None) -> tuple[int, ...]:
    """Return a sort key: 2.4 is below 2.27, 8.0.RC3 below 8.0.0; a build after + is ignored."""
    numbers: list[int] = []
    for part in (number or "").partition("+")[0].lower().split("."):
        digits = int("".join(c for c in part if c in "0123456789")[:9] or 0)
        numbers.append(digits - 1000 if part.startswith(("rc", "t", "alpha", "beta")) else digits)
    return tuple(numbers)


def same_cann(found: str, wanted: str) -> bool:
    """Return whether `found` is `wanted` or one of its builds, as 9.1.0.B080 is of 9.1.0."""
    have = order(found)
    want = order(wanted)
    return have[: len(want)] == want[: len(have)]


def fits_python(torch: str, python: str) -> bool:
    """Return whether wheels for this Python exist; True if the tables lack this torch."""
    low, high = PYTHONS.get(torch, ("0", "99"))
    return order(low) <= order(python)[:2] <= order(high)


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed Python package; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


TODAY = Era(RELEASES[0], "3.11", cann_for(RELEASES[0]), None, None)
GUIDE = Era(
    next(release for release in RELEASES if release.torch_npu == "2.0.1.post1"),
    "3.9",
    "7.0.0",
    "23.0.0",
    "7.1.0.3.220",
)
ERAS: dict[str, Era] = {"today": TODAY, "guide": GUIDE}
# CANN's tools fail without these Python packages.
PYTHON_NEEDS = "numpy pyyaml decorator attrs scipy psutil sympy cffi protobuf absl-py"
# The guide's tables: builds that it was written for, and the Python packages of its scripts.
GUIDE_BUILDS = {
    "Ascend HDK": "23.0.0.B060",
    "CANN": "7.0.0.B080",
    "FrameworkPTAdapter": "5.0.0.B080",
    "Python": "3.9.18",
}
GUIDE_NEEDS = {
    "transformers": "4.30.2",
    "decorator": "5.1.1",
    "sympy": "1.11.1",
    "scipy": "1.11.3",
    "attrs": "23.1.0",
    "psutil": "5.9.6",
    "sentencepiece": "0.1.99",
}
