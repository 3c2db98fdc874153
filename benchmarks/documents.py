"""Copy the measured tables from outputs/ into docs/ and the READMEs: `make bench-docs`.

Each table stands between two marker lines of its document. What was not measured here stays.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from benchmarks import table

ROOT = Path(__file__).parents[1]
PERFORMANCE = "docs/performance.md"
PLACES = {  # of tables that stand elsewhere
    "quality": "docs/quantization.md",
    "first-report": "docs/first-steps.md",
    "first-report-zh": "docs/zh/first-steps.md",
    "first-report-readme": "README.md",
    "first-report-readme-zh": "README.zh-CN.md",
}
START = "<!-- {}: from here on written by `make bench-docs` -->"
END = "<!-- {}: end -->"
FILES = {
    "bench-load": "bench/load.md",
    "bench-20b": "bench/big.md",
    "bench-exam": "bench/exam.md",
    "bench-align": "bench/align.md",
    "bench-encryption": "bench/encryption.md",
    "quality": "quality.md",
    "gate": "bench/gate.md",
    "gate-planted": "bench/planted.md",
} | {name: f"bench/{name}.md" for name in PLACES if name != "quality"}
PEERS = "outputs/bench/peers.json"
NOTHING = (
    "outputs holds no table: run `make bench-peers`, bench-load, bench-20b, bench-exam, "
    "bench-align, bench-first, bench-encryption, gate-table, gate-planted or quality first"
)


def document(name: str) -> str:
    """Return the document that the table `name` stands in."""
    return PLACES.get(name, PERFORMANCE)


def into_document(text: str, name: str, report: str) -> str:
    """Return `text` with `report` between the two marker lines of `name`.

    Raises ValueError if `text` lacks the marker lines.
    """
    start = START.format(name)
    end = END.format(name)
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.S)
    if not pattern.search(text):
        place = document(name)
        raise ValueError(
            f"{place} lacks the lines {start} and {end}: put them where the table goes"
        )
    return pattern.sub(lambda _: f"{start}\n\n{report.strip()}\n\n{end}", text)


def slug(cpu: str) -> str:
    """Return the instruction set in a CPU's name as part of a file's name.

    Kernels differ by instruction set, so each has a table of its own.
    """
    return re.sub(r"[^a-z0-9]+", "-", cpu.partition("(")[2].lower()).strip("-")


def reports(root: Path) -> dict[str, str]:
    """Return name -> text of all that was measured here."""
    files = {name: root / "outputs" / file for name, file in FILES.items()}
    texts = {name: path.read_text("utf-8") for name, path in files.items() if path.exists()}
    if (root / PEERS).exists():
        name, text = _peers(root)
        texts[name] = text
    return texts


def _peers(root: Path) -> tuple[str, str]:
    peers = root / PEERS
    result = json.loads(peers.read_text(encoding="utf-8"))
    kind = slug(result["machine"]["cpu"])
    svg = f"benchmarks/peers-{kind}.svg"
    shutil.copy(peers.with_suffix(".svg"), root / svg)
    picture = f"![The next token of one row, by library and precision](../{svg})"
    return f"bench-peers-{kind}", f"{picture}\n\n{table.markdown(result)}"


def write(root: Path) -> list[str]:
    """Put every measured table into its document, and the picture into benchmarks/."""
    texts = reports(root)
    for name, report in texts.items():
        path = root / document(name)
        path.write_text(into_document(path.read_text("utf-8"), name, report), encoding="utf-8")
    return list(texts)


if __name__ == "__main__":
    written = write(ROOT)
    if not written:
        sys.exit(NOTHING)
    print(f"the pages now have {', '.join(written)}")
