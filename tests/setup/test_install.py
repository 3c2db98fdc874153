"""The installation plan, for every chip, processor and era."""

import re
import subprocess

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine import versions
from neoxlib.machine.chips import CHIPS
from neoxlib.setup import install
from neoxlib.setup.install import install_plan

NPUS = [chip for chip in CHIPS.values() if chip.name != "cpu"]


FIRST = ["user", "driver", "firmware"]
OVER = ["firmware", "driver"]
TODAYS = ["CANN toolkit", "CANN kernels", "torch", "torch_npu", "ATB"]
GUIDES = ["CANN toolkit", "CANN kernels", "torch", "torch_npu", "Python packages", "ATB", "LLM"]


def packages(chip, arch, era="today"):
    return {step.step: step.package for step in install_plan(CHIPS[chip], arch, era)}


def commands(era="today", over=False):
    steps = install_plan(CHIPS["910B3"], "aarch64", era, over)
    return {step.step: step.command for step in steps}


def test_the_guides_plan_has_its_packages_by_name():
    assert packages("910B3", "aarch64", "guide") == {
        "user": "HwHiAiUser",
        "firmware": "Ascend-hdk-910b-npu-firmware_7.1.0.3.220.run",
        "driver": "Ascend-hdk-910b-npu-driver_23.0.0_linux-aarch64.run",
        "CANN toolkit": "Ascend-cann-toolkit_7.0.0_linux-aarch64.run",
        "CANN kernels": "Ascend-cann-kernels-910b_7.0.0_linux.run",
        "torch": "torch-2.0.1-cp39-cp39-manylinux2014_aarch64.whl",
        "torch_npu": "pytorch_v2.0.1_py39.tar.gz",
        "Python packages": "transformers==4.30.2 decorator==5.1.1 sympy==1.11.1 scipy==1.11.3 "
        "attrs==23.1.0 psutil==5.9.6 sentencepiece==0.1.99",
        "ATB": "Ascend-cann-atb_7.0.0_cxx11abi${ABI}_linux-aarch64.run",
        "LLM": "Ascend-cann-llm_*_linux-aarch64_torch2.0.1-abi${ABI}.tar.gz",
    }


def test_the_guides_archives_are_unpacked_and_its_third_script_is_sourced():
    guide = commands("guide")
    unpack = "tar -zxvf pytorch_v2.0.1_py39.tar.gz && pip install torch_npu-*_aarch64.whl"
    assert guide["torch_npu"] == unpack
    assert guide["LLM"].startswith("tar -xzvf Ascend-cann-llm_")
    assert [step for step, line in guide.items() if "source " in line] == [
        "CANN toolkit",
        "ATB",
        "LLM",
    ]
    assert "source ./set_env.sh" in guide["LLM"]
    installed = re.sub(r"==\S+", "", guide["Python packages"]).split()[2:]
    assert {"transformers", *versions.PYTHON_NEEDS.split()} <= set(installed)
    assert len(installed) == len(set(installed))


def test_the_builds_of_the_guides_first_table_are_named_beside_its_plan():
    said = install.notes("guide")
    for build in ("23.0.0.B060", "7.0.0.B080", "FrameworkPTAdapter 5.0.0.B080", "3.9.18"):
        assert build in said
    assert "neoxlib runs on today's only" in said and "firmware first" in said


@pytest.mark.parametrize("era", versions.ERAS)
def test_a_first_installation_makes_the_user_and_has_the_driver_first_and_one_over_an_old_has_not(
    era,
):
    """hiascend.com, CANN 9.1.0, instg_0005: driver > firmware, over an old one the reverse."""
    first = commands(era)
    over = commands(era, over=True)
    assert list(first)[:3] == FIRST and list(over)[:2] == OVER
    assert "useradd -g HwHiAiUser" in first["user"] and "user" not in over
    assert [step for step in first if "reboot" in first[step]] == ["firmware"]
    assert [step for step in over if "reboot" in over[step]] == ["driver"]
    assert "npu-smi info" in install.notes(era) and "--over" in install.notes(era)


def test_the_user_is_made_only_where_there_is_none(tmp_path):
    """The command, with tools that say what they were called with."""
    for tool in ("groupadd", "useradd"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        (tmp_path / tool).chmod(0o755)
    for code, lines in ((0, 0), (1, 2)):
        (tmp_path / "id").write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / "id").chmod(0o755)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        line = ["bash", "-c", install.USER.command]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == lines


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


@pytest.mark.parametrize("arch", install.ARCHITECTURES)
def test_todays_torch_is_a_build_without_another_accelerator_on_every_processor(arch):
    """PyPI's own builds, that for aarch64 too, are for CUDA, and torch_npu refuses those."""
    steps = {step.step: step.command for step in install_plan(CHIPS["910B3"], arch)}
    assert steps["torch"].endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu")


@pytest.mark.parametrize("era", versions.ERAS)
@pytest.mark.parametrize("arch", install.ARCHITECTURES)
@pytest.mark.parametrize("chip", NPUS, ids=lambda chip: chip.name)
def test_every_chip_and_processor_has_a_plan_in_order_that_a_shell_can_read(chip, arch, era):
    if (chip.name, era) == ("950", "guide"):
        pytest.skip("younger than the guide: a plan is refused below")
    steps = install_plan(chip, arch, era)
    kinds = [step.step.partition(" (")[0] for step in steps]
    assert kinds == [*FIRST, *(GUIDES if era == "guide" else TODAYS)]
    script = install.text(steps)
    assert "{" not in script.replace("${ABI}", "").replace(install.USER.command, "")
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
