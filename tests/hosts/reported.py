"""A report over hosts, from the command line: no key of the session in what it leaves."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.hosts.bench import LIMIT, ROOT, Bench
from tests.hosts.build import FABRIC
from tests.hosts.look import keys_of, secrets_of
from tests.hosts.right import leftovers


def report(bench: Bench) -> None:
    """Run 02_inference over two hosts; look for its keys in everything that was written."""
    words = [f"{host.name}:1" for host in bench.others[:2]]
    code, text = bench.cluster(*words, "--network", f"{FABRIC}.0/24", "--profile", "report")
    assert code == 0, text
    outputs = bench.desk.folder / "outputs"
    given = {"cluster_profile": "report", "world_size": "2", "model_dir": bench.model}
    command = [sys.executable, "-m", "neoxlib", "report", "02_inference", "--outputs", outputs]
    for name, value in given.items():
        command += ["-p", name, value]
    log = bench.desk.folder / "report.log"
    with log.open("w") as output:
        pipes = {"stdout": output, "stderr": subprocess.STDOUT, "cwd": ROOT}
        process = bench.desk.start("timeout", str(LIMIT), *command, **pipes)
        keys = keys_while(bench, process)
    lines = log.read_text().splitlines()
    fine = process.returncode in (0, 4) and keys  # 4: times of a busy machine
    told = f"exit code {process.returncode}: {lines[-1] if lines else ''}"
    bench.lines.add("a report of 02_inference runs over two hosts", bool(fine), told)
    look_for(bench, keys, outputs)


def keys_while(bench: Bench, process: subprocess.Popen) -> set[str]:
    """Every key in a connection file that there is while a process runs."""
    keys: set[str] = set()
    while process.poll() is None:
        keys |= keys_of(bench.desk, "/tmp")
        time.sleep(1)
    return keys


def look_for(bench: Bench, keys: set[str], outputs: Path) -> None:
    """No key in the run folder, in the log of the command, or in the user's home."""
    files = [path for path in bench.desk.folder.rglob("*") if path.is_file()]
    ssh = bench.desk.home / ".ssh"
    files = [path for path in files if ssh not in path.parents and path.name != "host_key"]
    with_key = [
        path.name for path in files if any(key.encode() in path.read_bytes() for key in keys)
    ]
    found = with_key + secrets_of(outputs)
    run = sum(outputs in path.parents for path in files)
    told = f"{len(keys)} keys, {run} files of the run, {len(files)} in all"
    law = "no key of the session in the run folder, nor elsewhere at the desk"
    bench.lines.add(law, bool(keys and run) and not found, "; ".join(found) or told)
    left = [f"{host.name}: {what}" for host in bench.hosts for what in leftovers(host)]
    bench.lines.add("nothing stays on any host", not left, "; ".join(left) or "nothing")
    shutil.rmtree(outputs)
