"""Sessions whose ranks mpiexec and srun start: hosts are checked, answers are those of one process.

`neoxlib cluster --mpi` and `--slurm` ask the hosts; bad hostfiles and partitions are refused.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.bench import LIMIT, ROOT, Bench, wait_for
from tests.hosts.build import FABRIC, Host, NotHere
from tests.hosts.right import CLOSE, SECRET, allowed, leftovers, look_at_bytes, steps
from tests.hosts.slurm_there import DAEMONS, PARTITION, slurm

SHAPE = (2, 2)  # ranks of each host
# Open MPI refuses to run as root unless it is told twice.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
FILE = "host1 slots=2  # of Open MPI\nhost2:2\n"
BAD_FILES = {  # name: text, and what is said of it
    "a bad line": ("host1 slots=2\nhost2 slots=two\nhost3 colour=red\n", "hostfile:2"),
    "no host": ("# nothing\n", "names no host"),
    "a host that is not there": ("host1 slots=2\nnowhere slots=2\n", "nowhere"),
}
OF_MPI = ("mpiexec", "orted", "hydra", "prte")


def mpi(bench: Bench) -> None:
    """mpiexec starts the ranks of a hostfile."""
    if shutil.which("mpiexec") is None:
        raise NotHere("apt-get install openmpi-bin")
    file = bench.desk.folder / "hostfile"
    file.write_text(FILE)
    asked = ("--mpi", str(file), "--network", f"{FABRIC}.0/24")
    code, text = cluster(bench, AS_ROOT, *asked, "--model-dir", str(bench.model))
    bench.lines.add("good hosts pass, and a profile is written", code == 0, counted(text))
    session_over(bench, AS_ROOT, SHAPE)
    for name, (lines, told) in BAD_FILES.items():
        file.write_text(lines)
        code, text = cluster(bench, AS_ROOT, *asked)
        bench.lines.add(f"found: {name}", code in (1, 2) and told in text, said(text))
    file.unlink()


def over_slurm(bench: Bench) -> None:
    """srun starts the ranks on nodes of a partition, in a job that ends with the session."""
    with slurm(bench) as env:
        place = ("--network", f"{FABRIC}.0/24")
        asked = ("--slurm", PARTITION, "--nodes", "2", "--ranks-per-node", "2", *place)
        code, text = cluster(bench, env, *asked, "--model-dir", str(bench.model))
        bench.lines.add("idle nodes pass, and a profile is written", code == 0, counted(text))
        session_over(bench, env, SHAPE)
        jobs(bench, env, "no job stays in the queue")
        driver_killed(bench, env)
        for name, more, told in (
            ("no such partition", ("--slurm", "gpu", "--nodes", "2"), "there are npu"),
            ("more nodes than there are", ("--slurm", PARTITION, "--nodes", "9"), "3 of 3"),
        ):
            code, text = cluster(bench, env, *more, *place)
            bench.lines.add(f"found: {name}", code == 1 and told in text, said(text))
    left = [f"{host.name}: {what}" for host in bench.hosts for what in leftovers(host)]
    bench.lines.add("nothing stays of Slurm", not left, "; ".join(left) or "nothing")


def cluster(bench: Bench, env: Mapping[str, str], *words: str) -> tuple[int, str]:
    """`neoxlib cluster` at the desk, in one of its forms: exit code and output."""
    command = [sys.executable, "-m", "neoxlib", "cluster", *words, "--profile", "ways"]
    done = at_desk(bench, env, *command)
    return done.returncode, done.stdout + done.stderr


def at_desk(bench: Bench, env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess:
    command = bench.desk.command("env", *assigned(env), *words)
    options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": LIMIT}
    return subprocess.run(command, **options)


def assigned(env: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]


def counted(text: str) -> str:
    rows = sum(line.startswith("OK") for line in text.splitlines())
    wrong = [line for line in text.splitlines() if line.startswith(("FAIL", "neoxlib:", "Error"))]
    return "; ".join([f"{rows} lines OK", *(" ".join(line.split()) for line in wrong)])


def said(text: str) -> str:
    """The first line that says what is wrong."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "FAIL" in line or "Error" in line), lines[-1])


