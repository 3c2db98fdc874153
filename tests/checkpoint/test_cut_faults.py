"""Cuts that are killed or disturbed at a few changes to the disk; `make test-faults` does all.

Each runs in forks, so a process of its own does it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from pathlib import Path
from tests.faults import weights
print("SEEN", getattr(weights, sys.argv[2])(Path(sys.argv[1]), int(sys.argv[3])))
"""


@pytest.mark.parametrize(
    ("fault", "most", "words"),
    [
        ("killed", 12, "12 kills at"),
        ("changed", 4, "changed at 4 changes: told 3 times"),
        ("together", 4, "begun at 4 changes: one of the two refused"),
    ],
)
def test_a_cut_that_is_disturbed_at_any_change_to_the_disk_ends_whole_or_is_told(
    checkpoint, fault, most, words
):
    command = [sys.executable, "-c", CODE, str(checkpoint), fault, str(most)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert f"SEEN {words}" in done.stdout, done.stderr
