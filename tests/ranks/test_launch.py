"""Starting and ending ranks: what exit codes mean."""

import signal

from neoxlib.ranks import launch
from neoxlib.ranks.memory_kills import memory_kills


def test_exit_codes_are_put_in_words():
    assert launch.ending(-signal.SIGKILL).startswith("was killed by SIGKILL, ")
    said = launch.ending(-signal.SIGKILL, memory_kills())
    assert "very likely" not in said and "out-of-memory killer" in said
    assert launch.ending(-signal.SIGTERM) == "was ended by SIGTERM"
    assert launch.ending(3) == "ended with exit code 3"
    assert "not known" in launch.ending(None)
