"""C++ files are compiled once, by one of several processes; failing is no error."""

import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from neoxlib.kernels.cpu import build

ANSWER = 'extern "C" int answer() { return %d; }\n'
ASK = """
from neoxlib.kernels.cpu import build

print(build.compiled("allreduce") is not None, build.seconds("allreduce") > 0)
"""


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


def test_a_damaged_file_of_the_cache_is_made_anew(source, tmp_path):
    needs_a_compiler()
    path, _ = build._compiled("thing")
    path.write_bytes(b"")
    assert build._built("thing").library.answer() == 42


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
