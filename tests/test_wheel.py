"""The wheel: installed in a new environment, it runs in an empty folder and needs no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from neoxlib.workbook import results as workbook_results

ROOT = Path(__file__).parents[1]
MADE = ("*.pyc", "__pycache__", ".ipynb_checkpoints")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, built without network and without isolation."""
    pytest.importorskip("setuptools")
    clone = tmp_path_factory.mktemp("clone")
    for name in ("neoxlib", "notebooks"):
        left_out = shutil.ignore_patterns(*MADE)
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    quiet = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    build = [sys.executable, "-m", "pip", "wheel", *quiet, "-w", "wheels", "."]
    subprocess.run(build, cwd=clone, check=True, capture_output=True)
    (found,) = (clone / "wheels").glob("neoxlib-*.whl")
    return found


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with neoxlib from the wheel; what it needs is read from this one."""
    env = tmp_path_factory.mktemp("env") / "venv"
    venv.create(env, symlinks=True)
    python = env / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    quiet = ["--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, *quiet, wheel], check=True, capture_output=True)
    (site,) = env.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def call(bin_folder: Path, folder: Path, *args: str) -> subprocess.CompletedProcess:
    """Call the command `neoxlib` of the environment in `folder`."""
    unset = ("PYTHONPATH", "NEOXLIB_OUTPUTS")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env["JUPYTER_PATH"] = f"{sys.prefix}/share/jupyter"  # data of what neoxlib needs
    command = [bin_folder / "neoxlib", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_the_wheel_holds_all_data_of_the_package_and_the_notebooks(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "neoxlib", "notebooks"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a git checkout: what belongs to the package is not known")
    files = [Path(name) for name in tracked.stdout.splitlines()]
    left_out = ("neoxlib/demo/making/", "notebooks/pictures/", "neoxlib/workbook/shipped")
    wanted = [path for path in files if not str(path).startswith(left_out)]
    places = [str(path).replace("notebooks/", "neoxlib/workbook/shipped/") for path in wanted]
    assert len(places) > 200 and not sorted(set(places) - held)
    assert not [name for name in held if "making" in name or name.endswith((".pyc", ".png"))]


def test_the_wheels_command_runs_a_notebook_in_an_empty_folder(bin_folder: Path, tmp_path: Path):
    done = call(bin_folder, tmp_path, "report", "02", "-p", "plan_only", "true")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "outputs" / "02_inference").iterdir()
    assert workbook_results.read_results(folder)["status"] == "ok"
    assert (folder / "report.html").is_file() and (tmp_path / "outputs" / "index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_the_wheels_notebooks_are_copied_and_then_run_from_there(bin_folder: Path, tmp_path: Path):
    done = call(bin_folder, tmp_path, "copy-notebooks", "notebooks")
    assert done.returncode == 0 and (tmp_path / "notebooks" / "presets").is_dir(), done.stderr
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert (tmp_path / "notebooks" / path.name).read_bytes() == path.read_bytes()
    listed = call(bin_folder, tmp_path, "parameters", "07_mine")
    assert "in notebooks there are: 00_setup" in listed.stderr


def test_the_wheels_package_is_its_own_and_every_command_has_help(bin_folder: Path, tmp_path: Path):
    code = "import neoxlib; print(neoxlib.__file__)"
    where = subprocess.run(
        [bin_folder / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(bin_folder.parent))
    for name in ("report", "lab", "copy-notebooks", "parameters"):
        assert call(bin_folder, tmp_path, name, "--help").returncode == 0, name
