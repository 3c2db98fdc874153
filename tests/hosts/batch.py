"""The scripts of docs/batch.md, as they stand there, on the Slurm of the test hosts."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.hosts.bench import LIMIT, ROOT, Bench, wait_for
from tests.hosts.build import FABRIC
from tests.hosts.right import leftovers
from tests.hosts.slurm_there import PARTITION, slurm
from tests.hosts.ways import assigned

PAGE = ROOT / "docs" / "batch.md"
NAMES = ("report", "presets", "exam")  # of the page's scripts, in their order
NOISY = 4  # exit code for times of a busy machine
ENDS = 900  # seconds for a job


@dataclass(frozen=True)
class Batch:
    """A folder that all nodes see, with the scripts, and the variables of Slurm."""

    bench: Bench
    folder: Path
    env: Mapping[str, str]

    def run(self, *words: str | Path, **more: str) -> subprocess.CompletedProcess:
        """A command of Slurm at the desk, in the folder."""
        command = self.bench.desk.command("env", *assigned(dict(self.env) | more), *words)
        options = {"capture_output": True, "text": True, "cwd": self.folder}
        return subprocess.run(command, timeout=ENDS, **options)

    def submit(self, *words: str | Path, **more: str) -> subprocess.CompletedProcess:
        return self.run(
            "sbatch", f"--partition={PARTITION}", f"--chdir={self.folder}", *words, **more
        )

    def log(self) -> str:
        """The newest log."""
        logs = sorted(self.folder.glob("neoxlib-*.log"), key=lambda path: path.stat().st_mtime)
        return logs[-1].read_text(errors="replace") if logs else "no log"


def with_slurm(part: Callable[[Bench, Batch], None]) -> Callable[[Bench], None]:
    """A step: one script, on a Slurm that is started for it."""

    def step(bench: Bench) -> None:
        with slurm(bench) as env, work(bench, env) as there:
            part(bench, there)
        left = [f"{host.name}: {what}" for host in bench.hosts for what in leftovers(host)]
        bench.lines.add("nothing stays on any host", not left, "; ".join(left) or "nothing")

    return step


@contextmanager
def work(bench: Bench, env: Mapping[str, str]) -> Iterator[Batch]:
    folder = bench.desk.folder.parent / "work"
    folder.mkdir()
    scripts = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    for name, text in zip(NAMES, scripts, strict=True):
        (folder / f"{name}.sbatch").write_text(text)
    path = f"{ROOT / '.venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    try:
        yield Batch(bench, folder, dict(env) | {"PATH": path})
    finally:
        shutil.rmtree(folder)


def report(bench: Bench, there: Batch) -> None:
    """Over two nodes, and with parameters that cannot be used."""
    asked = ("02", "-p", "model_dir", bench.model, "-p", "world_size")
    places = {"RANKS": "1", "NETWORK": f"{FABRIC}.0/24"}
    done = there.submit("--wait", "--nodes=2", "report.sbatch", *asked, "2", **places)
    told = f"exit code {done.returncode}; {last(there.log())}"
    bench.lines.add("a report over two nodes", done.returncode in (0, NOISY), told)
    junit(bench, there, 1)
    homes = list((bench.desk.home / ".ipython").glob("profile_job*"))
    bench.lines.add("the job's profile is gone", not homes, ", ".join(map(str, homes)) or "nothing")
    done = there.submit("--wait", "report.sbatch", *asked, "999")
    told = f"exit code {done.returncode}"
    bench.lines.add("unusable parameters come back as 2", done.returncode == 2, told)


def presets(bench: Bench, there: Batch) -> None:
    """Two presets at once, each on a node of its own."""
    folder = there.folder / "presets"
    folder.mkdir()
    for ranks in (1, 2):
        (folder / f"{ranks}.yaml").write_text(f"world_size: {ranks}\nmodel_dir: {bench.model}\n")
    for path in there.folder.glob("junit-*.xml"):
        path.unlink()
    done = there.submit("--wait", "--array=0-1", "presets.sbatch", "02", PRESETS=str(folder))
    told = f"exit code {done.returncode}; {last(there.log())}"
    bench.lines.add("an array over presets", done.returncode in (0, NOISY), told)
    junit(bench, there, 2)


def exam(bench: Bench, there: Batch) -> None:
    """Slurm's signal comes as soon as a question is answered; the second run takes it over."""
    asked = ("-p", "model_dir", bench.model, "-p", "world_size", "1")
    job = there.submit("--parsable", "exam.sbatch", *asked).stdout.strip()
    outputs = there.folder / "outputs" / f"job-{job}"
    until(lambda: any(len(lines(path)) > 1 for path in outputs.rglob("journal.jsonl")))
    there.run("scancel", "--batch", "--signal=TERM", job)
    until(lambda: state(there, job, "JobState") in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"))
    log = (there.folder / f"neoxlib-{job}.log").read_text(errors="replace")
    code, restarts = state(there, job, "ExitCode"), state(there, job, "Restarts")
    fine = restarts == "1" and code in ("0:0", f"{NOISY}:0")
    told = f"started anew {restarts} time, exit code {code}; {last(log)}"
    bench.lines.add("an exam goes back into the queue and ends", fine, told)
    pages = [path.read_text() for path in outputs.rglob("report.html")]
    over = re.findall(r"[\d,]+ of [\d,]+ questions are taken over", " ".join(pages))
    bench.lines.add("with the answers of the first run", bool(over), "; ".join(over) or "none")


def junit(bench: Bench, there: Batch, due: int) -> None:
    files = sorted(there.folder.glob("junit-*.xml"))
    cases = [len(list(ElementTree.parse(file).iter("testcase"))) for file in files]
    fine = len(files) == due and all(cases)
    told = f"{len(files)} files, {sum(cases)} cases"
    bench.lines.add("JUnit's files are there", fine, told)


def state(there: Batch, job: str, name: str) -> str:
    """What Slurm says of a job."""
    said = there.run("scontrol", "show", "job", job).stdout
    found = re.search(rf"\b{name}=(\S+)", said)
    return found[1] if found else ""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def last(log: str) -> str:
    rows = [row for row in log.splitlines() if row.strip()]
    return " ".join(rows[-1].split())[:100] if rows else ""


def until(true: Callable[[], bool]) -> None:
    wait_for(true, min(ENDS, LIMIT))
    if not true():
        raise AssertionError(f"nothing came within {min(ENDS, LIMIT)} s, at {time.ctime()}")
