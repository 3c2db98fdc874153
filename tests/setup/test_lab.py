"""JupyterLab's start: on this machine only, for root, without news, on the right folder."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from neoxlib.errors import ParameterError
from neoxlib.setup import lab
from neoxlib.workbook import arguments


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, of a package whose notebooks are files of its own."""
    shipped = tmp_path / "site-packages" / "shipped"
    (shipped / "presets").mkdir(parents=True)
    (shipped / "00_setup.ipynb").write_text("theirs")
    (shipped / "presets" / "a.yaml").write_text("seed: 1")
    monkeypatch.setattr(arguments, "SHIPPED", shipped)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return shipped


def test_an_installed_package_copies_its_notebooks_and_replaces_none(installed: Path):
    folder, copied = lab.workbook_folder(None)
    assert folder == Path.cwd() / "notebooks" and len(copied) == 2
    (folder / "00_setup.ipynb").write_text("mine")
    assert lab.workbook_folder(None) == (folder, [])
    (folder / "presets" / "a.yaml").unlink()
    assert lab.workbook_folder(folder)[1] == [folder / "presets" / "a.yaml"]
    assert (folder / "00_setup.ipynb").read_text() == "mine"


def test_a_checkout_opens_its_own_notebooks_and_copies_nothing(tmp_path: Path, monkeypatch):
    if not arguments.SHIPPED.is_symlink():
        pytest.skip("this package is installed, not a checkout")
    monkeypatch.chdir(tmp_path)
    assert lab.workbook_folder(None) == (Path(__file__).parents[2] / "notebooks", [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(installed: Path):
    (Path.cwd() / "notebooks").write_text("a file")
    with pytest.raises(ParameterError, match="is a file; name a folder"):
        lab.workbook_folder(None)


def test_the_runs_are_shown_too_where_they_lie_beside_the_notebooks(tmp_path: Path, monkeypatch):
    (tmp_path / "a book").mkdir()
    (tmp_path / "a book" / "00_setup.ipynb").write_text("{}")
    for runs, root, first in (
        (tmp_path / "outputs", tmp_path, "a%20book/00_setup.ipynb"),
        (tmp_path / "far" / "outputs", tmp_path / "a book", "00_setup.ipynb"),
    ):
        monkeypatch.setenv("NEOXLIB_OUTPUTS", str(runs))
        line = lab.command(tmp_path / "a book", 9000, False)
        assert f"--ServerApp.root_dir={root}" in line
        assert f"--LabApp.default_url=/lab/tree/{first}" in line


def test_root_is_allowed_only_where_it_is_root(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--allow-root" in lab.command(tmp_path, 9000, True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = lab.command(tmp_path, 9000, False)
    assert "--allow-root" not in line and "--no-browser" in line
    assert "--ServerApp.ip=127.0.0.1" in line


def test_the_ssh_line_names_the_port_and_the_host_that_was_reached():
    over_ssh = {"SSH_CONNECTION": "10.0.0.2 5022 10.0.0.7 22"}
    line = lab.ssh_line(8891, over_ssh)
    assert re.fullmatch(r"ssh -L 8891:127\.0\.0\.1:8891 \S+@10\.0\.0\.7", line)
    assert lab.ssh_line(8891, {}).endswith(f"@{socket.gethostname()}")
    assert not lab.has_screen(over_ssh | {"DISPLAY": ":0"}) and lab.has_screen({"DISPLAY": ":0"})


def test_a_port_in_use_is_passed_over_and_refused_if_it_was_named():
    with socket.socket() as taken:
        taken.bind((lab.HERE, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ParameterError, match=f"port {port} of 127.0.0.1 cannot be used"):
            lab.free_port(port)
    assert lab.free_port(None) >= lab.FIRST_PORT


def test_settings_of_the_user_are_kept_and_ours_come_first(monkeypatch):
    found = lab.environment({"JUPYTER_CONFIG_PATH": "/mine", "NEOXLIB_OUTPUTS": "/runs"})
    assert found["JUPYTER_CONFIG_PATH"] == f"{lab.CONFIG}{os.pathsep}/mine"
    assert found["NEOXLIB_OUTPUTS"] == "/runs"


def test_jupyterlab_starts_on_loopback_without_news(installed: Path, tmp_path: Path):
    """As root too: what the page is told is read from the server itself."""
    port = lab.free_port(None)
    command = [sys.executable, "-m", "neoxlib", "lab", "books", "--no-browser", "--port", str(port)]
    env = dict(os.environ) | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        address = wait_for(
            log, rf"http://127\.0\.0\.1:{port}/lab/tree/books/00_setup\.ipynb\?token=\w+"
        )
        page = urlopen(address).read().decode()
    finally:
        server.terminate()
        server.wait(30)
    config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.S)[1])
    assert "@jupyterlab/apputils-extension:announcements" in config["disabledExtensions"]
    assert config["news"]["disabled"]
    said = log.read_text()
    assert f"ssh -L {port}:127.0.0.1:{port} " in said and "0.0.0.0" not in said


def wait_for(log: Path, pattern: str) -> str:
    """The first match in a log that is being written."""
    for _ in range(1200):
        if found := re.search(pattern, log.read_text()):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())
