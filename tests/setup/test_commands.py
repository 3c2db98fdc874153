"""The commands explain and bundle: what they print, and how they refuse."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.setup import bundle

LOGS = Path(__file__).parents[1] / "fixtures" / "failures"


def run(*args, **kwargs):
    return CliRunner().invoke(cli, [str(arg) for arg in args], **kwargs)


def test_explain_names_the_first_of_many_logs(tmp_path: Path):
    (tmp_path / "rank0.log").write_text("2025-01-01 10:00:00,000 EI0006: times out")
    (tmp_path / "rank1.log").write_text("2025-01-01 10:30:00,000 NPU out of memory")
    said = run("explain", tmp_path)
    assert said.exit_code == 0 and said.output.startswith("failed first: rank 1, NPU out of memory")
    assert "only waited: rank 0" in said.output and "cure:" in said.output


def test_explain_reads_standard_input_and_says_if_nothing_is_known():
    assert "EL0004" in run("explain", "-", input="EL0004: no memory\n").output
    quiet = run("explain", "-", input="all is well\n")
    assert quiet.exit_code == 0 and "nothing in these logs" in quiet.output


@pytest.mark.parametrize("kind", ["missing", "pipe", "device", "binary", "empty", "no logs"])
def test_explain_refuses_what_is_no_log_with_a_message_and_a_code(tmp_path: Path, kind: str):
    place = tmp_path / "x.log"
    if kind == "pipe":
        os.mkfifo(place)
    if kind == "binary":
        place.write_bytes(bytes(4096))
    if kind == "empty":
        place.touch()
    place = {"device": Path("/dev/zero"), "no logs": tmp_path}.get(kind, place)
    said = run("explain", LOGS / "out_of_memory.log", place)
    assert said.exit_code == 1 and said.stdout == ""
    assert said.stderr.startswith(f"DataError: {place} ") and "name " in said.stderr


def test_explain_without_a_log_is_wrong_usage():
    assert run("explain").exit_code == 2


def test_explain_starts_without_torch():
    """A broken torch is what it may have to explain."""
    code = (
        "import sys; from neoxlib.__main__ import cli\n"
        f"cli(['explain', {str(LOGS / 'static_tls.log')!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LD_PRELOAD" in done.stdout and done.stdout.endswith("False\n")


def test_bundle_says_where_it_is(tmp_path: Path, monkeypatch):
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a", "b")
    monkeypatch.setattr(bundle, "write_bundle", lambda run, to: path)
    said = run("bundle", tmp_path)
    assert said.exit_code == 0 and str(path) in said.output and "bytes" in said.output


def test_bundle_refuses_what_is_no_run(tmp_path: Path):
    for place in (tmp_path, tmp_path / "missing", LOGS / "out_of_memory.log"):
        said = run("bundle", place)
        assert said.exit_code == 1 and said.stderr.startswith("DataError: ")
        assert "is not the results.json of a run" in said.stderr
    assert list(tmp_path.iterdir()) == []
