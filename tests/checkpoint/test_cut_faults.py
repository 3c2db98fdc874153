"""Cuts that are killed or disturbed at a few changes to the disk; `make test-faults` does all.

Each runs in forks, so a process of its own does it.
"""

import os
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


@pytest.mark.timeout(900)  # dozens of processes, each of which loads torch's libraries
@pytest.mark.parametrize(
    ("fault", "most", "words"),
    [
        ("killed", 5, "5 kills at"),
        ("changed", 4, "changed at 4 changes: told 3 times"),
        ("together", 3, "begun at 3 changes: one of the two refused"),
    ],
)
def test_a_cut_that_is_disturbed_at_any_change_to_the_disk_ends_whole_or_is_told(
    checkpoint, fault, most, words
):
    command = [sys.executable, "-c", CODE, str(checkpoint), fault, str(most)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # a process with threads could not fork
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert f"SEEN {words}" in done.stdout, done.stderr
