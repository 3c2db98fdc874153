"""The version tables, the files they are read from, and the installation plan."""

import subprocess

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine import host, installed, versions
from neoxlib.machine.chips import CHIPS
from neoxlib.setup import install
from neoxlib.setup.install import install_plan

NPUS = [chip for chip in CHIPS.values() if chip.name != "cpu"]


def packages(chip, arch, era="today"):
    return {step.step: step.package for step in install_plan(CHIPS[chip], arch, era)}


def test_the_guides_plan_has_its_packages_by_name():
    assert packages("910B3", "aarch64", "guide") == {
        "firmware": "Ascend-hdk-910b-npu-firmware_7.1.0.3.220.run",
        "driver": "Ascend-hdk-910b-npu-driver_23.0.0_linux-aarch64.run",
        "CANN toolkit": "Ascend-cann-toolkit_7.0.0_linux-aarch64.run",
        "CANN kernels": "Ascend-cann-kernels-910b_7.0.0_linux.run",
        "torch": "torch-2.0.1-cp39-cp39-linux_aarch64.whl",
        "torch_npu": "torch_npu-2.0.1.post1-cp39-cp39-linux_aarch64.whl",
        "ATB": "Ascend-cann-atb_7.0.0_cxx11abi${ABI}_linux-aarch64.run",
    }


def test_a_310p_on_x86_has_its_own():
    """The driver of 310P spells the processor x86-64, everything else x86_64."""
    guide = packages("310P3", "x86_64", "guide")
    assert guide["driver"] == "Ascend-hdk-310p-npu-driver_23.0.0_linux-x86-64.run"
    assert guide["CANN kernels"] == "Ascend-cann-kernels-310p_7.0.0_linux.run"
    assert guide["torch"] == "torch-2.0.1+cpu-cp39-cp39-linux_x86_64.whl"


def test_a_board_has_its_own_driver_and_the_newest_chip_its_own_kernels():
    """A 310B is the host's own chip: its driver is one for a SoC, and has a number of its own."""
    for era in versions.ERAS:
        board = packages("310B4", "aarch64", era)
        assert board["firmware"] == "Ascend-hdk-310b-npu-firmware-soc_*.run"
        assert board["driver"] == "Ascend-hdk-310b-npu-driver-soc_*_linux-aarch64.run"
    kernels = packages("310B4", "aarch64")["CANN kernels"]
    assert kernels == "Ascend-cann-310b-ops_9.1.0_linux-aarch64.run"
    kernels = packages("950", "x86_64")["CANN kernels"]
    assert kernels == "Ascend-cann-950-ops_9.1.0_linux-x86_64.run"


def test_todays_plan_is_for_the_torch_that_neoxlib_is_pinned_to():
    today = packages("300I Duo", "aarch64")
    assert today["torch"] == "torch==2.13.0" and today["torch_npu"] == "torch-npu==2.13.0"
    assert today["CANN kernels"] == "Ascend-cann-310p-ops_9.1.0_linux-aarch64.run"
    assert packages("A3", "x86_64")["CANN kernels"] == "Ascend-cann-A3-ops_9.1.0_linux-x86_64.run"
    x86 = {step.step: step.command for step in install_plan(CHIPS["910B3"], "x86_64")}
    assert (
        "whl/cpu" in x86["torch"]
    )  # the index's own build is for another accelerator, which torch_npu refuses


@pytest.mark.parametrize("era", versions.ERAS)
@pytest.mark.parametrize("arch", install.ARCHITECTURES)
@pytest.mark.parametrize("chip", NPUS, ids=lambda chip: chip.name)
def test_every_chip_and_processor_has_a_plan_in_the_guides_order_that_a_shell_can_read(
    chip, arch, era
):
    if (chip.name, era) == ("950", "guide"):
        pytest.skip("younger than the guide: a plan is refused below")
    steps = install_plan(chip, arch, era)
    kinds = [step.step.partition(" (")[0] for step in steps]
    assert kinds == [
        "firmware",
        "driver",
        "CANN toolkit",
        "CANN kernels",
        "torch",
        "torch_npu",
        "ATB",
    ]
    script = install.text(steps)
    assert "{" not in script.replace("${ABI}", "")
    assert subprocess.run(["bash", "-n", "-c", script], capture_output=True).returncode == 0
    assert install.frame(steps)["package"].tolist() == [step.package for step in steps]


@pytest.mark.parametrize(
    ("chip", "arch", "era", "word"),
    [
        ("cpu", "x86_64", "today", "nothing has to be installed"),
        ("910B3", "arm64", "today", "aarch64 and x86_64"),
        ("910B3", "x86_64", "2023", "today or guide"),
        ("950", "aarch64", "guide", "CANN 7.0.0 has nothing for 950, the first is 9.0.0"),
    ],
)
def test_a_plan_for_nothing_there_is_refused(chip, arch, era, word):
    with pytest.raises(SettingsError, match=word):
        install_plan(CHIPS[chip], arch, era)


def test_the_tables_hold_together():
    releases = [release.torch_npu for release in versions.RELEASES]
    assert len(releases) == len(set(releases))
    assert all(
        release.torch_npu.startswith(release.torch) and release.torch in versions.PYTHONS
        for release in versions.RELEASES
    )
    assert versions.GUIDE.release.cann == versions.GUIDE.cann == "7.0.0"
    assert versions.TODAY.cann == "9.1.0" and versions.TODAY.release.torch == "2.13.0"


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("2.4", "2.27"),
        ("8.0.RC3", "8.0.0"),
        ("8.0.RC2", "8.0.RC3"),
        ("7.0.RC1", "7.0.0"),
        ("8.5.0", "9.0.0"),
        ("2.13.0", "2.13.0.post1"),
        ("7.0.0", "7.1.0.3.220"),
    ],
)
def test_versions_are_ordered_as_their_makers_mean_them(low, high):
    assert versions.order(low) < versions.order(high)


def test_a_build_is_of_its_release_and_no_other():
    assert versions.same_cann("7.0.0.B080", "7.0.0") and versions.same_cann("8.0.RC3", "8.0.RC3")
    assert not versions.same_cann("8.0.RC3", "8.0.0") and not versions.same_cann("9.0.0", "9.1.0")


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
        "Version=25.0.rc1.1\nascendhal_version=7.35.23\ncompatible_version_fw=[7.0.0,7.7.99]\npackage_version=25.0.rc1.1\n"
    )
    (tmp_path / "firmware/version.info").write_text("Version=7.7.0.1.231\nfirmware_version=1.0\n")
    assert installed.driver(str(tmp_path)) == ("25.0.rc1.1", "[7.0.0,7.7.99]")
    assert installed.firmware(str(tmp_path)) == "7.7.0.1.231"
