"""Load is what others used: not this process, its children or the ranks."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from neoxlib.speed import watch

BURN = "import time\nwhile time.process_time() < {}: pass"


def burner(seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", BURN.format(seconds)])


class Counters:
    """Counters of a machine of two cores, in seconds, that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.user = self.steal = self.own = self.now = 0.0
        monkeypatch.setattr(watch, "places", lambda: [0, 1])
        monkeypatch.setattr(watch.psutil, "cpu_times", self.times)
        monkeypatch.setattr(watch, "used", lambda pids: {1: self.own})
        monkeypatch.setattr(watch.time, "perf_counter", lambda: self.now)

    def times(self, percpu: bool) -> list[SimpleNamespace]:
        return [SimpleNamespace(user=self.user, idle=1.0, steal=self.steal)] * 2


def test_what_others_used_is_the_busy_time_less_our_own(monkeypatch):
    machine = Counters(monkeypatch)
    with watch.LoadWatch() as load:
        machine.now, machine.user, machine.steal, machine.own = 10.0, 8.0, 0.5, 11.0
    assert (load.others, load.stolen, load.cores) == pytest.approx((0.5, 0.1, 2))
    assert load.row() == {"others_cores": load.others, "stolen_cores": 0.1, "cores": 2}


def test_more_of_our_own_than_was_busy_is_no_negative_load(monkeypatch):
    """Counters are read one after the other, so the two need not fit."""
    machine = Counters(monkeypatch)
    with watch.LoadWatch() as load:
        machine.now, machine.own = 1.0, 3.0
    assert load.others == 0


def test_children_are_our_own_also_after_their_end():
    before = sum(watch.used([watch.os.getpid()]).values())
    with burner(0.3) as process:
        process.wait()
    after = sum(watch.used([watch.os.getpid()]).values())
    assert after - before > 0.1


def test_a_process_that_is_named_is_our_own_and_one_that_ended_is_nothing():
    with burner(5) as process:
        while watch.used([process.pid]).get(process.pid, 0.0) < 0.1:
            time.sleep(0.02)
        process.kill()
    assert watch.used([process.pid]) == {}


def test_the_machine_says_its_load_and_where_it_knows_its_clock(monkeypatch):
    assert watch.machine()["load_average"] >= 0
    monkeypatch.setattr(watch.psutil, "cpu_freq", lambda: None)
    assert watch.machine()["frequency_mhz"] is None


def test_ranks_on_npus_keep_a_thread_each_busy_here():
    about = {"world_size": 4, "threads": 3}
    assert watch.usual_threads(about | {"device": "cpu"}) == 12
    assert watch.usual_threads(about | {"device": "npu:0"}) == 4
