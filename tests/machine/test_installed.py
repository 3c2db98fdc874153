"""Versions of driver, firmware and CANN, from the files they leave behind."""

import pytest

from neoxlib import errors
from neoxlib.machine import host, installed


@pytest.mark.parametrize(
    ("version", "span", "inside"),
    [
        ("7.7.0.1.231", "[7.0.0,7.7.99]", True),
        ("7.8.0.2.212", "[7.0.0,7.7.99]", False),
        ("7.0.0", "[7.0.0,7.7.99]", True),
        ("7.7.99.5.1", "[7.0.0,7.7.99]", True),
        ("6.4.0", "[7.0.0,7.7.99]", False),
        ("24.1.0", "[23.0.0,23.0.0.],[24.0,24.9.]", True),
        ("7.0.0", "nonsense", False),
    ],
)
def test_firmware_is_compared_with_the_range_in_the_drivers_record(version, span, inside):
    assert installed.in_range(version, span) is inside


@pytest.mark.parametrize(
    ("file", "text", "version"),
    [
        (
            "aarch64-linux/ascend_toolkit_install.info",
            "package_name=X\nversion=9.1.0\ninnerversion=V100\n",
            "9.1.0",
        ),
        ("ascend_toolkit_install.info", "version=8.0.0\n", "8.0.0"),
        (
            "version.cfg",
            "# version: 1.0\ntoolkit_running_version=[7.5.0.1.129:8.0.RC3]\n",
            "8.0.RC3",
        ),
        ("opp/version.info", "Version=7.6.0\nversion_dir=8.5.0\n", "8.5.0"),
        ("other", "version=1\n", None),
    ],
)
def test_the_release_of_cann_is_read_from_every_record_it_keeps(tmp_path, file, text, version):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert installed.cann_version(str(tmp_path)) == version
    assert installed.cann_version(None) is installed.cann_version(str(tmp_path / "none")) is None


def test_an_installed_cann_is_known_before_it_is_sourced(tmp_path):
    scripts = [
        str(tmp_path / "cann" / "set_env.sh"),
        str(tmp_path / "ascend-toolkit" / "set_env.sh"),
    ]
    (tmp_path / "ascend-toolkit" / "latest").mkdir(parents=True)
    (tmp_path / "ascend-toolkit" / "latest" / "ascend_toolkit_install.info").write_text(
        "version=8.0.0\n"
    )
    versions_found = [installed.cann_version(home) for home in host.cann_homes(None, scripts)]
    assert versions_found == [None, None, "8.0.0", None]
    assert host.cann_homes("/sourced", scripts) == [
        "/sourced"
    ]  # another that is installed does not count


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("x86_64-linux/ascend_ops_install.info", "version=9.1.0\n"),
        ("opp_kernel/version.info", "version_dir=9.1.0\n"),
        ("version.cfg", "opp_kernel_running_version=[7.5:9.1.0]\n"),
    ],
)
def test_the_kernels_are_found_under_both_of_their_names(tmp_path, file, text):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert installed.kernels_version(str(tmp_path)) == "9.1.0"
    assert installed.kernels_version(None) is None


def test_driver_and_firmware_are_read_from_their_records(tmp_path):
    for part in ("driver", "firmware"):
        (tmp_path / part).mkdir()
    assert (
        installed.driver(str(tmp_path)) == (None, None)
        and installed.firmware(str(tmp_path)) is None
    )
    (tmp_path / "driver/version.info").write_text(
        "Version=25.0.rc1.1\nascendhal_version=7.35.23\n"
        "compatible_version_fw=[7.0.0,7.7.99]\npackage_version=25.0.rc1.1\n"
    )
    (tmp_path / "firmware/version.info").write_text("Version=7.7.0.1.231\nfirmware_version=1.0\n")
    assert installed.driver(str(tmp_path)) == ("25.0.rc1.1", "[7.0.0,7.7.99]")
    assert installed.firmware(str(tmp_path)) == "7.7.0.1.231"


@pytest.mark.parametrize(
    ("cann", "folder"),
    [
        ("7.0.0", "ascend-toolkit"),
        ("8.5.0", "ascend-toolkit"),
        ("9.0.0", "cann"),
        ("9.1.0", "cann"),
        ("9.1.0.B080", "cann"),
    ],
)
def test_cann_9_has_its_script_in_another_folder(cann, folder):
    assert installed.set_env(cann) == f"/usr/local/Ascend/{folder}/set_env.sh"


def test_the_script_to_source_is_the_one_that_is_here_and_else_todays(monkeypatch, tmp_path):
    todays = "source /usr/local/Ascend/cann/set_env.sh"
    assert errors.source_command(()) == todays
    assert errors.source_command(("/opt/a/set_env.sh", "/b")) == "source /opt/a/set_env.sh"
    monkeypatch.setattr(errors, "TOOLKIT", (f"{tmp_path}/cann-*/set_env.sh", *errors.TOOLKIT))
    (tmp_path / "cann-9.0.0").mkdir()
    (tmp_path / "cann-9.0.0" / "set_env.sh").touch()
    assert errors.source_command() == f"source {tmp_path}/cann-9.0.0/set_env.sh"
