"""Other processes of this Python, and where a user without a home keeps what programs write."""

import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import neoxlib
from neoxlib import process
from neoxlib.machine.environment import without_home

NOBODY = """
import os, sys
import neoxlib.process, neoxlib.machine.environment  # which this user may not be able to read
if os.getuid() == 0:
    os.setgid(12345)
    os.setuid(12345)
    os.environ.pop("HOME", None)
else:
    os.environ["HOME"] = "/nowhere"
for _ in range(2):
    neoxlib.process.need_home()
home = neoxlib.machine.environment.without_home("~")
print(os.environ["HOME"], neoxlib.process.cache_dir(), home)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder, and no variable that says where something is written."""
    for name in (*process.WRITTEN, process.CACHE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    process._own_folder.cache_clear()
    return tmp_path


def test_a_user_without_a_name_and_a_home_gets_a_private_one_and_is_told_once():
    with tempfile.TemporaryDirectory() as place:  # not pytest's, which other users may not enter
        os.chmod(place, 0o777)
        env = {"TMPDIR": place, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-c", NOBODY], env=env, capture_output=True, text=True, check=True
        )
        home, cache, shown = done.stdout.split()
        assert os.path.dirname(home) == place and stat.S_IMODE(os.stat(home).st_mode) == 0o700
    assert cache == f"{home}/.cache/neoxlib" and shown == "~"
    assert (
        done.stderr == f"the home folder, none, cannot be written to; {home} is used in its place\n"
    )


def test_a_home_that_cannot_be_written_to_is_still_read(temporary, monkeypatch, caplog):
    before = "/proc"  # where nobody makes a file
    monkeypatch.setenv("HOME", before)
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    for name in process.WRITTEN:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that they are as before, afterwards
        if name != "MPLCONFIGDIR":
            monkeypatch.delenv(name)
    with caplog.at_level(logging.WARNING, "neoxlib"):
        process.need_home()
        process.need_home()
    private = process.private_folder()
    assert (
        os.environ["IPYTHONDIR"] == str(private / "ipython")
        and os.environ["MPLCONFIGDIR"] == "/mine"
    )
    assert os.environ.get("HOME") == before and len(caplog.records) == 1


FULL = """
import os, resource
from neoxlib import process
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as a quota, for each file
process.need_home()
print(os.environ["IPYTHONDIR"])
"""


def test_a_home_that_is_full_is_not_written_to(tmp_path):
    env = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", FULL], env=env, capture_output=True, text=True)
    private = tmp_path / f"neoxlib-home-{os.getuid()}"
    assert done.stdout == f"{private / 'ipython'}\n", done.stderr
    assert "cannot be written to" in done.stderr and list(tmp_path.iterdir()) == [private]


def test_a_private_folder_is_the_same_again_and_never_one_that_others_made_or_may_enter(temporary):
    first = process.private_folder()
    assert process.private_folder() == first and stat.S_IMODE(first.stat().st_mode) == 0o700
    first.chmod(0o777)
    assert process.private_folder() != first
    first.rmdir()
    first.symlink_to(temporary)
    assert process.private_folder() != first


def test_where_there_is_a_home_nothing_changes(temporary, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(temporary))
    before = dict(os.environ)
    process.need_home()
    assert dict(os.environ) == before and not caplog.records
    assert (
        process.cache_dir() == temporary / ".cache" / "neoxlib"
        and without_home(f"{temporary}/x") == "~/x"
    )
    monkeypatch.setenv("NEOXLIB_CACHE", "/elsewhere")
    assert process.cache_dir() == Path("/elsewhere")


def test_a_process_is_started_with_this_neoxlib_and_the_same_places_to_look_at(
    tmp_path, monkeypatch
):
    (tmp_path / "helpers.py").write_text(
        "import neoxlib\ndef say(*words):\n    print(neoxlib.__file__, *words)\n"
    )
    (tmp_path / "neoxlib.py").write_text("raise ImportError('not the one you want')\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    command = [*process.python("helpers", "say", "'one', sys.argv[1:]"), "two"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{neoxlib.__file__} one ['two']\n"


START = "import sys; from neoxlib.process import prepare_children; prepare_children()"


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("export PYTHONOPTIMIZE=2", "without docstrings (-OO); unset PYTHONOPTIMIZE"),
        ("umask 777", "the umask 0777 takes from you what you write"),
        (r"mkdir $'\xff'; export TMPDIR=$PWD/$'\xff'", "\\udcff', is not UTF-8; set TMPDIR"),
        ("mkdir 'x $HOME'; export TMPDIR=$PWD/'x $HOME'", "x $HOME, names a variable; set TMPDIR"),
    ],
)
def test_surroundings_in_which_no_child_starts_are_refused(before, told, tmp_path):
    command = f"{before}; exec {sys.executable} -c '{START}'"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and told in done.stderr.splitlines()[-1], done.stderr


def test_a_process_is_known_by_when_it_started_and_where():
    own = process.this_process()
    assert not process.has_ended(own)
    assert process.has_ended(own | {"started": own["started"] - 100})
    assert process.has_ended(own | {"pid": 2**22 + 1})
    assert not process.has_ended(own | {"pid": 2**22 + 1, "host": "another"})
    assert not process.has_ended({})


def test_signals_are_held_back_all_together_and_then_each_acts_even_if_one_before_it_raises():
    acted = []

    def late(number: int, frame: object) -> None:
        acted.append(number)
        raise TimeoutError

    numbers = [signal.SIGALRM, signal.SIGUSR2]
    before = [signal.signal(number, late) for number in numbers]
    try:
        with pytest.raises(TimeoutError), process.interrupts_held() as interrupt:
            for number in (*numbers, *numbers):
                signal.raise_signal(number)
            assert acted == []
            raise KeyError  # so that the block fails
        assert acted == numbers and [*map(signal.getsignal, numbers)] == [late] * 2
        with process.interrupts_held() as interrupt:
            signal.raise_signal(signal.SIGALRM)
        with pytest.raises(TimeoutError):
            interrupt()
        interrupt()
        assert acted == [*numbers, signal.SIGALRM]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
