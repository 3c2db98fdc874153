"""Ask for known holes in the packages of an environment, and write its bill of materials.

`python -m tests.audit PYTHON`, run where pip-audit and cyclonedx-bom are; PYTHON is the environment
that is looked at. Exit code 0 without a finding, 1 with one, 77 if the advisory database could not
be reached: then nothing is said about holes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

OUTPUTS = Path(__file__).parents[2] / "outputs"
BILL, HOLES = "sbom.json", "holes.json"
NOT_ASKED = 77
FREEZE = ("-m", "pip", "freeze", "--all", "--exclude-editable")


def main(python: str) -> int:
    """Look at the environment of `python`."""
    OUTPUTS.mkdir(exist_ok=True)
    write_bill(python, OUTPUTS / BILL)
    frozen = subprocess.run([python, *FREEZE], capture_output=True, text=True, check=True).stdout
    listed = OUTPUTS / "packages.txt"
    listed.write_text("".join(f"{line}\n" for line in plain_pins(frozen)))
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(listed)]
    done = subprocess.run([*command, "-f", "json"], capture_output=True, text=True)
    listed.unlink()
    return tell(done.stdout, done.stderr)


def write_bill(python: str, path: Path) -> None:
    """Write the bill of materials of an environment, as CycloneDX."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--of", "JSON"]
    subprocess.run([*command, "-o", str(path), python], check=True)
    parts = json.loads(path.read_text())["components"]
    print(f"{len(parts)} packages in {path.relative_to(OUTPUTS.parent)}, as CycloneDX")


def plain_pins(frozen: str) -> list[str]:
    """Return the pins of a freeze as the index knows them: torch==2.13.0+cpu is torch==2.13.0."""
    pins = [line for line in frozen.splitlines() if "==" in line]
    return [pin.partition("+")[0] for pin in pins]


def tell(said: str, complaint: str) -> int:
    """Print what was found; return the exit code."""
    try:
        packages = json.loads(said)["dependencies"]
    except (ValueError, KeyError):
        words = complaint.strip().splitlines() or ["nothing was said"]
        print(f"the advisory database could not be asked, so holes are not known: {words[-1]}")
        return NOT_ASKED
    unknown = {package["name"]: package.get("skip_reason", "") for package in packages}
    unknown = {name: why for name, why in unknown.items() if why}
    if len(unknown) == len(packages):
        why = next(iter(unknown.values()), "there is no package")
        print(f"the advisory database knows no package at all, so holes are not known: {why}")
        return NOT_ASKED
    (OUTPUTS / HOLES).write_text(json.dumps(packages, indent=1))
    for line in findings(packages):
        print(line)
    found = sum(len(package.get("vulns", ())) for package in packages)
    print(f"{found} known holes in {len(packages) - len(unknown)} packages")
    print(f"not looked up: {', '.join(unknown) or 'none'}")
    return int(found > 0)


def findings(packages: list[dict[str, Any]]) -> list[str]:
    """Return a line for each hole."""
    return [
        f"{package['name']} {package['version']}: {hole['id']}, mended in "
        f"{', '.join(hole['fix_versions']) or 'no version yet'}"
        for package in packages
        for hole in package.get("vulns", ())
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
