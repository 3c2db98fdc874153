"""Sessions over test hosts: equal to one process, placed as told, seen by nobody."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.bench import LIMIT, ROOT, Bench, wait_for
from tests.hosts.build import FABRIC, Host
from tests.hosts.look import clear_text, keys_of, listeners, secrets_of, shows_key

SHAPES = ((1, 1), (1, 1, 2), (2, 2), (4, 4), (3, 3, 2))  # ranks of each host
CLOSE = 1e-4  # of logits
WIRE = 1.15  # bytes sent for a sum, as parts of the least: headers and the barrier
SECRET = "Zanzibar quokka 31415926"  # a prompt that is looked for on the wire


def right(bench: Bench, shape: Sequence[int]) -> None:
    """A session over a shape: as one process, ranks where the profile says, what is on the wire."""
    with capture(bench) as files, desk_session(bench, shape) as said:
        answer = one_shape(bench, shape, said)
    look_at_wire(bench, files, answer)


@contextmanager
def desk_session(
    bench: Bench, shape: Sequence[int], part: str = "right"
) -> Iterator[Iterator[dict]]:
    """A session at the desk over hosts with so many ranks each; what it says, step by step."""
    words = [f"{host.name}:{n}" for host, n in zip(bench.others, shape, strict=False)]
    code, text = bench.cluster(*words, "--network", f"{FABRIC}.0/24", "--profile", "shape")
    assert code == 0, text
    logs = f"/var/tmp/{bench.desk.folder.parent.name}/desk/logs-{'-'.join(map(str, shape))}"
    script = [sys.executable, "-m", "tests.hosts.on_desk", part, bench.model, "shape"]
    command = bench.desk.command(*script, str(sum(shape)), logs, SECRET)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(["timeout", str(LIMIT), *command], **pipes) as process:
        try:
            yield steps(process)
            process.stdin.close()
        except BaseException:
            process.terminate()
            raise


def steps(process: subprocess.Popen) -> Iterator[dict]:
    """Each thing that the session says; it goes on when the next one is asked for."""
    for line in process.stdout:
        if line.startswith("desk:"):
            yield json.loads(line.removeprefix("desk:"))
            process.stdin.write("\n")
            process.stdin.flush()


def one_shape(bench: Bench, shape: Sequence[int], said: Iterator[dict]) -> str:
    seen = next(said)
    due = [host.name for host, n in zip(bench.others, shape, strict=False) for _ in range(n)]
    placed = seen["hosts"] == due == seen["places"]
    bench.lines.add("session.ranks says which rank sits where", placed, ", ".join(due))
    look_at_sockets(bench, seen["scratch"])
    found = next(said)
    fine = found["difference"] <= CLOSE
    what = f"largest difference {found['difference']:.1e}"
    bench.lines.add(f"logits of one process, {CLOSE:.0e}", fine, what)
    text = f"{found['texts']} prompts"
    bench.lines.add("greedy text of one process", found["same"], text)
    look_at_bytes(bench, shape, next(said))
    answer = next(said)
    bench.lines.add("another text, too", answer["secret"] == answer["due"], "1 prompt")
    look_at_logs(bench, seen["scratch"], next(said)["closed"])
    return answer["secret"].strip()


def look_at_bytes(bench: Bench, shape: Sequence[int], found: dict) -> None:
    """One crossing a host: the least that hosts can send for a sum, whatever their ranks."""
    least = 4 * found["count"] * 2 * (len(shape) - 1) / len(shape)
    most = max(found["bytes"].values()) / least
    words = f"at most {most:.2f} of the least, {least / 2**20:.2f} MiB a host"
    bench.lines.add("a sum crosses to each host once", most < WIRE, words)


def look_at_sockets(bench: Bench, scratch: str) -> None:
    """Nothing but sshd listens outside the ranks' network and the loopback; keys are one user's."""
    found = {host.name: listeners(host) for host in bench.hosts}
    stray = [f"{host} {at}" for host, all_ in found.items() for at in all_ if not allowed(at)]
    count = sum(map(len, found.values()))
    bench.lines.add(
        f"listens on {FABRIC}.0/24 and loopback only",
        count and not stray,
        "; ".join(stray) or f"{count} sockets",
    )
    modes = bench.desk.run(
        "find", scratch, "-name", "ipcontroller*.json", "-printf", "%m %f\n"
    ).split("\n")
    wrong = [row for row in modes if row and not row.startswith("600 ")]
    held = len([row for row in modes if row])
    bench.lines.add(
        "connection files have mode 600",
        held and not wrong,
        "; ".join(wrong) or f"{held} files",
    )
    look_for_keys(bench, scratch)


def look_for_keys(bench: Bench, scratch: str) -> None:
    """Keys are in the connection files of the desk, and in memory, alone."""
    keys = keys_of(bench.desk, scratch)
    found = {host.name: shows_key(host, keys) for host in bench.hosts}
    stray = [f"{host} {at}" for host, all_ in found.items() for at in all_ if scratch not in at]
    law = "no key in a command line, nor in another file of a host"
    bench.lines.add(law, bool(keys) and not stray, "; ".join(stray) or f"{len(keys)} keys")


def allowed(address: str) -> bool:
    return address.startswith((f"{FABRIC}.", "127.", "[::1]"))


@contextmanager
def capture(bench: Bench) -> Iterator[list[Path]]:
    """Record what the desk and the first host send and receive, over both networks."""
    files = [host.folder / "wire.pcap" for host in bench.hosts[:2]]
    words = f"{shutil.which('tcpdump')} -i any -U -s 0 -w $0 not port 22 & read end; kill $!; wait"
    running = []
    for host, file in zip(bench.hosts, files, strict=False):
        file.unlink(missing_ok=True)
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        running.append(host.start("sh", "-c", words, file, **pipes))
    wait_for(lambda: all(file.exists() and file.stat().st_size for file in files))
    try:
        yield files
        time.sleep(0.5)  # the last packets
    finally:
        for process in running:
            process.communicate()


def look_at_wire(bench: Bench, files: Sequence[Path], answer: str) -> None:
    """The record begins before the session: it must hold the greeting that agrees on CURVE."""
    clear = [text for file in files for text in (SECRET, answer) if clear_text(file, text)]
    curve = all(b"CURVE" in file.read_bytes() for file in files)
    size = sum(file.stat().st_size for file in files)
    what = "; ".join(clear) or f"{size:,} bytes recorded, CURVE agreed on: {curve}"
    bench.lines.add("no prompt and no answer in clear", curve and not clear, what)


def look_at_logs(bench: Bench, scratch: str, logs: Sequence[str]) -> None:
    """Logs of all ranks are at the desk; no host keeps a file or a process of the session."""
    folder = max(bench.desk.folder.glob("logs-*"), key=lambda path: path.stat().st_mtime)
    keys = secrets_of(folder)
    bench.lines.add(
        "logs of all ranks at the desk, no key in them",
        not keys and len(logs) == sum(map(int, folder.name.split("-")[1:])),
        "; ".join(keys) or ", ".join(logs),
    )
    wait_for(lambda: not bench.desk.run("sh", "-c", f"ls -d {scratch} 2>/dev/null || true"))
    left = {host.name: leftovers(host) for host in bench.hosts}
    stray = [f"{host}: {what}" for host, all_ in left.items() for what in all_]
    bench.lines.add("nothing stays on any host", not stray, "; ".join(stray) or "nothing")


def leftovers(host: Host) -> list[str]:
    """Processes and files that a session left on a host; those of this test are none."""
    ours = ("tests.hosts.on_desk", "sshd", "tcpdump", "import signal, sys")
    rows = host.run("ps", "-eo", "args=").splitlines()
    running = [row for row in rows if "neoxlib" in row and not any(word in row for word in ours)]
    files = host.run("find", "/tmp", "/dev/shm", "-mindepth", "1").splitlines()
    return [row[:80] for row in running] + files
