"""How `make verify-npu` judges its steps' answers. The steps themselves need the vendor's
wheel.
"""

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.npu_wheel import levels, standins, verify, wheel
from tests.npu_wheel.verify import STEPS, Outcome, Step

ROOT = Path(__file__).parents[2]
REQUIREMENTS = (ROOT / "tests" / "npu_wheel" / "requirements.txt").read_text()


@pytest.mark.parametrize(
    "lines, verdict",
    [
        (["OK    a", "OK    b: 3"], "OK"),
        (["OK    a", "NOTE  b: known"], "OK"),
        (["OK    a", "SKIP  b: no gcc"], "SKIP"),
        (["SKIP  a: x", "FAIL  b"], "FAIL"),
        ([], "SKIP"),
        (["NOTE  only"], "SKIP"),
        (["all is OK   here"], "SKIP"),
    ],
)
def test_a_step_is_ok_only_where_something_was_checked_and_nothing_was_left_out(lines, verdict):
    outcome = Outcome(STEPS[0])
    for line in lines:
        outcome.add(line)
    assert outcome.verdict == verdict
    assert outcome.loud == [line for line in lines if line.startswith(("FAIL", "SKIP", "NOTE"))]


@pytest.mark.parametrize(
    "words, code", [(["OK"], 0), (["OK", "NOTE"], 0), (["OK", "SKIP"], 77), (["SKIP", "FAIL"], 1)]
)
def test_the_exit_code_says_what_was_not_checked(monkeypatch, words, code):
    monkeypatch.setattr(verify, "_run", lambda step, missing: Outcome(step, Counter(words)))
    assert verify.main(["schemas"]) == code


def test_a_step_that_is_not_there_is_named(capsys):
    assert (
        verify.main(["schemas", "dance"]) == 2 and "no such step: dance" in capsys.readouterr().out
    )


def test_a_step_that_ends_badly_fails_with_its_last_words():
    outcome = verify._run(Step("no_such_module", "", "wheel"), "")
    assert outcome.verdict == "FAIL" and "no_such_module" in outcome.loud[0]


def test_what_needs_stand_ins_is_skipped_loudly_where_they_cannot_be_made(monkeypatch, capsys):
    monkeypatch.setattr(verify.shutil, "which", lambda tool: None)
    assert verify.main(["trace", "suite"]) == 77
    out = capsys.readouterr().out
    assert out.count("SKIP  trace: stand-ins need gcc, readelf, nm") == 2 and "SKIP  suite" in out


def test_stand_ins_are_not_made_beside_a_real_cann(monkeypatch, tmp_path):
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/cann")
    with pytest.raises(standins.Refused, match="a real CANN is here"):
        standins.make(tmp_path / "x")
    assert not list(tmp_path.iterdir()) and "real CANN" in verify._stand_ins()


def test_stand_ins_fail_and_look_for_a_real_cann_when_they_are_loaded():
    code = standins.source(
        ["aclInit", "aclCreateTensorDesc", "aclrtGetDevice", "_ZN2ge5GraphC1EPKc"]
    )
    answers = dict(re.findall(r'__asm__\("(\w+)"\);\nlong f\d+\(.*?\) \{.*?return (\d+); \}', code))
    assert answers["aclInit"] == str(standins.ERROR) and answers["aclCreateTensorDesc"] == "0"
    assert "ASCEND_HOME_PATH" in code and "/usr/local/Ascend" in code and "_exit(78)" in code


def test_only_where_it_is_asked_for_do_stand_ins_tell_of_a_device(monkeypatch):
    monkeypatch.delenv(standins.DEVICE, raising=False)
    assert (
        standins.DEVICE not in standins.environment()
        and standins.environment(device=True)[standins.DEVICE] == "1"
    )
    assert str(standins.FOLDER).startswith(sys.prefix)


def test_the_environment_is_apart_and_holds_the_wheel_that_the_package_names():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["npu"]
    assert set(extra) < set(REQUIREMENTS.split())
    assert any(extra[0].replace("==", " ") in row.against for row in levels.KNOWN)
    assert ".venv-npu/" in (ROOT / ".gitignore").read_text().split()


def test_the_wheels_folder_is_found_without_an_import(monkeypatch):
    assert wheel.folder("torch").name == "torch"
    with pytest.raises(LookupError, match="make verify-npu"):
        wheel.folder("no_such_module")


def test_every_step_is_a_module_of_the_folder():
    assert all((ROOT / "tests" / "npu_wheel" / f"{step.name}.py").is_file() for step in STEPS)
    collected = [path.name for path in (ROOT / "tests" / "npu_wheel").glob("test_*.py")]
    assert collected == ["test_verify.py"]  # the ordinary suite must not collect the steps
