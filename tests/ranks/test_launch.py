"""Starting and ending ranks: what exit codes mean."""

import signal
import subprocess

from neoxlib.ranks import launch
from neoxlib.ranks.memory_kills import memory_kills


def test_how_a_rank_ended_is_not_known_where_this_process_ignores_the_ends_of_children(tmp_path):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    process = subprocess.Popen(["false"])
    launcher = launch.RankLauncher(log_dir=str(tmp_path))
    launcher.processes = (process,)
    process.wait()
    signal.signal(signal.SIGCHLD, before)
    assert launcher.ended() == {0: launch.ending(None)}


def test_exit_codes_are_put_in_words():
    assert launch.ending(-signal.SIGKILL).startswith("was killed by SIGKILL, ")
    said = launch.ending(-signal.SIGKILL, memory_kills())
    assert "very likely" not in said and "out-of-memory killer" in said
    assert launch.ending(-signal.SIGTERM) == "was ended by SIGTERM"
    assert launch.ending(3) == "ended with exit code 3"
    assert "not known" in launch.ending(None)
