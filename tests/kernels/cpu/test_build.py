"""C++ files are compiled once, by one of several processes; failing is no error."""

import fcntl
import logging
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from neoxlib.kernels.cpu import build
from tests.support.sessions import gone

ANSWER = 'extern "C" int answer() { return %d; }\n'
ASK = """
from neoxlib.kernels.cpu import build

print(build.compiled("allreduce") is not None, build.seconds("allreduce") > 0)
"""


ANSWER_OF = """
import sys
from pathlib import Path
from neoxlib.kernels.cpu import build

build.SOURCES = Path(sys.argv[1])
built = build._built("thing")
print(built.library and built.library.answer(), built.seconds > 0)
"""
HANGS = "#!/bin/sh\necho $$ > {pid}\nsleep 600 & echo $! >> {pid}\nwait\n"


def answer_of(source: Path) -> str:
    """What a new process gets of the library, and whether it compiled it."""
    command = [sys.executable, "-c", ANSWER_OF, str(source.parent)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A C++ file of the test's own, an empty cache, and a process that has compiled nothing yet."""
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setenv("NEOXLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_built", build._built.__wrapped__)  # every call looks anew
    path = tmp_path / "thing.cpp"
    path.write_text(ANSWER % 42)
    return path


def made(tmp_path: Path) -> list[Path]:
    """All files of the cache but the locks."""
    return sorted(
        path
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def needs_a_compiler() -> None:
    try:
        build._compiler()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_a_source_is_compiled_once_and_again_when_it_changes(source, tmp_path, monkeypatch):
    needs_a_compiler()
    first = build._built("thing")
    assert first.library.answer() == 42 and first.why_not == "" and first.seconds > 0
    assert build._built("thing").seconds == 0.0
    source.write_text(ANSWER % 43)
    assert build._built("thing").library.answer() == 43
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
    assert build._built("thing").seconds > 0
    assert [path.name for path in made(tmp_path)] == ["thing.so"] * 3


def test_a_header_that_changes_compiles_its_sources_anew(source):
    needs_a_compiler()
    source.write_text('#include "part.h"\nextern "C" int answer() { return PART; }\n')
    for value in (1, 2):
        source.with_name("part.h").write_text(f"constexpr int PART = {value};\n")
        assert build._built("thing").library.answer() == value


DAMAGES = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: data[:4096] + bytes(4096) + data[8192:],
    "flipped": lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
    "planted": lambda data: data.replace(b"answer", b"rewsna"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_the_cache_is_made_anew(source, tmp_path, caplog, damage):
    """In another process: loading such a file can end one."""
    needs_a_compiler()
    assert answer_of(source) == "42 True"
    (path,) = made(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    assert answer_of(source) == "42 True"
    assert path.read_bytes() == whole
    assert answer_of(source) == "42 False"


@pytest.mark.parametrize(
    "compiler", ["no-such-compiler", "false", "python3 -c 'raise SystemExit(3)'"]
)
def test_a_compiler_that_does_not_work_is_one_warning(
    source, tmp_path, monkeypatch, caplog, compiler
):
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING, "neoxlib"):
        built = build._built("thing")
    assert built.library is None and built.seconds == 0.0
    assert compiler.split()[0] in built.why_not
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "thing.cpp could not be compiled" in caplog.text
    assert made(tmp_path) == []


def test_where_nothing_is_installed_the_reason_says_what_to_install(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "install one (apt install g++), or name yours in CXX" in build._built("thing").why_not


def test_the_compilers_own_words_are_in_the_reason(source, tmp_path):
    needs_a_compiler()
    source.write_text("int answer( {\n")
    built = build._built("thing")
    assert built.library is None and "thing.cpp" in built.why_not and "error" in built.why_not
    assert made(tmp_path) == []


def test_a_private_folder_stands_in_for_a_cache_that_cannot_be_written(
    source, tmp_path, monkeypatch, caplog
):
    needs_a_compiler()
    monkeypatch.setenv("NEOXLIB_CACHE", str(source))  # a file, so no folder can be in it
    monkeypatch.setattr(build, "private_folder", lambda: tmp_path / "private")
    with caplog.at_level(logging.WARNING, "neoxlib"):
        assert build._built("thing").library.answer() == 42
    assert build._built("thing").seconds == 0.0, "it is found again"
    (told,) = caplog.messages
    assert str(source) in told and "NEOXLIB_CACHE names another folder" in told
    assert len(list((tmp_path / "private").rglob("thing.so"))) == 1


def told_once(caplog: pytest.LogCaptureFixture) -> str:
    """The one line that was logged."""
    (told,) = caplog.messages
    assert "\n" not in told
    return told


def in_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the private cache will be."""
    monkeypatch.setattr(build, "private_folder", lambda: tmp_path / "private")
    build._tell_once.cache_clear()
    return tmp_path / "private"


@pytest.mark.parametrize("fault", ["mode 777", "a link", "belongs to user 65534"])
def test_a_cache_that_others_can_write_to_is_left_alone(
    source, tmp_path, monkeypatch, caplog, fault
):
    needs_a_compiler()
    cache = tmp_path / "cache"
    build._built("thing")
    (planted,) = made(tmp_path)
    if fault == "mode 777":
        cache.chmod(0o777)
    elif fault == "a link":
        cache.rename(tmp_path / "real")
        cache.symlink_to(tmp_path / "real")
    elif os.geteuid() == 0:
        os.chown(cache, 65534, 65534)
    else:
        pytest.skip("only root can give files away")
    place = in_another_place(tmp_path, monkeypatch)
    before = planted.stat()
    with caplog.at_level(logging.WARNING, "neoxlib"):
        built = build._built("thing")
    assert built.library.answer() == 42 and built.seconds > 0
    assert len(list(place.rglob("thing.so"))) == 1
    assert planted.stat() == before
    told = told_once(caplog)
    assert str(cache) in told and fault in told and "NEOXLIB_CACHE names another folder" in told


def test_an_unfit_file_in_a_fit_cache_is_one_line_and_compiled_anew(source, tmp_path, caplog):
    needs_a_compiler()
    build._built("thing")
    (path,) = made(tmp_path)
    path.chmod(0o777)
    build._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING, "neoxlib"):
        assert build._built("thing").seconds > 0
    assert str(path) in told_once(caplog) and "mode 777" in told_once(caplog)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_what_is_made_in_the_cache_nobody_else_can_write_to(source, tmp_path):
    needs_a_compiler()
    before = os.umask(0)
    try:
        assert build._built("thing").library.answer() == 42
    finally:
        os.umask(before)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert not path.stat().st_mode & 0o022, path


def test_a_compiler_that_hangs_is_ended_with_all_it_started(source, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(build, "LIMIT_SECONDS", 0.3)
    compiler = tmp_path / "compiler"
    compiler.write_text(HANGS.format(pid=tmp_path / "pid"))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.WARNING, "neoxlib"):
        built = build._built("thing")
    assert built.library is None and "was not done after 0.3 s" in built.why_not
    assert "another compiler in CXX" in told_once(caplog)
    pids = list(map(int, (tmp_path / "pid").read_text().split()))
    assert len(pids) == 2 and gone(pids)
    assert made(tmp_path) == []


def test_a_lock_that_is_never_given_up_is_not_waited_for(source, tmp_path, monkeypatch, caplog):
    needs_a_compiler()
    build._built("thing")
    (path,) = made(tmp_path)
    path.unlink()
    monkeypatch.setattr(build, "LIMIT_SECONDS", 0.2)
    with path.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with caplog.at_level(logging.WARNING, "neoxlib"):
            built = build._built("thing")
    assert built.library is None and f"fuser {path.with_suffix('.lock')}" in built.why_not
    assert "for 0.2 s" in told_once(caplog)


@pytest.mark.parametrize("command", ['g++ "-O2', "g++ 'a", "g++ \\"])
def test_an_open_quote_in_the_compilers_name_is_one_line(source, monkeypatch, caplog, command):
    monkeypatch.setenv("CXX", command)
    with caplog.at_level(logging.WARNING, "neoxlib"):
        built = build._built("thing")
    assert built.library is None and command in built.why_not
    assert "close its quotes, or unset it" in told_once(caplog)


def test_of_several_processes_one_compiles_and_all_get_the_library(tmp_path, monkeypatch):
    needs_a_compiler()
    monkeypatch.setenv("NEOXLIB_CACHE", str(tmp_path / "cache"))
    compiler = tmp_path / "compiler"
    calls = tmp_path / "calls"
    compiler.write_text(
        f'#!/bin/sh\necho called >> {calls}\nexec {shlex.join(build._compiler())} "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    ranks = [
        subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert {rank.communicate()[0].strip() for rank in ranks} <= {
        "True True",
        "True False",
    }  # False: it came too late
    assert calls.read_text() == "called\n"
    assert [path.name for path in made(tmp_path)] == ["allreduce.so"]


def test_a_library_is_asked_for_by_name_once_per_process():
    assert build.compiled("allreduce") is build.compiled("allreduce")
    assert (build.compiled("allreduce") is None) == bool(build.compile_error("allreduce"))
