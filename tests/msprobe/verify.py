"""neoxlib and the vendor's msprobe, both ways, on a machine without an NPU.

`make verify-msprobe` has the package's PrecisionDebugger dump transformers' model on the shipped
checkpoint, has its `msprobe compare` hold our dumps against that, and reads its dumps. Some kinds
of faults are planted, with ARGS=all every kind of float32; ARGS="read page" makes only these
checks. Exit code: 0 if all checks hold, else 1.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GPTNeoXForCausalLM

from neoxlib.align.joins import against
from neoxlib.align.localize import localize
from neoxlib.align.msprobe import read_msprobe
from neoxlib.align.msprobe_write import write_msprobe
from neoxlib.align.reader import Capture
from tests.msprobe import runs, tool
from tests.msprobe.faulty import CHOSEN, faulty, reverse
from tests.msprobe.runs import SHIPPED, Bench
from tests.npu_wheel.say import check, note
from tests.support.msprobe_dumps import dump


def matched(bench: Bench) -> None:
    """Every tensor of healthy runs has its row and passes."""
    found = {"1 rank": bench.one, "2 ranks": bench.two, "compiled": bench.compiled}
    pairs, names = [], []
    for name, capture in found.items():
        folder = write_msprobe(capture, bench.root / f"{name.replace(' ', '_')}_dump")
        for step in range(3 if name == "1 rank" else 2):
            pairs.append((tool.place(folder, step), tool.place(bench.golden, step)))
            names.append(f"{name}, pass {step}")
    tables = tool.compared(pairs, bench.root / "healthy")
    for name, table in zip(names, tables, strict=True):
        foreign = [row for row in table.unmatched if ".Step." not in row]
        rows = f"{len(table.matched)} rows"
        check(f"{name}: every tensor of a module is matched by name", not foreign, rows)
        check(f"{name}: msprobe passes every row", not table.wrong, ", ".join(table.wrong[:3]))
    ours = Counter(row.split(".Step.")[0].split(".", 4)[-1] for row in tables[2].unmatched)
    note("no module of transformers, so only in our dumps", ", ".join(sorted(ours)))
    said = json.loads((tool.place(bench.golden, 0) / "dump.json").read_text())["data"]
    written = json.loads((pairs[0][0] / "dump.json").read_text())["data"]
    kinds = sorted(
        {name.split(".forward")[0].split(".")[-1] for name in said if name not in written}
    )
    note("no step of ours, so only in transformers' dump", ", ".join(kinds))


def read(bench: Bench) -> None:
    """Its dumps hold what hooks on transformers' modules see."""
    hooks = {drift[:2]: drift.distance for drift in against(bench.one, bench.hooks)}
    for level in ("L0", "mix"):
        folder = bench.golden
        if level == "mix":
            folder = tool.dumped(SHIPPED, bench.one.folder, bench.root / "mix", level=level)
        found = read_msprobe(folder, bench.one)
        same = all(_equal(found, bench.hooks, part) for part in ("begin", "layer003", "end"))
        check(f"level {level}: the tensors have the bits that hooks see", same)
        drifts = against(bench.one, found)
        near = all(
            torch.allclose(torch.tensor(d.distance), torch.tensor(hooks[d[:2]]), 0, 1e-12)
            for d in drifts
            if d[:2] in hooks
        )
        every = set(hooks) <= {drift[:2] for drift in drifts}
        check(
            f"level {level}: the distances are those from hooks", near and every, f"{len(drifts)}"
        )
        check(f"level {level}: a sound dump is not accused", not localize(found, SHIPPED).first)
    few = tool.dumped(SHIPPED, bench.one.folder, bench.root / "few", "statistics")
    drifts = against(bench.one, read_msprobe(few, bench.one))
    far = max(drift.distance.relative_l2 for drift in drifts)
    check("statistics: every step of hooks is there", len(drifts) == len(hooks), f"{len(drifts)}")
    check("statistics: norms agree to 1e-5", far < 1e-5, f"{far:.1g}")


