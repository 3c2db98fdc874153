"""The self-test of NPU hosts: its file and verdict, the NPUs it takes, hosts without an NPU."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.npu_smi import Card, Holder, Position, Smi
from neoxlib.setup import selftest, trial_groups
from neoxlib.setup.npu_trials import Timing, Trial
from tests.npu_wheel import levels
from tests.support.npu import reference as reference

reference.install()


def in_this_process(group: trial_groups.Group, chip: object) -> object:
    """The group's answers on emulated operators, as its process would tell them."""
    asks = trial_groups.plan(group, "cpu", chip, 2)
    lines = trial_groups.answers(asks, partial(trial_groups.lost_device, "cpu"))
    return map(json.loads, map(json.dumps, lines))


def test_the_file_holds_every_error_and_says_that_it_is_emulated(tmp_path):
    chip = replace(CHIPS["310P3"], name="310P3")
    record = selftest.TrialLog(
        tmp_path / "new" / "x.json", lambda line: None, selftest.about("cpu", chip, "cpu", 2)
    )
    ask = partial(in_this_process, chip=chip)
    with reference.on_chip(chip.family):
        assert selftest.run_trials(record, ask, trial_groups.groups(chip))
    whole = json.loads((tmp_path / "new" / "x.json").read_text())
    assert whole["emulated"] is True and whole["verdict"] == "passed" and whole["chip"] == "310P3"
    assert {"cann", "driver", "firmware", "device", "environment", "started", "seconds"} < set(
        whole
    )
    assert whole["environment"]["torch"] == torch.__version__ and whole["world_size"] == 2
    names = [check["name"] for check in whole["checks"]]
    assert len(names) == 14 + 3 + 1 + 5 and {
        "greedy text",
        "two layers over ranks",
        "all-reduce of int32",
    } < set(names)
    assert all(check["error"] <= check["tolerance"] and check["unit"] for check in whole["checks"])
    timings = [timing["name"] for timing in whole["timings"]]
    assert timings == ["attention of one token", "all-reduce of a token's states"] + 3 * [
        "launch of an operator"
    ]
    assert all(timing["us"] > 0 for timing in whole["timings"])


def test_one_failure_is_the_verdict_and_a_file_cut_short_says_so(tmp_path):
    said = []
    head = {"emulated": False, "device": "a chip"}
    record = selftest.TrialLog(tmp_path / "x.json", said.append, head)
    record.add([Trial.judged("good", "float16", 0.0, 0.1, "", "")])
    assert json.loads(record.path.read_text())["verdict"] == "unfinished"
    record.add([Trial.failed("bad", "float16", RuntimeError("lost"))])
    assert not record.finish() and json.loads(record.path.read_text())["verdict"] == "failed"
    assert said[1].startswith("FAIL  bad, float16: no answer") and said[2].startswith(
        "1 of 2 passed on a chip"
    )
    assert not selftest.TrialLog(
        tmp_path / "y.json", said.append, head
    ).finish()  # nothing asked is nothing passed


def test_a_model_that_cannot_be_loaded_is_a_failure(tmp_path):
    trial = trial_groups.on_model(tmp_path, "cpu", CHIPS["310P3"], "float16", None, "x", None)
    assert not trial.passed and "holds no weights" in trial.detail


def test_what_was_not_asked_is_no_pass_and_is_told(tmp_path):
    said = []
    head = {"emulated": False, "device": "a chip"}
    record = selftest.TrialLog(tmp_path / "x.json", said.append, head)
    record.add([Timing("launch", "float16", 5.25, "as set")])
    record.add([Trial.judged("good", "float16", 0.0, 0.1, "", "")])
    record.add([Trial.not_asked("other", "float16", "device lost")])
    assert not record.finish()
    assert said[0] == "time  launch, float16: 5.2 us (as set)"
    assert said[2] == "skip  other, float16: no answer (not asked: device lost)"
    assert said[3].startswith("1 of 2 passed, 1 not asked on a chip")


CARDS = [Card(n, 0, "910B3", "OK", None, 3000, 65536) for n in range(4)]
PLACES = [Position(n, 0, n, "910B3") for n in range(4)]


