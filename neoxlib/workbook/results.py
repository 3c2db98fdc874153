"""A run's results: its checks, its status, and the reading of its results.json.

Results are read with every key present, or refused in one sentence.
"""

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxlib.forms import OBJECT, TEXT, Maybe, parse, problems

MOST_BYTES = 16 * 2**20  # of a results.json; those of our notebooks have some kB
NO_RUN = {
    "run": "",
    "notebook": "",
    "status": "broken",
    "parameters": {},
    "given": [],
    "environment": {},
    "model": {},
    "verdict": "",
    "noise": [],
    "metrics": {},
    "checks": [],
    "process": {},
    "started": None,
    "seconds": None,
    "error": None,
}
OF = {str: TEXT, dict: OBJECT}
FORM = {
    **{
        key: Maybe(OF[type(value)], null=False)
        for key, value in NO_RUN.items()
        if type(value) in OF
    },
    "given": Maybe([TEXT], null=False),
    "noise": Maybe([TEXT], null=False),
    "checks": Maybe([OBJECT], null=False),
    "error": Maybe(OBJECT),
}
CHECK_WORDS = {True: "PASS", False: "FAIL", None: "NOT JUDGED"}


@dataclass(frozen=True)
class Check:
    """A condition that must hold for the run to count, with the figures it was judged by.

    `passed` is None where the figures are too uncertain for a verdict.
    """

    name: str
    passed: bool | None
    detail: str = ""

    @property
    def word(self) -> str:
        """The verdict as reports show it."""
        return CHECK_WORDS[self.passed]

    def __repr__(self) -> str:
        return f"{self.word}  {self.name}: {self.detail}"


def status_of(checks: Iterable[Check], noise: Iterable[str]) -> str:
    """Return the status of a run that came to its end: the worst that is true of it."""
    verdicts = [check.passed for check in checks]
    if False in verdicts:
        return "check-failed"
    if None in verdicts:
        return "not-judged"
    return "noisy" if any(noise) else "ok"


def failed(results: Mapping[str, Any]) -> str:
    """Return the checks of results that failed in words; "" if none did."""
    checks = [check for check in results["checks"] if check.get("passed") is False]
    return "; ".join(f"{check.get('name')}: no ({check.get('detail')})" for check in checks)


def read_results(path: Path) -> dict[str, Any]:
    """Return a run's results, by its folder or the file, with every key of NO_RUN present.

    Raises ValueError if there is no such file, or one too large, no JSON, or JSON of another form.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        found = parse(_text_of(path))
    except OSError as error:
        raise ValueError(f"no {path.name} that can be read") from error
    if wrong := _wrong(found):
        raise ValueError(f"{path.name} is not of this format: {wrong}")
    return NO_RUN | {"run": path.parent.name, "notebook": path.parent.parent.name} | found


def _text_of(path: Path) -> str:
    """Read a file that is one, and not too large: a pipe or a device would give no end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{path.name} is not a regular file")
    if about.st_size > MOST_BYTES:
        size = f"{about.st_size:,} bytes, more than {MOST_BYTES:,}"
        raise ValueError(f"{path.name} has {size}")
    return path.read_text(encoding="utf-8")


def _wrong(found: Any) -> str:
    """Return what keeps a value from being a run's results, or an empty text."""
    if not isinstance(found, dict):
        return f"it holds {type(found).__name__}, expected an object"
    return "; ".join(problems(found, FORM))
