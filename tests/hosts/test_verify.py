"""`make verify-hosts`, as far as it needs no hosts."""

import os
import subprocess
import sys

import pytest

from tests.hosts import verify
from tests.hosts.bench import ROOT, Lines
from tests.hosts.build import NotHere


def run(*words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, "-m", "tests.hosts.verify", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_where_namespaces_are_not_allowed_it_says_so_with_77():
    without = () if os.getuid() else ("setpriv", "--bounding-set=-sys_admin")
    done = run("survey", before=without)
    assert done.returncode == 77, done.stdout + done.stderr
    assert done.stdout.startswith("SKIP  hosts cannot be built on this machine: ")


def test_a_program_that_is_missing_is_told_with_its_package(monkeypatch):
    monkeypatch.setattr(verify, "hosts", missing)
    assert verify.main(["survey"]) == 77


def missing(*names: str, **env: str) -> None:
    raise NotHere("programs are missing: apt-get install tcpdump")


def test_a_step_that_is_none_is_refused_with_those_there_are(capsys):
    assert verify.main(["surwey"]) == 2
    assert "surwey" in capsys.readouterr().out


def test_rows_of_steps_that_were_run_replace_theirs_and_others_stay(monkeypatch, tmp_path):
    page = tmp_path / "hosts.md"
    rows = "| step | law | holds | found |\n|---|---|---|---|\n| survey | a | yes | b |\n"
    rows += "| cut | c | yes | d |\n"
    page.write_text(f"before\n{verify.START}\n\n{rows}\n{verify.END}\nafter\n")
    other = tmp_path / "other.md"
    other.write_text(f"vor\n{verify.START}\n{verify.END}\nnach\n")
    monkeypatch.setattr(verify, "PAGES", (page, other))
    verify.write_page(Lines(rows=[("cut", "c", False, "e | f")]))
    text = page.read_text()
    assert "| survey | a | yes | b |\n| cut | c | **no** | e / f |" in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert other.read_text() == text.replace("before", "vor").replace("after", "nach")


@pytest.mark.parametrize("name", list(verify.STEPS))
def test_every_step_is_named_in_the_page(name: str):
    assert f"`{name}`" in verify.PAGES[0].read_text(encoding="utf-8")
