"""From a clone to the first report: how long it takes, and how large its environment is.

Clones what is committed into an empty folder, with a home folder of its own, so that no package,
kernel or font is cached, and runs `make report` there until the model has answered. `--index pypi`
takes every package from PyPI, whose torch is a CUDA build; by default they come from where pip is
set up to look. Each index is a row of outputs/bench/first-report.json; the .md files beside it go
into README and docs.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import Others, load_average, machine
from benchmarks.outside import ROOT

OUT = ROOT / "outputs" / "bench"
NAME = "first-report"
PYTHON = Path(sys.base_prefix) / "bin" / "python3.11"
OURS = ("NEOXLIB_", "PIP_", "PYTEST_", "XDG_")  # variables that a new user does not have
UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
FIRST, ANSWERS = "00_setup", "02_inference"
WORDS = {  # ending of the file -> what the pages of a language say
    "": {
        "head": "| torch | environment | it is ready | first report | first answers |",
        "note": (
            "- {torch}: {downloaded} of packages were downloaded and {local} taken from a folder; "
            "{cpu}, {cores} cores, load average {before} before and {after} after; commit {git}, "
            "{date}."
        ),
        "line": (
            "- **First report**: {first} after `git clone` began, the model's first answers after "
            "{answers}, with a load average of {before}; the environment takes {size} with torch "
            "{torch}{more} "
            "([docs/first-steps.md](docs/first-steps.md))."
        ),
        "more": ", and {size} with {torch}, which PyPI serves",
    },
    "-zh": {
        "head": "| torch | 环境大小 | 环境就绪 | 第一份报告 | 模型的首批回答 |",
        "note": (
            "- {torch}：下载的安装包 {downloaded}，取自本地目录 {local}；{cpu}，{cores} 核，"
            "平均负载：之前 {before}，之后 {after}；提交 {git}，{date}。"
        ),
        "line": (
            "- **第一份报告**：从 `git clone` 开始算起 {first}，模型的首批回答 {answers}，"
            "当时平均负载为 {before}；环境大小：torch {torch} 为 {size}{more}"
            "（见 [docs/first-steps.md](docs/first-steps.md)）。"
        ),
        "more": "，PyPI 提供的 {torch} 为 {size}",
    },
}


def measure(index: str) -> dict[str, Any]:
    """Return the times of clone, environment and reports, and the environment's size."""
    others = Others()
    with TemporaryDirectory(prefix="first-report-") as place:
        folder, home = Path(place) / "neoxlib", Path(place) / "home"
        home.mkdir()
        env = environment(index, home)
        clone_s = _run(["git", "clone", "--quiet", str(ROOT), str(folder)], ROOT, env)
        environment_s = _run(["make", ".venv/.installed", f"PYTHON={PYTHON}"], folder, env)
        start = time.time()
        _until(folder, ANSWERS, env)
        made = {path.parts[-3]: path.stat().st_mtime - start for path in reports(folder)}
        log = (home / "pip.log").read_text(encoding="utf-8", errors="replace")
        return {
            "index": index,
            "torch": _torch(folder),
            "clone_s": clone_s,
            "environment_s": environment_s,
            "first_s": made[FIRST],
            "answers_s": made[ANSWERS],
            "environment_bytes": size(folder / ".venv"),
            "downloaded_bytes": downloaded(log),
            "local_bytes": local(log),
            "machine": machine(),
            "others": others.about(),
        }


def environment(index: str, home: Path) -> dict[str, str]:
    """Return the variables of a new user, whose packages come from `index`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    kept = {name: value for name, value in kept.items() if name != "VIRTUAL_ENV"}
    pip = {"PIP_LOG": str(home / "pip.log"), "PIP_DEFAULT_TIMEOUT": "180"}
    if index == "pypi":
        return kept | pip | {"HOME": str(home), "PIP_CONFIG_FILE": os.devnull}
    set_up = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return kept | set_up | pip | {"HOME": str(home)}


def _run(command: list[str], folder: Path, env: dict[str, str]) -> float:
    print(" ".join(command), flush=True)
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True)
    return time.perf_counter() - start


def _until(folder: Path, notebook: str, env: dict[str, str]) -> None:
    """Run `make report` until a notebook's report is there, and end it as Ctrl-C does."""
    print("make report", flush=True)
    process = subprocess.Popen(["make", "report"], cwd=folder, env=env, start_new_session=True)
    try:
        while not any(path.parts[-3] == notebook for path in reports(folder)):
            if process.poll() is not None:
                raise RuntimeError(f"make report ended without a report of {notebook}")
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()


