"""Are the schemas that the tests register word for word those in the wheel, and are they all that
the library calls?
"""

import re
from pathlib import Path

from tests.npu_wheel import wheel
from tests.npu_wheel.say import check

ROOT = Path(__file__).parents[2]
LISTED = ROOT / "tests" / "support" / "npu" / "schemas.txt"
CALL = re.compile(r"\bnpu\.(_?npu_\w+)\(")


def main() -> None:
    """A line for each listed schema, and one for what the library calls."""
    listed = [
        line for line in LISTED.read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    there = wheel.wheel_schemas()
    check(
        f"schemas read from the text of torch-npu {wheel.wheel_version()}",
        len(there) > 100,
        str(len(there)),
    )
    for line in listed:
        name = wheel.operator(line)
        others = [schema for schema in there if wheel.operator(schema) == name]
        same = wheel.normal(line) in there
        check(
            f"{name} is the wheel's",
            same,
            "" if same else f"the wheel has {' '.join(others) or 'none'}",
        )
    called = {
        name
        for path in (ROOT / "neoxlib").rglob("*.py")
        for name in CALL.findall(path.read_text("utf-8"))
    }
    unlisted = {f"npu::{name}" for name in called} - {wheel.operator(line) for line in listed}
    names = ", ".join(sorted(unlisted or called))
    check("operators that the library calls are listed", bool(called) and not unlisted, names)


if __name__ == "__main__":
    main()
