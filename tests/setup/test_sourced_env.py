"""The environment file and the Jupyter kernel: both get the variables of a sourced CANN."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine.host import Host
from neoxlib.setup import sourced_env
from tests.support.disk import full_disk


@pytest.fixture
def cann(tmp_path):
    """A host with two made scripts, the second of which needs the first."""
    toolkit = tmp_path / "tool kit" / "set_env.sh"
    atb = tmp_path / "nnal" / "set_env.sh"
    for path in (toolkit, atb):
        path.parent.mkdir()
    lines = (
        "echo hello",
        "export ASCEND_HOME_PATH=/a/cann PATH=/a/cann/bin:$PATH",
        "export STRANGE='a$HOME\"c'",
        "",
    )
    toolkit.write_text("\n".join(lines))
    atb.write_text("export ATB_HOME_PATH=$ASCEND_HOME_PATH/atb/cxx_abi_1${1:+/with arguments}\n")
    return Host(
        set_env=(str(toolkit),), atb_set_env=(str(atb),), nodes=("/dev/davinci0",), cann="9.1.0"
    )


def plain():
    return {"PATH": os.environ["PATH"], "HOME": "/nowhere"}


def test_the_kernel_is_started_with_what_sourcing_sets_and_nothing_of_the_moment(cann):
    found = sourced_env.sourced_variables(cann, plain())
    assert (
        found["ASCEND_HOME_PATH"] == "/a/cann" and found["ATB_HOME_PATH"] == "/a/cann/atb/cxx_abi_1"
    )
    assert found["PATH"] == "/a/cann/bin:" + os.environ["PATH"]
    assert found["STRANGE"] == 'a$HOME"c' and not {"HOME", "_", "SHLVL", "PWD"} & found.keys()


def test_where_cann_is_sourced_already_its_variables_are_taken_as_they_are(cann):
    env = plain() | {
        "ASCEND_HOME_PATH": "/b/cann",
        "LD_LIBRARY_PATH": "/b/lib",
        "ASCEND_RT_VISIBLE_DEVICES": "1",
    }
    found = sourced_env.sourced_variables(cann, env)
    assert found == {
        "ASCEND_HOME_PATH": "/b/cann",
        "LD_LIBRARY_PATH": "/b/lib",
        "PATH": env["PATH"],
    }


def test_both_files_are_written_and_say_how_they_are_used(cann, tmp_path):
    table = sourced_env.write_environment(tmp_path / "out", cann, plain()).set_index("file")
    line = f"source {tmp_path}/out/environment.sh >&2 && printenv ATB_HOME_PATH"
    sourced = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert sourced.stdout.strip() == "/a/cann/atb/cxx_abi_1"
    spec = json.loads((tmp_path / "out/kernel/kernel.json").read_text())
    assert spec["argv"][0] == sys.executable and spec["display_name"] == "neoxlib (CANN 9.1.0)"
    assert "jupyter kernelspec install --user" in table.loc["kernel/kernel.json", "to use it"]
    assert table.loc["environment.sh", "to use it"] == f"source {tmp_path}/out/environment.sh"


def test_a_full_disk_leaves_the_files_of_before(cann, tmp_path, monkeypatch):
    sourced_env.write_environment(tmp_path, Host(), plain())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    full_disk(monkeypatch)
    with pytest.raises(SettingsError, match=r"cannot be written.*No space left"):
        sourced_env.write_environment(tmp_path, cann, plain())
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_jupyter_starts_the_kernel_with_the_values_as_they_were(cann, tmp_path):
    """It replaces ${NAME} and $NAME in a kernel's env, so our values have two dollar signs."""
    from string import Template

    spec = sourced_env.kernel_spec(cann, plain())
    assert Template(spec["env"]["STRANGE"]).safe_substitute(os.environ) == 'a$HOME"c'


def test_no_secret_goes_into_a_file_that_lies_in_a_runs_folder(cann, tmp_path):
    own = {
        "ASCEND_HOME_PATH": "/a/cann",
        "ASCEND_TOKEN": "asc3ndT0kenValue",
        "ATB_X": "ghp_" + "a1" * 9,
    }
    sourced_env.write_environment(tmp_path, cann, plain() | own)
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "/a/cann" in text and not [own[n] for n in ("ASCEND_TOKEN", "ATB_X") if own[n] in text]


def test_jupyter_reads_the_kernel(cann, tmp_path):
    from jupyter_client.kernelspec import KernelSpec

    sourced_env.write_environment(tmp_path, cann, plain())
    spec = KernelSpec.from_resource_dir(str(tmp_path / "kernel"))
    assert spec.env["ASCEND_HOME_PATH"] == "/a/cann" and spec.language == "python"


def test_aarch64_gets_libgomp_and_a_cpu_host_keeps_torch_npu_out(cann):
    arm = replace(cann, arch="aarch64", libgomp=("/t/libgomp.so.1",))
    assert "export LD_PRELOAD=/t/libgomp.so.1" in sourced_env.environment_text(arm)
    assert sourced_env.sourced_variables(arm, plain())["LD_PRELOAD"] == "/t/libgomp.so.1"
    cpu = Host(torch_npu="2.13.0")
    assert sourced_env.sourced_variables(cpu, plain()) == {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def test_a_machine_without_cann_is_told_that_nothing_is_needed():
    assert "nothing has to be set" in sourced_env.environment_text(Host())
    assert sourced_env.kernel_spec(Host(), plain())["display_name"] == "neoxlib (CPU)"


def test_a_script_that_fails_is_named_with_what_it_said(cann, tmp_path):
    broken = tmp_path / "broken.sh"
    broken.write_text("echo no toolkit here >&2; return 3\n")
    with pytest.raises(SettingsError, match=r"broken.sh.*no toolkit here"):
        sourced_env.sourced_variables(replace(cann, set_env=(str(broken),)), plain())


def test_no_line_to_type_holds_the_home_folder(tmp_path, monkeypatch):
    """It ends up in a report, and the folder is named after a person."""
    monkeypatch.setenv("HOME", str(tmp_path))
    table = sourced_env.write_environment(tmp_path / "my outputs", Host(), plain())
    assert table["to use it"].tolist() == [
        "source ~/'my outputs/environment.sh'",
        "jupyter kernelspec install --user --name neoxlib ~/'my outputs/kernel'",
    ]
    typed = subprocess.run(
        ["bash", "-c", f"{table['to use it'][0]} && echo ok"], capture_output=True, text=True
    )
    assert typed.stdout == "ok\n"