def reports(folder: Path) -> list[Path]:
    """Return the reports of a checkout."""
    return sorted(folder.glob("outputs/*/*/report.html"))


def _torch(folder: Path) -> str:
    ask = [str(folder / ".venv/bin/python"), "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()


def size(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk, a file of several names once."""
    found = (path.lstat() for path in folder.rglob("*"))
    return sum({(seen.st_dev, seen.st_ino): 512 * seen.st_blocks for seen in found}.values())


def downloaded(log: str) -> float:
    """Return the bytes of the files that pip's log says it downloaded."""
    sizes = re.findall(r"Downloading \S+ \(([\d.]+) (bytes|kB|MB|GB)\)", log)
    return sum(float(number) * UNITS[unit] for number, unit in sizes)


def local(log: str) -> int:
    """Return the bytes of the wheels that pip took from folders of this machine."""
    paths = {Path(name) for name in re.findall(r"Processing (/\S+\.whl)", log)}
    return sum(path.stat().st_size for path in paths if path.is_file())


def table(rows: list[dict[str, Any]], words: dict[str, str]) -> str:
    """Return a line per index, and below under which conditions each was measured."""
    lines = [words["head"], "|---|---|---|---|---|"]
    for row in rows:
        facts = _facts(row)
        cells = (facts[name] for name in ("torch", "size", "ready", "first", "answers"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(words["note"].format(**_facts(row)) for row in rows)])


def sentence(rows: list[dict[str, Any]], words: dict[str, str]) -> str:
    """Return the line of the README: of the smallest environment, and how large the largest is."""
    least, *_, most = sorted([*rows, *rows], key=lambda row: row["environment_bytes"])
    more = words["more"].format(**_facts(most)) if most is not least else ""
    return words["line"].format(**_facts(least), more=more)


def _facts(row: dict[str, Any]) -> dict[str, str]:
    about, others = row["machine"], row["others"]
    ready = row["clone_s"] + row["environment_s"]
    after = {"first": "first_s", "answers": "answers_s"}
    return {name: _seconds(ready + row[key]) for name, key in after.items()} | {
        "ready": _seconds(ready),
        "torch": f"`{row['torch']}`",
        "size": _size(row["environment_bytes"]),
        "downloaded": _size(row["downloaded_bytes"]),
        "local": _size(row["local_bytes"]),
        "cpu": about["cpu"],
        "cores": str(about["cores"]),
        "git": str(about["git"])[:10],
        "date": str(about["date"])[:10],
        "before": f"{others['load_before']:.1f}",
        "after": f"{others['load_after']:.1f}",
    }


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def _size(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.0f} MB"


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the rows, and what the pages in both languages say of them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for ending, words in WORDS.items():
        for kind, made in (("", table), ("-readme", sentence)):
            path = out / f"{NAME}{kind}{ending}.md"
            path.write_text(made(rows, words) + "\n", encoding="utf-8")


def main() -> None:
    """Measure one index, and put it beside the others that were measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_report", description=__doc__)
    parser.add_argument("--index", choices=("here", "pypi"), default="here")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for results")
    asked = parser.parse_args()
    path = asked.out / f"{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [row for row in rows if row["index"] != asked.index]
    rows = sorted([*kept, measure(asked.index)], key=lambda row: row["index"])
    write(rows, asked.out)
    print(table(rows, WORDS[""]), load_average(rows[-1]["others"]), sep="\n")


if __name__ == "__main__":
    main()
