"""The command line: what it passes on, what it prints, how it ends."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from neoxlib import weights
from neoxlib.__main__ import cli
from neoxlib.errors import ParameterError, ShardError


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.mark.parametrize(("error", "code"), [(ShardError("64 heads over 3"), 1), (ParameterError("seed: bad"), 2)])
def test_errors_of_a_users_making_are_one_message_and_a_code(monkeypatch, error, code):
    monkeypatch.setattr(weights, "shard", lambda *_, **__: (_ for _ in ()).throw(error))
    said = run("shard", "src", "dst", "--world-size", 3)
    assert said.exit_code == code and said.stderr == f"{type(error).__name__}: {error}\n" and said.stdout == ""


def test_our_own_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(weights, "shard", lambda *_, **__: (_ for _ in ()).throw(AssertionError("ours")))
    assert isinstance(run("shard", "src", "dst", "--world-size", 2).exception, AssertionError)


@pytest.mark.parametrize("args", [["report"], ["report", "--all", "x"], ["shard", "a", "b"], ["dance"],
                                  ["report", "x", "--timeout", "0"]])  # fmt: skip
def test_wrong_usage_is_code_2(args):
    assert run(*args).exit_code == 2


def test_commands_pass_on_what_they_were_given(monkeypatch):
    calls = []
    for name in ("shard", "verify", "merge"):
        note = lambda *a, _name=name, **kw: calls.append((_name, [str(x) for x in a], kw)) or []  # noqa: E731
        monkeypatch.setattr(weights, name, note)
    for args in (["shard", "s", "d", "--world-size", 4, "--dtype", "float16"], ["verify", "d"], ["merge", "d", "o"]):
        assert run(*args).exit_code == 0
    assert [name for name, *_ in calls] == ["shard", "verify", "merge"]
    assert calls[0][1] == ["s", "d", "4"] and calls[0][2]["dtype"] == "float16"


@pytest.mark.parametrize(("worst", "code"), [("OK", 0), ("WARN", 0), ("FAIL", 1)])
def test_doctor_ends_with_1_only_where_something_fails(monkeypatch, worst, code):
    found = SimpleNamespace(worst=worst, to_json=lambda: '{"rows": []}')
    monkeypatch.setitem(sys.modules, "neoxlib.doctor", SimpleNamespace(run=lambda model_dir: found))
    import neoxlib

    monkeypatch.setattr(neoxlib, "doctor", sys.modules["neoxlib.doctor"], raising=False)
    said = run("doctor", "--json")
    assert said.exit_code == code and said.stdout == '{"rows": []}\n'


def test_help_waits_for_no_heavy_import():
    heavy = {"torch", "papermill", "pandas"}
    code = f"import sys; from neoxlib.__main__ import cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
