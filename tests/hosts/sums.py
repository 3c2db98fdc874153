"""What sums cost within and between test hosts, as 04_profile tells it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import neoxlib
from neoxlib.inference.timing import Case
from neoxlib.speed import tables
from tests.hosts.bench import LIMIT, ROOT, Bench
from tests.hosts.build import FABRIC

CASE = Case(batch_size=1, input_len=32, output_len=8)
PARTS = ("within_ms", "between_ms")


def sums(bench: Bench) -> None:
    """Measured and predicted figures of both parts, over 2+2 ranks."""
    first, second = bench.others[:2]
    place = ("--network", f"{FABRIC}.0/24", "--profile", "sums")
    code, text = bench.cluster(f"{first.name}:2", f"{second.name}:2", *place)
    assert code == 0, text
    script = [sys.executable, "-m", "tests.hosts.sums", bench.model, "sums"]
    options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": LIMIT}
    done = subprocess.run(bench.desk.command(*script), **options)
    said = next(line for line in done.stdout.splitlines() if line.startswith("desk:"))
    for row in json.loads(said.removeprefix("desk:")):
        figures = [row[name] for name in PARTS]
        fine = all(isinstance(figure, float) and figure > 0 for figure in figures)
        told = "within {:.3g} ms, between {:.3g} ms".format(*figures) if fine else str(row)
        bench.lines.add(f"{row['what']}, {row['how']}", fine, told)


def main(model_dir: str, profile: str) -> None:
    """At the desk: the table of 04_profile, as JSON."""
    kept = {}
    run = SimpleNamespace(save=lambda name, table: kept.setdefault(name, table))
    with neoxlib.Session(model_dir, 4, "float32", "cpu", cluster_profile=profile) as session:
        tables.between_hosts(run, session, CASE)
    print("desk:" + kept["hosts"].to_json(orient="records"))


if __name__ == "__main__":
    main(*sys.argv[1:])
