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


def test_a_watch_that_is_entered_again_speaks_of_all_its_spans_and_of_nothing_between(monkeypatch):
    machine = Counters(monkeypatch)
    load = watch.LoadWatch()
    with load:
        machine.now, machine.user, machine.own = 10.0, 8.0, 11.0
    machine.now, machine.user, machine.steal = 50.0, 48.0, 9.0
    with load:
        machine.now, machine.user, machine.steal, machine.own = 80.0, 55.5, 10.0, 26.0
    assert (load.seconds, load.others, load.stolen) == pytest.approx((40, 0.125, 0.05))


class Noticed:
    """A run that keeps why it is noisy."""

    why = ""

    def noisy(self, why: str) -> None:
        self.why = why


@pytest.mark.parametrize(
    ("user", "steal", "why"),
    [
        (5.0, 0.0, ""),
        (6.0, 0.0, "while the answers were timed, other processes used 0.2 of 2 cores"),
        (5.0, 0.9, ""),
        (5.0, 1.5, "while the answers were timed, the host gave 15% of the cores' time to other"),
    ],
)
def test_answers_beside_other_load_make_a_run_noisy(monkeypatch, user, steal, why):
    machine = Counters(monkeypatch)
    with watch.LoadWatch() as load:
        machine.now, machine.user, machine.steal, machine.own = 10.0, user, steal, 10.0
    run = Noticed()
    watch.record_load(run, load, {"world_size": 2, "device": "cpu", "threads": 1})
    assert run.why.startswith(why) and bool(run.why) == bool(why)


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
