"""Everything about a run that helps others to find its fault, in one zip without secrets.

Each part is made on its own: one that cannot be made says why, and the others are still there.
"""

import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neoxlib.demo import MODEL_DIR
from neoxlib.errors import DataError, ParameterError
from neoxlib.machine import environment, libraries
from neoxlib.machine.explain import explain
from neoxlib.machine.log_text import find_logs, read_log
from neoxlib.redact import GONE, is_secret, known_here, redact, with_names_of
from neoxlib.setup import doctor
from neoxlib.workbook.past_run import Past, open_run

LARGEST = 1_000_000  # bytes of the zip
LARGEST_RESULTS = 200_000_000  # bytes of a results.json
PART_CHARACTERS = 400_000  # of one part, before the zip is found too large
SMALLEST_PART = 500
MOST_LOGS = 128
SECONDS = 120  # for one command
NPU_SMI = (("info",), ("info", "-m"), ("info", "-t", "topo"), ("info", "-l"))
VARIABLES = ("variables", "env", "launch_environment")  # where results and hosts keep them
STARTED = re.compile(r"rank (\d+) is process (\d+) on ")

README = """\
What neoxlib knows about one run and this machine, for a report. Written by
`python -m neoxlib bundle`. Secrets, home folders, names of users and of this machine, and mail
addresses were removed; network addresses and paths outside of homes were not. Read it before you
send it.

explanation.txt    which rank failed first, cause and cure
logs/ plog/        the run's logs, and CANN's of the ranks' processes
results.json       parameters, environment and checks of the run
environment.json   this machine now: versions, limits, variables
versions.txt       every Python package
libraries.txt      libraries that torch loads here, beside those that are installed
npu-smi.txt        the driver's own tables
doctor.txt .json   what is missing here, with repairs
plan.txt           memory and speed that were to be expected
"""


def write_bundle(run: str | os.PathLike[str], to: str | os.PathLike[str] | None = None) -> Path:
    """Write the bundle of a run's folder, by default `bundle.zip` in it. Returns its path.

    Raises DataError for a folder that is no run, ParameterError for a `to` that exists or cannot be
    written.
    """
    past = _past(Path(run))
    target = Path(to) if to is not None else past.folder / "bundle.zip"
    if to is not None and target.exists():
        raise ParameterError(f"{target} exists; name another file with -o")
    made = _parts(past)
    known = with_names_of(known_here(), made.values())
    parts = {redact(name, known): redact(text, known) for name, text in made.items()}
    data = pack(parts)
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(data)
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        why = error.strerror or error
        raise ParameterError(f"{target} cannot be written: {why}; name another with -o") from error
    return target


def _past(run: Path) -> Past:
    """Open a run. Raises DataError also for a link, and for a device or pipe without an end."""
    results = run / "results.json" if run.is_dir() else run
    if results.is_symlink() or (results.exists() and not results.is_file()):
        raise DataError(f"{results} is not the results.json of a run: it is no plain file")
    if results.is_file() and results.stat().st_size > LARGEST_RESULTS:
        size = f"{results.stat().st_size:,} bytes"
        raise DataError(f"{results} is not the results.json of a run: it has {size}")
    return open_run(run)


def pack(parts: Mapping[str, str]) -> bytes:
    """Return a zip of the texts below LARGEST bytes: long texts lose their middle if need be."""
    limit = PART_CHARACTERS
    while True:
        data = _zipped({name: shortened(text, limit) for name, text in parts.items()})
        if len(data) < LARGEST or limit <= SMALLEST_PART:
            return data
        limit //= 2


def shortened(text: str, limit: int) -> str:
    """Return a text of about `limit` characters at most: its beginning and, more, its end."""
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[… {left_out:,} characters left out …]\n{text[-tail:]}"


