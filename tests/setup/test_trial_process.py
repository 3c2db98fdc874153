"""A group's process may end as it likes: each planned trial has an answer, and who is told."""

import sys
from dataclasses import asdict
from importlib.util import find_spec

import pytest

from neoxlib.setup.npu_trials import Timing, Trial
from neoxlib.setup.trial_groups import Group, answers
from neoxlib.setup.trial_process import TrialProcess

GROUP = Group("products", "float16", (("TASK_QUEUE_ENABLE", "2"),))
START = """
import json, os, signal, sys, time
job = json.loads(sys.argv[1])
out = os.fdopen(job["fd"], "w", buffering=1)
def tell(**line):
    out.write(json.dumps(line) + chr(10))
def passed(name):
    whole = dict(name=name, dtype=job["dtype"], error=0.0, tolerance=1.0, unit="x", passed=True)
    tell(trial=whole)
    tell(done=name)
tell(plan=["a", "b", "c"])
passed("a")
"""


def asked(code: str, start: str = START, limit_s: float = 60.0) -> list[Trial | dict]:
    command = (sys.executable, "-c", start + code)
    lines = TrialProcess({"FOR_ALL": "1"}, 3, command, limit_s).answers(GROUP)
    return [Trial(**line["trial"]) if "trial" in line else line for line in lines]


def test_a_process_that_answers_everything_leaves_no_gap():
    found = asked("passed('b'); passed('c')")
    assert [(trial.name, trial.passed, trial.asked) for trial in found] == [
        ("a", True, True),
        ("b", True, True),
        ("c", True, True),
    ]


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", "ended with signal 6"),
        ("print('EZ9999: aicore exception', file=sys.stderr); sys.exit(3)", "exit code 3: EZ9999"),
        ("raise RuntimeError('gone')", "exit code 1: RuntimeError: gone"),
        ("out.write('{\"trial\": {'); out.flush(); os._exit(9)", "exit code 9"),
    ],
)
def test_the_trial_during_which_a_process_ended_has_failed_and_the_rest_was_not_asked(end, how):
    a, b, c = asked(end)
    assert a.passed and how in b.detail and b.asked and not b.passed
    assert c.detail.startswith("not asked: device lost") and not c.asked and not c.passed


def test_what_comes_after_a_lost_device_was_not_asked():
    tell = "tell(trial=dict(name='b', dtype='float16', error=None, tolerance=0.0, unit='', "
    code = f"{tell}passed=False, detail='507015')); tell(done='b'); tell(lost='507015')"
    _, b, c = asked(code)
    assert b.detail == "507015" and b.asked
    assert c.detail == "not asked: device lost (507015)" and not c.asked


def test_a_process_that_hangs_is_ended_with_those_that_it_started():
    code = "import subprocess; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    a, b, c = asked(code, limit_s=2.0)
    assert a.passed and b.detail == "no answer within 2 s" and not c.asked


def test_a_process_that_never_began_is_one_failure():
    (trial,) = asked("", start="import sys; sys.exit('no torch')")
    assert trial.name == "products" and trial.detail.endswith("exit code 1: no torch")


@pytest.mark.skipif(find_spec("torch_npu") is not None, reason="torch_npu is installed")
def test_the_real_process_says_what_hinders_it_where_there_is_no_npu():
    (line,) = TrialProcess({}).answers(GROUP)
    assert "No module named 'torch_npu'" in line["trial"]["detail"]
    assert line["trial"]["passed"] is False


def test_a_group_gets_its_variables_and_the_order():
    start = START + "tell(about=[os.environ['FOR_ALL'], os.environ['TASK_QUEUE_ENABLE'], job])\n"
    line = asked("passed('b'); passed('c')", start=start)[1]
    job = line["about"][2]
    assert line["about"][:2] == ["1", "2"] and job["world_size"] == 3 and job["kind"] == "products"


def failing(name: str) -> Trial:
    return Trial.failed(name, "float16", RuntimeError("507015"))


def test_a_failure_that_takes_the_device_ends_the_group_and_another_does_not():
    asks = [
        ("a", lambda: [failing("a")]),
        ("b", lambda: [Timing("t", "float16", 1.0)]),
        ("c", lambda: [failing("c")]),
        ("d", lambda: [failing("d")]),
    ]
    states = iter([None, "it does not answer"])
    lines = list(answers(asks, lambda: next(states)))
    assert lines[0] == {"plan": ["a", "b", "c", "d"]} and lines[-1] == {
        "lost": "it does not answer"
    }
    assert [line["done"] for line in lines if "done" in line] == ["a", "b", "c"]
    assert {"timing": asdict(Timing("t", "float16", 1.0))} in lines
