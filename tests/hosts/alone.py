"""The machine of the controller dies: no host keeps a rank of it."""

import signal
import time

from tests.hosts.bench import Bench
from tests.hosts.desk import open_desk
from tests.hosts.faults import GONE, empty, set_links, started

# Every process of a host but its first one and this shell.
EACH = "for p in $(ps -eo pid=); do [ $p -gt 1 ] && [ $p != $$ ] && kill -{} $p; done 2>&-; true"


def controller(bench: Bench) -> None:
    """The desk's processes are killed, and then frozen while its links are down."""
    hosts = bench.others[:2]
    for name in ("its processes are killed", "it is frozen, its links down"):
        desk = open_desk(bench, hosts)
        desk.ask("work")
        desk.hear("answer")
        start = time.time()
        frozen = "frozen" in name
        bench.desk.run("sh", "-c", EACH.format("STOP" if frozen else "KILL"))
        if frozen:
            set_links(bench.desk, "down")
        law = f"the controller's host, {name}: no rank stays on any host in {GONE:.0f} s"
        empty(bench, law, bench.others, start)
        bench.desk.run("sh", "-c", EACH.format("KILL"))
        set_links(bench.desk, "up")
        bench.desk.run("sh", "-c", "rm -rf /tmp/* /dev/shm/*")  # as when it starts anew
        desk.process.send_signal(signal.SIGCONT)  # nsenter stops with what it started
        desk.close()
    started(bench, hosts, "a new session of the controller's host").close()