def _zipped(parts: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, text in parts.items():
            packed.writestr(name, text.encode("utf-8", errors="backslashreplace"))
    return file.getvalue()


def _parts(past: Past) -> dict[str, str]:
    """Return the texts of the bundle by name, before anything is removed from them."""
    report: list[doctor.Report] = []
    files, links = _log_files(past.folder)

    def checked() -> doctor.Report:
        if not report:
            report.append(doctor.check(_model_dir(past)))
        return report[0]

    makers: dict[str, Callable[[], str]] = {
        "explanation.txt": lambda: _explanation(files),
        "results.json": lambda: json.dumps(_safe(past.results), ensure_ascii=False, indent=1),
        "environment.json": lambda: json.dumps(_environment(), ensure_ascii=False, indent=1),
        "versions.txt": _versions,
        "libraries.txt": libraries.text,
        "npu-smi.txt": _npu_smi,
        "doctor.txt": lambda: str(checked()),
        "doctor.json": lambda: json.dumps(_safe(json.loads(checked().to_json())), indent=1),
        "plan.txt": lambda: _plan(past),
    }
    parts = {"README.txt": README + _left_out(past.folder, links)}
    parts |= {name: _made(make) for name, make in makers.items()}
    return parts | _logs(past.folder, files)


def _made(make: Callable[[], str]) -> str:
    try:
        return make()
    except Exception as error:  # a broken machine is what bundles are for
        return f"this part could not be made: {type(error).__name__}: {error}"


def _explanation(files: list[Path]) -> str:
    texts = []
    notes = []
    for path in files:
        try:
            texts.append(read_log(path))
        except DataError as error:
            notes.append(str(error))
    return "\n".join([str(explain(texts)), *notes])


def _log_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the run's logs and the plogs of the processes that they name, and apart all links.

    Through a link any file of this machine would get into what is sent away.
    """
    logs, links = _without_links(_logs_in(folder / "logs"), folder)
    place = os.environ.get("ASCEND_PROCESS_LOG_PATH") or os.path.expanduser("~/ascend/log")
    plogs, more = _without_links(_plogs(logs, Path(place)), Path(place))
    return [*logs[:MOST_LOGS], *plogs], [*links, *more]


def _without_links(paths: list[Path], folder: Path) -> tuple[list[Path], list[Path]]:
    """Return those of `paths` in `folder` with no link on the way to them, and the others."""
    place = Path(os.path.realpath(folder))
    own = [p for p in paths if os.path.realpath(p) == str(place / p.relative_to(folder))]
    return own, sorted({*paths} - {*own})


def _logs_in(place: Path) -> list[Path]:
    """Return the logs of a folder; of a link only itself."""
    if place.is_symlink():
        return [place]
    try:
        return find_logs([place]) if place.is_dir() else []
    except DataError:
        return []


def _plogs(logs: list[Path], place: Path) -> list[Path]:
    pids = set()
    for path in logs:
        try:
            pids |= {pid for _, pid in STARTED.findall(read_log(path).text)}
        except (DataError, OSError):
            continue
    found = sorted(place.glob("*/plog/plog-*.log"))
    return [path for path in found if path.stem.split("_")[0].removeprefix("plog-") in pids]


def _logs(folder: Path, files: list[Path]) -> dict[str, str]:
    return {_log_name(folder, path): _made(lambda path=path: _log(path)) for path in files}


def _left_out(folder: Path, links: list[Path]) -> str:
    """Return the end of the list of parts: links, whose files may be anything."""
    names = "".join(f"  {_log_name(folder, path)}\n" for path in links)
    return (
        f"\nLeft out, because these are links and may lead to any file:\n{names}" if names else ""
    )


def _log(path: Path) -> str:
    """Return a log, of a long one its beginning and end in whole lines: no secret is cut."""
    text = read_log(path).text
    if len(text) <= 2 * PART_CHARACTERS:
        return text
    head = text[:PART_CHARACTERS].rpartition("\n")[0]
    tail = text[-PART_CHARACTERS:].partition("\n")[2]
    return f"{head}\n[… {len(text) - len(head) - len(tail):,} characters left out …]\n{tail}"


def _log_name(folder: Path, path: Path) -> str:
    inside = path.is_relative_to(folder)
    return str(path.relative_to(folder)) if inside else f"plog/{path.parts[-3]}/{path.name}"


def _environment() -> dict[str, Any]:
    """Describe this machine; of variables that do not matter to a run only the name is told."""
    matter = {
        name: value
        for use in ("results", "checks", "sourced")
        for name, value in environment.variables(use).items()
    }
    others = sorted(name for name in os.environ if name not in matter)
    return environment.describe("auto") | {"variables": _shown(matter), "other variables": others}


def _safe(value: Any) -> Any:
    """Return a value of JSON without variables that look like secrets, wherever it keeps some."""
    if isinstance(value, list):
        return [_safe(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _shown(item) if name in VARIABLES else _safe(item) for name, item in value.items()
    }


def _shown(variables: Any) -> Any:
    if not isinstance(variables, dict):
        return _safe(variables)
    return {
        name: GONE if is_secret(name, str(value)) else value for name, value in variables.items()
    }


def _versions() -> str:
    found = {f"{one.name}=={one.version}" for one in importlib.metadata.distributions()}
    return "\n".join([f"python {sys.version}", *sorted(found, key=str.lower)])


def _npu_smi() -> str:
    if shutil.which("npu-smi") is None:
        return "there is no npu-smi on this machine"
    commands = [["npu-smi", *words] for words in NPU_SMI]
    return "\n\n".join(f"$ {' '.join(words)}\n{_output(words)}" for words in commands)


def _model_dir(past: Past) -> str | None:
    """Return the folder of the run's model if it is here; without a name it is the shipped one."""
    asked = past.results["parameters"].get("model_dir", "")
    folder = MODEL_DIR if asked == "" else Path(str(asked)).expanduser()
    return str(folder) if folder.is_dir() else None


def _plan(past: Past) -> str:
    """Return what `plan` says of the run's model, in a process of its own."""
    folder = _model_dir(past)
    if folder is None:
        return "the run names no model folder that is here"
    asked = past.results["parameters"]
    words = [folder, "--world-size", str(asked.get("world_size") or 1)]
    for name in ("dtype", "quant"):
        value = past.results["model"].get(name) or asked.get(name)
        words += [f"--{name}", str(value)] if value not in (None, "", "none") else []
    return _output([sys.executable, "-P", "-m", "neoxlib", "plan", *words])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} could not be run: {error}"
    failed = f"\n{done.stderr}\nexit code {done.returncode}" if done.returncode else ""
    return done.stdout + failed
