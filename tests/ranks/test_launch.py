"""Starting and ending ranks: what exit codes mean."""

import signal

from neoxlib.ranks import launch


def test_exit_codes_are_put_in_words():
    assert "out-of-memory" in launch.ending(-signal.SIGKILL)
    assert launch.ending(-signal.SIGTERM) == "was ended by SIGTERM"
    assert launch.ending(3) == "ended with exit code 3"
    assert "not known" in launch.ending(None)