@contextmanager
def desk(
    bench: Bench, env: Mapping[str, str], shape: Sequence[int]
) -> Iterator[tuple[Iterator[dict], Path]]:
    """A session over the profile `ways`; what it says, and the folder of its logs."""
    logs = Path("/var/tmp", bench.desk.folder.parent.name, "desk", f"logs-{bench.lines.step}")
    script = [sys.executable, "-m", "tests.hosts.on_desk", "right", bench.model, "ways"]
    words = ["env", *assigned(env), *script, str(sum(shape)), logs, SECRET]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = ["timeout", str(LIMIT), *bench.desk.command(*words)]
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield steps(process), logs
            process.stdin.close()
        except BaseException:
            process.terminate()
            raise


def session_over(bench: Bench, env: Mapping[str, str], shape: Sequence[int]) -> None:
    """A session equals one process, listens where it should, and leaves nothing."""
    with desk(bench, env, shape) as (answers, logs):
        seen = next(answers)
        due = [host.name for host, n in zip(bench.others, shape, strict=False) for _ in range(n)]
        placed = seen["hosts"] == due == seen["places"]
        bench.lines.add("session.ranks says which rank sits where", placed, ", ".join(due))
        look_at_listeners(bench)
        found = next(answers)
        fine = found["difference"] <= CLOSE
        told = f"largest difference {found['difference']:.1e}"
        bench.lines.add(f"logits of one process, {CLOSE:.0e}", fine, told)
        bench.lines.add("greedy text of one process", found["same"], f"{found['texts']} prompts")
        look_at_bytes(bench, shape, next(answers))
        next(answers)
        closed = next(answers)["closed"]
    whole = all((logs / name).stat().st_size for name in closed)
    named = whole and len(closed) == sum(shape)
    bench.lines.add("logs of all ranks at the desk", named, ", ".join(closed))
    wait_for(lambda: not any(map(of_session, bench.hosts)))
    left = [f"{host.name}: {what}" for host in bench.hosts for what in of_session(host)]
    bench.lines.add("nothing stays on any host", not left, "; ".join(left) or "nothing")


def of_session(host: Host) -> list[str]:
    """What a session left, beside the daemons of Slurm."""
    return [what for what in leftovers(host) if not what.startswith(DAEMONS)]


def look_at_listeners(bench: Bench) -> None:
    """Where neoxlib and Slurm listen, and apart from that where MPI's own programs do."""
    stray, of_mpi, count = [], [], 0
    for host in bench.hosts:
        for row in host.run("ss", "-Hltnp").splitlines():
            address, program = row.split()[3], row.split()[-1]
            if '"sshd"' in program:
                continue
            count += 1
            if not allowed(address):
                group = of_mpi if any(f'"{name}' in program for name in OF_MPI) else stray
                group.append(f"{host.name} {program.split(chr(34))[1]} {address}")
    law = f"listens on {FABRIC}.0/24 and loopback only"
    law += ", but for mpiexec and orted" if of_mpi else ""
    told = "; ".join(stray or of_mpi) or f"{count} sockets"
    bench.lines.add(law, count and not stray, told)


def driver_killed(bench: Bench, env: Mapping[str, str]) -> None:
    """The process that opened the session is killed: the ranks end, and so does the job."""
    law = "the process that opened the session is killed: "
    with desk(bench, env, SHAPE) as (answers, _):
        next(answers)
        bench.desk.run("pkill", "-KILL", "-f", "[t]ests.hosts.on_desk")
        start = time.time()
    wait_for(lambda: not any(map(of_session, bench.hosts)))
    left = [f"{host.name}: {what}" for host in bench.hosts for what in of_session(host)]
    told = "; ".join(left) or f"{time.time() - start:.1f} s after it"
    bench.lines.add(f"{law}nothing stays on any host", not left, told)
    jobs(bench, env, f"{law}no job stays in the queue")


def jobs(bench: Bench, env: Mapping[str, str], law: str) -> None:
    """No job is left in Slurm's queue."""
    queued: list[str] = []

    def empty() -> bool:
        queued[:] = at_desk(bench, env, "squeue", "-h", "-o", "%i %j %t %R").stdout.splitlines()
        return not queued

    wait_for(empty)
    bench.lines.add(law, not queued, "; ".join(queued) or "nothing")
