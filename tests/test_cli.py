"""The command line: its calls, its output and its exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import neoxlib
from neoxlib.__main__ import cli
from neoxlib.checkpoint import shard, verify
from neoxlib.errors import ParameterError, ShardError
from neoxlib.setup import doctor

ROOT = Path(__file__).parents[1]


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.mark.parametrize(
    ("error", "code"), [(ShardError("64 heads over 3"), 1), (ParameterError("seed: bad"), 2)]
)
def test_errors_that_a_user_can_repair_are_one_message_and_a_code(monkeypatch, error, code):
    monkeypatch.setattr(shard, "shard", lambda *_, **__: (_ for _ in ()).throw(error))
    said = run("shard", "src", "dst", "--world-size", 3)
    assert (
        said.exit_code == code
        and said.stderr == f"{type(error).__name__}: {error}\n"
        and said.stdout == ""
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "No", "d"), 1, "PermissionError: [Errno 13] No: 'd'\n"),
        (
            OSError(28, "No space left on device"),
            1,
            "OSError: [Errno 28] No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "Broken off by Ctrl-C.\n"),
    ],
)
def test_disks_and_ctrl_c_are_one_message_and_a_code(monkeypatch, error, code, said):
    monkeypatch.setattr(shard, "shard", lambda *_, **__: (_ for _ in ()).throw(error))
    found = run("shard", "src", "dst", "--world-size", 2)
    assert found.exit_code == code and found.stderr == said and found.stdout == ""


def test_our_own_bugs_keep_their_traceback(monkeypatch):
    ours = AssertionError("ours")
    monkeypatch.setattr(shard, "shard", lambda *_, **__: (_ for _ in ()).throw(ours))
    assert isinstance(run("shard", "src", "dst", "--world-size", 2).exception, AssertionError)


@pytest.mark.parametrize(
    "args",
    [
        ["report"],
        ["report", "--all", "x"],
        ["shard", "a", "b"],
        ["dance"],
        ["report", "x", "--timeout", "0"],
    ],
)
def test_wrong_usage_is_code_2(args):
    assert run(*args).exit_code == 2


def test_commands_pass_on_what_they_were_given(monkeypatch):
    calls = []

    def note(name):
        return lambda *args, **kw: calls.append((name, [str(arg) for arg in args], kw)) or []

    for module, name in ((shard, "shard"), (verify, "verify"), (shard, "merge")):
        monkeypatch.setattr(module, name, note(name))
    for args in (
        ["shard", "s", "d", "--world-size", 4, "--dtype", "float16"],
        ["verify", "d"],
        ["merge", "d", "o"],
    ):
        assert run(*args).exit_code == 0
    assert [name for name, *_ in calls] == ["shard", "verify", "merge"]
    assert calls[0][1] == ["s", "d", "4"] and calls[0][2]["dtype"] == "float16"


def test_quality_is_measured_of_the_model_and_the_paragraphs_that_are_named(
    monkeypatch, tmp_path, checkpoint
):
    from neoxlib.inference import quality

    asked = []
    measured = quality.Quality("int8", "float32", 7, 4.25, None)
    monkeypatch.setattr(quality, "measure", lambda *args: asked.append(args) or [measured])
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "runs"))
    (tmp_path / "texts").write_text("one\n\ntwo\nthree\n\n", encoding="utf-8")
    said = run("quality", checkpoint, "--text", tmp_path / "texts")
    assert said.exit_code == 0 and "| int8 | float32 | 7 | 4.2500 | – |" in said.stdout
    assert f"{(tmp_path / 'runs' / 'quality.md').read_text()}\n" == said.stdout
    kept = json.loads((tmp_path / "runs" / "quality.json").read_text())
    assert kept["model"] == checkpoint.name and kept["text"] == "texts"
    assert run("quality").exit_code == 0
    assert asked == [
        (checkpoint, ["one", "two\nthree"]),
        (quality.MODEL_DIR, quality.shipped_texts()),
    ]
    assert run("quality", checkpoint, "--text", tmp_path / "none").exit_code == 2


@pytest.mark.parametrize(("worst", "code"), [("OK", 0), ("WARN", 0), ("FAIL", 1)])
def test_doctor_ends_with_1_only_where_something_fails(monkeypatch, worst, code):
    found = SimpleNamespace(worst=worst, to_json=lambda: '{"rows": []}')
    monkeypatch.setattr(doctor, "check", lambda model_dir: found)
    said = run("doctor", "--json")
    assert said.exit_code == code and said.stdout == '{"rows": []}\n'


MOST_MODULES = 170  # of the help: Python's own, click's, and a few of ours
HEAVY = {"torch", "transformers", "papermill", "pandas", "numpy", "yaml", "IPython", "nbformat"}


def test_help_waits_for_no_heavy_import():
    code = (
        "import sys; from neoxlib.__main__ import cli; cli(['--help'], standalone_mode=False)\n"
        f"print(sorted({HEAVY} & set(sys.modules)), len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, _, count = done.stdout.splitlines()[-1].rpartition(" ")
    assert heavy == "[]" and int(count) <= MOST_MODULES


def test_the_version_is_that_of_the_package_and_of_its_metadata():
    said = run("--version")
    assert said.exit_code == 0 and said.output == f"neoxlib {neoxlib.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == neoxlib.__version__


def test_the_installed_command_is_the_same_as_the_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["neoxlib"].partition(":")
    code = f"import sys; from {module} import {name}; sys.argv[1:] = ['--help']; {name}()"
    by_command = [sys.executable, "-c", code]
    by_module = [sys.executable, "-m", "neoxlib", "--help"]
    texts = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (by_command, by_module)
    ]
    assert texts[0] == texts[1].replace("python -m neoxlib", "neoxlib") and "report" in texts[0]


def test_make_help_lists_every_target():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    listed = {name for line in done.stdout.splitlines() for name in line[5:30].split()}
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert listed == set(" ".join(targets).split())
    assert all(len(line) < 100 and line[30:].strip() for line in done.stdout.splitlines())


def test_an_install_plan_is_printed_for_any_chip_and_refused_for_none():
    said = run("install-plan", "--chip", "310P3", "--arch", "aarch64", "--era", "guide")
    assert said.exit_code == 0 and "Ascend-cann-kernels-310p_7.0.0_linux.run" in said.stdout
    assert run("install-plan", "--chip", "910C").exit_code == 1


def test_the_environment_is_written_where_it_was_asked_for_and_said_how_to_use(tmp_path):
    said = run("environment", tmp_path / "env")
    assert said.exit_code == 0 and f"source {tmp_path}/env/environment.sh" in said.stdout
    assert sorted(path.name for path in (tmp_path / "env").rglob("*")) == [
        "environment.sh",
        "kernel",
        "kernel.json",
    ]


def test_a_folder_is_prepared_and_a_bad_one_is_one_message(checkpoint, tmp_path):
    said = run("prepare", checkpoint, tmp_path / "model")
    assert said.exit_code == 0 and "link" in said.stdout and "copy" in said.stdout
    assert "WeightsError" in run("prepare", tmp_path, tmp_path / "other").stderr


def test_a_plan_takes_figures_in_place_of_the_tables(checkpoint):
    said = run(
        "plan", checkpoint, "--chip", "910B1", "--bandwidth", 1234, "--tflops", 99, "--seq-len", 16
    )
    assert said.exit_code == 0 and "99 TFLOPS (as given); 1234 GB/s (as given)" in said.stdout


@pytest.mark.parametrize(("name", "code"), [("910b3_x8", 0), ("unsourced_cann", 1)])
def test_another_machine_is_judged_from_its_description(tmp_path, name, code):
    described = Path(__file__).parent / "fixtures" / "hosts" / f"{name}.json"
    (tmp_path / "doctor.json").write_text(
        f'{{"host": {described.read_text(encoding="utf-8")}}}', encoding="utf-8"
    )
    said = run("doctor", "--host", tmp_path / "doctor.json")
    assert said.exit_code == code and "8 × 910B3" in said.stdout


def test_a_place_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "config.ini").write_text("[performance]\nbatch_size=2\n")
    imported = ("import-config", tmp_path / "config.ini", "-o", tmp_path / "none" / "x.yaml")
    for args, code in ((("environment", tmp_path / "file"), 1), (imported, 2)):
        said = run(*args)
        assert said.exit_code == code and "cannot be written" in said.stderr
    assert run("doctor", "--host", tmp_path / "none.json").exit_code == 2


# Python runs this before anything else.
SAY_PATH = "import atexit, sys; atexit.register(lambda: sys.stderr.write('\\n'.join(sys.path)))"


@pytest.mark.parametrize("paths", ["{}", "{}:", ":{}"])
def test_a_command_never_imports_from_the_current_folder(tmp_path, paths):
    """Python itself imports some before it looks for neoxlib, such as contextlib: not those."""
    for name in ("difflib", "inspect", "platform", "random", "json", "torch", "numpy", "click"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not the one you want')\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text(SAY_PATH)
    env = os.environ | {"PYTHONPATH": paths.format(tmp_path / "own")}
    command = [sys.executable, "-m", "neoxlib", "-h"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "Ascend" in done.stdout, done.stderr
    path = done.stderr.splitlines()
    assert str(tmp_path / "own") in path and not {"", ".", str(tmp_path)} & set(path)


def test_closed_standard_streams_are_no_bug_and_nothing_takes_their_place(tmp_path):
    code = (
        "import os, sys\n"
        "from neoxlib.streams import need_standard_streams\n"
        "need_standard_streams()\n"
        "print('to nobody')\n"
        "places = [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]\n"
        "open(sys.argv[1], 'w').write(' '.join(places))\n"
    )
    script = f'exec "{sys.executable}" -c "$CODE" "$1" <&- >&- 2>&-'
    env = os.environ | {"CODE": code}
    subprocess.run(["sh", "-c", script, "sh", tmp_path / "said"], env=env, check=True, cwd=ROOT)
    assert (tmp_path / "said").read_text() == "/dev/null /dev/null /dev/null"


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["install-plan", "--chip", "310P3"]])
def test_standard_output_on_a_full_disk_is_named_and_an_error(args):
    command = [sys.executable, "-m", "neoxlib", *args]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    told = "standard output cannot be written to: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


OTHER_ENCODINGS = (
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


@pytest.mark.parametrize("env", OTHER_ENCODINGS)
def test_what_an_encoding_does_not_have_is_shown_by_its_number(env):
    code = (
        "from neoxlib.streams import json_text, need_standard_streams\n"
        "need_standard_streams()\n"
        "print('a \\u2192 b')\n"
        'print(json_text(\'{"a": "\\u00e9 \\u2192 \\U0001d11e"}\'))'
    )
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True)
    first, document = done.stdout.splitlines()
    assert first == b"a \\u2192 b" and json.loads(document) == {"a": "é → 𝄞"}
    asked = [sys.executable, "-m", "neoxlib", "--help"]
    chinese = {"NEOXLIB_LANG": "zh"}
    done = subprocess.run(asked, cwd=ROOT, env=os.environ | env | chinese, capture_output=True)
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_a_deleted_current_folder_is_one_message(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" -m neoxlib plan shipped'
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    said = "FileNotFoundError: the current folder has been deleted; cd to one that is there\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_the_shipped_model_has_a_name_of_its_own_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("plan", "shipped").stdout.startswith("1 rank on this machine's CPU")
    (tmp_path / "shipped").mkdir()
    assert "config.json is missing" in run("plan", "shipped").stderr