def test_npus_that_somebody_uses_are_left_out_and_named():
    used = [*CARDS[:2], replace(CARDS[2], used_mib=40000), CARDS[3]]
    smi = Smi(cards=tuple(used), holders=(Holder(1, 0, 4711, "python", 9000),))
    free, busy = selftest.free_npus(smi, PLACES, {})
    assert free == [0, 3]
    assert busy == ["NPU 1: in use by process 4711", "NPU 2: 25536 of 65536 MiB free"]


def test_only_visible_npus_are_taken_by_their_logic_id():
    places = [replace(place, logic=7 - place.npu) for place in PLACES]
    smi = Smi(cards=tuple(CARDS))
    assert selftest.free_npus(smi, places, {}) == ([4, 5, 6, 7], [])
    variables = {"ASCEND_RT_VISIBLE_DEVICES": "4,6"}
    assert selftest.free_npus(smi, places, variables) == ([4, 6], [])
    assert selftest.free_npus(smi, [], variables) == ([], [])
    assert selftest.free_npus(None, [], {}) == (None, [])


def test_where_all_npus_are_in_use_nothing_is_verified(monkeypatch, tmp_path):
    smi = Smi(cards=tuple(CARDS[:1]), holders=(Holder(0, 0, 4711, "python", 9000),))
    monkeypatch.setattr(selftest, "npu_problems", tuple)
    monkeypatch.setattr(selftest.npu_smi, "query", lambda: smi)
    monkeypatch.setattr(selftest.npu_smi, "ask", lambda *_: "")
    said = []
    assert selftest.main(tmp_path / "x.json", said.append) == 77
    assert said == [
        "no NPU: NPU 0: in use by process 4711",
        "Nothing about a device was verified.",
    ]


def test_where_no_npu_can_be_used_it_ends_with_77_and_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(
        selftest,
        "npu_problems",
        lambda: ("torch_npu is not installed", "there is no /dev/davinci*"),
    )
    done = CliRunner().invoke(cli, ["selftest-npu", "-o", str(tmp_path / "x.json")])
    assert done.exit_code == 77 and not list(tmp_path.iterdir())
    assert "no NPU: there is no /dev/davinci*" in done.stdout
    assert done.stdout.splitlines()[-1] == "Nothing about a device was verified."


@pytest.mark.parametrize("passed, code", [(True, 0), (False, 1)])
def test_on_an_npu_the_exit_code_is_the_verdict(monkeypatch, tmp_path, passed, code):
    asked = []
    monkeypatch.setattr(selftest, "npu_problems", tuple)
    monkeypatch.setattr(selftest.npu_smi, "query", lambda: Smi(cards=tuple(CARDS)))
    monkeypatch.setattr(selftest.npu_smi, "ask", lambda *_: "")
    monkeypatch.setattr(selftest, "_device", lambda process: {"device": "a chip", "count": 2})
    monkeypatch.setattr(selftest, "chip_for", lambda kind: CHIPS["910B3"])
    monkeypatch.setattr(selftest, "_variables", lambda free: {"free": str(free)})
    monkeypatch.setattr(selftest, "run_trials", lambda *args: asked.append(args) or passed)
    assert selftest.main(tmp_path / "x.json", lambda line: None) == code
    record, ask, groups = asked[0]
    assert ask.__self__.world_size == 2 and ask.__self__.environment == {"free": "[0, 1, 2, 3]"}
    assert groups == trial_groups.groups(CHIPS["910B3"])
    assert record.head["device"] == "a chip" and record.head["emulated"] is False


def test_its_module_waits_for_torch_until_there_is_an_npu():
    code = "import sys, neoxlib.setup.selftest; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_the_document_claims_what_the_levels_say_and_no_more():
    page = Path(__file__).parents[2] / "docs" / "verification.md"
    assert levels.markdown() in page.read_text(encoding="utf-8")
    assert {row.level for row in levels.KNOWN} == {
        levels.EMULATED,
        levels.CHECKED,
        levels.DEVICE,
        levels.OPEN,
    }
