"""An exam over two hosts by two sessions, of which one is lost: nothing is lost with it."""

import subprocess
import sys
import time

from tests.hosts.bench import ROOT, Bench, wait_for
from tests.hosts.build import FABRIC, FABRIC_CARD, OFFICE_CARD, Host
from tests.hosts.right import leftovers, steps

ENDS = 1800  # seconds: a busy machine starts four sessions slowly
HEARD = 10.0  # seconds until a caller must know, as in `faults`


def replicas(bench: Bench) -> None:
    """Take the links of a host down while it asks its third portion of an exam."""
    first, second = bench.others[:2]
    place = ("--network", f"{FABRIC}.0/24", "--profile", "replicas")
    code, text = bench.cluster(f"{first.name}:1", f"{second.name}:1", *place)
    assert code == 0, text
    logs = f"/var/tmp/{bench.desk.folder.parent.name}/desk/logs-replicas"
    script = [sys.executable, "-m", "tests.hosts.exam_at_desk", bench.model, "replicas", logs]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = ["timeout", str(ENDS), *bench.desk.command(*script)]
    with subprocess.Popen(command, **pipes) as process:
        try:
            look(bench, process, second)
        finally:
            links(second, "up")
            process.stdin.close()
    for host in bench.hosts:
        wait_for(lambda host=host: not leftovers(host), 20)
    left = [f"{host.name}: {what}" for host in bench.hosts for what in leftovers(host)]
    bench.lines.add("nothing stays on any host", not left, "; ".join(left) or "nothing")


def look(bench: Bench, process: subprocess.Popen, second: Host) -> None:
    """Follow what the desk says: an exam that nothing happens to, then the one of the loss."""
    said = steps(process)
    hosts = next(said)["hosts"]
    due = [host.name for host in bench.others[:2]]
    bench.lines.add("each session has a host of its own", hosts == due, ", ".join(hosts))
    whole = next(said)["lines"]
    next(said)
    reached = next(said)["reached"]
    links(second, "down")
    start = time.monotonic()
    lost = next(said)
    took = time.monotonic() - start
    fine = second.name in lost["error"] and took <= HEARD + 2
    told = f"{took:.1f} s, before its portion {reached} was answered: {lost['error']}"
    bench.lines.add(f"the loss of a host is heard of in {HEARD:.0f} s", fine, told)
    broken = next(said)
    law = "each question is in the journal once"
    bench.lines.add(law, broken["lines"] == whole, f"{broken['lines']} of {whole}")
    answered = broken["after"] == 2
    bench.lines.add("the session that is left answers", answered, "2 choices scored")
    found = next(said)
    told = f"{found['questions']} questions, {found['right']} right"
    bench.lines.add("the results equal an unbroken run's to the bit", found["equal"], told)


def links(host: Host, state: str) -> None:
    for card in (OFFICE_CARD, FABRIC_CARD):
        host.run("ip", "link", "set", card, state)
