"""The vendor's two programs, each in a process of its own, and what they answer."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "align.md"
MSPROBE = Path(sys.executable).with_name("msprobe")
LIMIT = 3600  # seconds


class Failed(Exception):
    """A program of the vendor's ended badly; the message has its last words."""


def call(command: list[str], folder: Path) -> None:
    """Run a command; raises Failed with its last lines."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    how = {"capture_output": True, "text": True, "env": variables, "cwd": folder}
    done = subprocess.run(["timeout", str(LIMIT), *command], **how, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise Failed(f"{command[:3]} ended with exit code {done.returncode}: {tail}")


def dumped(
    model: Path, capture: Path, folder: Path, task: str = "tensor", level: str = "L0"
) -> Path:
    """Run the script of docs/align.md, which has PrecisionDebugger dump transformers' model."""
    (script,) = _blocks("python")
    path = folder.with_suffix(".py")
    assert 'level="L0"' in script
    path.write_text(script.replace('level="L0"', f'level="{level}"'), encoding="utf-8")
    manifest = capture / "capture.json"
    command = [sys.executable, path, model, manifest, folder, "cpu", task]
    call(list(map(str, command)), path.parent)
    return folder


def lines() -> list[str]:
    """The commands of docs/align.md."""
    return [line for block in _blocks("") for line in block.replace("\\\n", " ").splitlines()]


def _blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return [text for kind, text in found if kind == language]


@dataclass(frozen=True)
class Table:
    """The rows of `msprobe compare`, in the order of the first dump."""

    rows: pd.DataFrame

    @property
    def unmatched(self) -> list[str]:
        """Rows of the first dump that have none in the other."""
        return self.rows[self.rows["Bench Name"].isna()]["NPU Name"].tolist()

    @property
    def matched(self) -> list[str]:
        """Rows of both."""
        return self.rows[self.rows["Bench Name"].notna()]["NPU Name"].tolist()

    @property
    def wrong(self) -> list[str]:
        """Rows of both that did not pass, by msprobe's own verdict."""
        both = self.rows["Bench Name"].notna()
        return self.rows[both & (self.rows["Result"] != "pass")]["NPU Name"].tolist()

    @property
    def off(self) -> list[str]:
        """Rows of both of which less than nine tenths of the values are within a thousandth."""
        ratio = pd.to_numeric(self.rows["One Thousandth Err Ratio"], errors="coerce")
        return self.rows[self.rows["Bench Name"].notna() & (ratio < 0.9)]["NPU Name"].tolist()


def module(row: str) -> str:
    """The whole name of a row's module, without its class."""
    return row.removeprefix("Module.").split(".forward.")[0].rpartition(".")[0]


def compared(pairs: list[tuple[Path, Path]], folder: Path) -> list[Table]:
    """`msprobe compare` of pairs of folders with a dump.json each, in one call.

    They are handed over as the ranks of one step, which is how msprobe takes several.
    """
    for side, name in enumerate(("target", "golden")):
        for rank, pair in enumerate(pairs):
            shutil.copytree(pair[side], folder / name / f"rank{rank}", copy_function=os.link)
    (folder / "result").mkdir()
    paths = "-tp", folder / "target", "-gp", folder / "golden", "-o", folder / "result"
    call([str(MSPROBE), "compare", *map(str, paths)], folder)
    tables = []
    for rank in range(len(pairs)):
        (result,) = (folder / "result").glob(f"compare_result_rank{rank}_*.csv")
        tables.append(Table(pd.read_csv(result, keep_default_na=False, na_values=["N/A"])))
    return tables


def place(dump: Path, step: int) -> Path:
    """The folder of dump.json of one step."""
    (path,) = dump.glob(f"step{step}/*/dump.json")
    return path.parent
