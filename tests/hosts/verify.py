"""neoxlib over several hosts, which are built for it on this machine and taken down again.

`make verify-hosts` runs all steps, `make verify-hosts ARGS="survey 2+2"` those named: a step such
as 3+3+2 is a session with so many ranks on each host. Their rows go into docs/hosts.md. Exit code:
0 all holds, 1 something does not, 77 hosts cannot be built here. Only hosts that were built here
are ever addressed.
"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

from neoxlib.demo import MODEL_DIR
from neoxlib.files import overwrite
from neoxlib.process import cache_dir
from tests.hosts import batch, faults
from tests.hosts.alone import controller
from tests.hosts.bench import ROOT, Bench, Lines
from tests.hosts.build import PLACE, NotHere, hosts
from tests.hosts.cut import cut
from tests.hosts.look import left_of, links, spaces_of
from tests.hosts.replicas import replicas
from tests.hosts.reported import report
from tests.hosts.right import SHAPES, right
from tests.hosts.slow import slow
from tests.hosts.sums import sums
from tests.hosts.survey import survey
from tests.hosts.ways import mpi, over_slurm

PAGES = (ROOT / "docs" / "hosts.md", ROOT / "docs" / "zh" / "hosts.md")
START = "<!-- hosts: from here on written by `make verify-hosts` -->"
END = "<!-- hosts: end -->"
LONGEST = 120  # characters of a finding in the table
NAMES = ("desk", "host1", "host2", "host3")
STEPS: dict[str, Callable[[Bench], None]] = {
    "survey": survey,
    "cut": cut,
    **{"+".join(map(str, shape)): partial(right, shape=shape) for shape in SHAPES},
    "report": report,
    "rank": faults.rank,
    "sshd": faults.sshd,
    "lost": faults.lost,
    "parted": faults.cut_off,
    "slow": slow,
    "desk": controller,
    "mpi": mpi,
    "slurm": over_slurm,
    "replicas": replicas,
    "sums": sums,
    "sbatch": batch.with_slurm(batch.report),
    "array": batch.with_slurm(batch.presets),
    "requeue": batch.with_slurm(batch.exam),
}
END_STEP = "torn down"


def main(asked: Sequence[str]) -> int:
    """Build the hosts, run the steps, take the hosts down, and write the rows."""
    if unknown := [name for name in asked if name not in STEPS]:
        print(f"no such step: {', '.join(unknown)}; the steps are {', '.join(STEPS)}")
        return 2
    before = links()
    lines = Lines()
    try:
        run(lines, asked or list(STEPS))
    except NotHere as reason:
        print(f"SKIP  hosts cannot be built on this machine: {reason}")
        return 77
    lines.step = END_STEP
    left = left_of(lines.folder, lines.spaces, before)
    lines.add("no namespace, process, link or file is left", not left, "; ".join(left) or "nothing")
    failed = [row for row in lines.rows if not row[2]]
    print(f"{len(lines.rows) - len(failed)} of {len(lines.rows)} laws hold over {len(NAMES)} hosts")
    write_page(lines)
    return 1 if failed else 0


def run(lines: Lines, names: Sequence[str]) -> None:
    env = {"NEOXLIB_CACHE": str(cache_dir()), "OMP_NUM_THREADS": "1"}
    with hosts(NAMES, **env) as built:
        bench = Bench(built, lines)
        lines.folder = str(built[0].folder.parent)
        for host in built:
            lines.spaces |= spaces_of(host)
            shutil.copytree(MODEL_DIR, host.disk / "model")
        for name in names:
            lines.step = name
            try:
                STEPS[name](bench)
            except NotHere as reason:
                print(f"SKIP  {name}: {reason}", flush=True)
            except (subprocess.SubprocessError, AssertionError, StopIteration, OSError) as error:
                lines.add("runs to its end", False, f"{type(error).__name__}: {error}")
            write_page(lines)  # what a run that is broken off has found stays


def write_page(lines: Lines) -> None:
    """Put the rows of the steps that were run into the table of each page; others stay.

    Those are of the first page, so that all pages have the same.
    """
    old = PAGES[0].read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    kept = [line for line in old.splitlines() if line.startswith("| ")][1:]
    new = [
        f"| {step} | {law} | {'yes' if holds else '**no**'} | {tidy(found)} |"
        for step, law, holds, found in lines.rows
    ]
    by_step = {name: rows_of(new, name) or rows_of(kept, name) for name in (*STEPS, END_STEP)}
    head = ["| step | law | holds | found |", "|---|---|---|---|"]
    table = "\n".join([START, "", *head, *chain.from_iterable(by_step.values()), "", END])
    for page in PAGES:
        before, _, rest = page.read_text(encoding="utf-8").partition(START)
        _, found, after = rest.partition(END)
        assert found, f"{page} has no markers"
        overwrite(page, f"{before}{table}{after}".encode())


def rows_of(rows: Sequence[str], step: str) -> list[str]:
    return [row for row in rows if row.startswith(f"| {step} |")]


def tidy(found: str) -> str:
    """A finding for the page: without places of this run, and no longer than a line."""
    text = re.sub(rf"{PLACE}/neoxlib-hosts-\w+/", "", " ".join(found.split())).replace("|", "/")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the hosts are taken down
    sys.exit(main(sys.argv[1:]))