def _equal(one: Capture, other: Capture, part: str) -> bool:
    mine, seen = one.part(part), other.part(part)
    return set(seen) <= set(mine) and all(torch.equal(mine[key], seen[key]) for key in seen)


def imitated(bench: Bench) -> None:
    """The dumps of the ordinary tests are like the package's."""
    model = GPTNeoXForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    folder = dump(model, bench.root / "imitated", bench.one)
    for step in range(3):
        real, like = (
            json.loads((tool.place(each, step) / "dump.json").read_text())["data"]
            for each in (bench.golden, folder)
        )
        check(f"pass {step}: the tests' dumps have the same modules", list(real) == list(like))
        sides = [(real[name][side], like[name][side]) for name in real for side in SIDES]
        bad = [pair for pair in sides if not _alike(*pair)]
        check(f"pass {step}: and say the same of every tensor", not bad, str(bad[0]) if bad else "")


def page(bench: Bench) -> None:
    """The commands of docs/align.md run in their order, on the shipped model."""
    place = bench.root / "page"
    place.mkdir()
    for number, line in enumerate(tool.lines()):
        words = line.replace("/models/gpt-neox-20b", str(SHIPPED)).split()
        names = {"python": sys.executable, "msprobe": str(tool.MSPROBE)}
        try:
            tool.call([names[words[0]], *words[1:]], place)
            if number == 0:
                tool.dumped(SHIPPED, place / "ours" / "capture", place / "theirs")
            check(line, True)
        except tool.Failed as error:
            check(line, False, str(error))
    check("and msprobe wrote its table", any((place / "compared").glob("compare_result*.csv")))


SIDES = ("input_args", "output", "parameters")


def _alike(real: object, like: object) -> bool:
    if isinstance(real, dict) and "type" in real:
        numbers = [x.pop(k, 0) or 0 for x in (real, like) for k in ("Max", "Min", "Mean", "Norm")]
        near = torch.allclose(*torch.tensor(numbers, dtype=torch.float64).chunk(2), 1e-4, 1e-5)
        return near and real == like
    if isinstance(real, dict):
        return all(_alike(real[key], like.get(key)) for key in real if real[key] is not None)
    if isinstance(real, list):
        return len(real) == len(like) and all(map(_alike, real, like))
    return True


STEPS = (matched, read, imitated, page)


def main(asked: Sequence[str]) -> int:
    """Make all checks, or those named, print them and the table of faults."""
    known = [step.__name__ for step in STEPS] + ["faults", "all"]
    if unknown := [name for name in asked if name not in known]:
        print(f"no such checks: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    torch.set_num_threads(1)
    sys.stdout = said = Said()
    kinds = {f.kind: 2 for f in runs.faults(2)} if "all" in asked else CHOSEN
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for step in STEPS:
            if step.__name__ in asked or not set(asked) - {"all"}:
                step(bench)
        if "faults" in asked or not set(asked) - {"all"}:
            rows = [*faulty(bench, kinds), *reverse(bench)]
    head = (
        "planted",
        "ranks",
        "our first guilty step",
        "pass",
        "msprobe's first row",
        "msprobe is",
    )
    for row in (head, ("---",) * len(head), *rows) if rows else ():
        print(f"| {' | '.join(row)} |")
    print(f"\nmsprobe both ways: {dict(said.counts)}. Nothing ran on an NPU.")
    return int(said.counts["FAIL"] > 0 or not said.counts["OK"])


class Said:
    """Standard output that counts the lines of checks."""

    def __init__(self) -> None:
        self.real = sys.stdout
        self.counts: Counter[str] = Counter()

    def write(self, text: str) -> int:
        self.counts.update(word for word in ("OK", "FAIL", "NOTE") if text.startswith(word + " "))
        return self.real.write(text)

    def flush(self) -> None:
        self.real.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
