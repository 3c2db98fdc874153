"""The guide's installation, step by step, with package names for a chip and a processor."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from neoxlib.errors import SettingsError
from neoxlib.machine.chips import Chip
from neoxlib.machine.installed import set_env
from neoxlib.machine.versions import (
    ERAS,
    GUIDE_BUILDS,
    GUIDE_NEEDS,
    PYTHON_NEEDS,
    TODAY,
    Era,
    order,
)

if TYPE_CHECKING:
    import pandas as pd

ARCHITECTURES = ("aarch64", "x86_64")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # builds of torch without another accelerator
OPS_PACKAGE = "8.5.0"  # since this CANN the kernels are called ops
# family -> its part of the package names: driver and firmware, kernels
NAMES = {
    "A2": ("Ascend-hdk-910b", "910b"),
    "A3": ("Atlas-A3-hdk", "A3"),
    "310P": ("Ascend-hdk-310p", "310p"),
    "310B": ("Ascend-hdk-310b", "310b"),
    "950": ("Ascend-hdk-950", "950"),
    "910A": ("Ascend-hdk-910", "910"),
}
FIRST_CANN = {"950": "9.0.0"}  # family -> the first CANN with packages for it
OWN_VERSIONS = ("310B", "950")  # families whose driver and firmware are numbered separately


@dataclass(frozen=True)
class InstallStep:
    """One step: its name, the file or package to install, and the command to type."""

    step: str
    package: str
    command: str


# The driver belongs to this user, who must exist before it (the same page, "Preparing Users").
USER = InstallStep(
    "user",
    "HwHiAiUser",
    "id HwHiAiUser || { groupadd HwHiAiUser && "
    "useradd -g HwHiAiUser -d /home/HwHiAiUser -m HwHiAiUser -s /bin/bash; }",
)


def install_plan(
    chip: Chip, arch: str, era: str = "today", over: bool = False
) -> tuple[InstallStep, ...]:
    """List the steps in order: user, driver, firmware, toolkit, kernels, torch, torch_npu, ATB.

    `over`: an older driver is installed, as `npu-smi info` tells; firmware comes before driver
    then, and the user exists. `arch` is the output of `uname -m`; `era` is "today" or "guide",
    which also has the guide's Python packages and its LLM package. A version that depends on the
    card is a `*` in the package name: the vendor's page for the card and the CANN release names
    it. Raises SettingsError for an unknown chip family, architecture or era.
    """
    at = _era_for(chip, arch, era)
    vendor = (_atb(arch, at), *_llm(arch, at))
    return (*_hdk(chip, arch, at, over), *_cann(chip, arch, at), *_python(arch, at), *vendor)


def _era_for(chip: Chip, arch: str, era: str) -> Era:
    """Return the era by name; raises SettingsError for the reasons that `install_plan` lists."""
    if arch not in ARCHITECTURES:
        raise SettingsError(f"arch is {arch!r}; packages exist for {' and '.join(ARCHITECTURES)}")
    if era not in ERAS:
        raise SettingsError(f"era is {era!r}; choose {' or '.join(ERAS)}")
    if chip.family not in NAMES:
        raise SettingsError(
            f"nothing has to be installed for {chip.name}: packages exist for {', '.join(NAMES)}"
        )
    at = ERAS[era]
    if order(at.cann) < order(FIRST_CANN.get(chip.family, "0")):
        first = FIRST_CANN[chip.family]
        found = f"CANN {at.cann} has nothing for {chip.name}, the first is {first}"
        raise SettingsError(f"{found}; leave out --era {era}")
    return at


ORDER_NOTE = (
    "Driver before firmware, on a machine that never had them; with --over firmware before driver, "
    "where `npu-smi info` shows an older driver (hiascend.com, CANN 9.1.0, instg_0005)."
)


def notes(era: str) -> str:
    """Return a remark for readers of the plan."""
    if era == "today":
        return (
            "A * in a name: take the release that the vendor's page for this card names "
            f"for this CANN. {ORDER_NOTE}"
        )
    builds = ", ".join(f"{name} {build}" for name, build in GUIDE_BUILDS.items())
    return (
        f"The guide's own versions ({builds}), to repeat its results with its scripts; "
        f"neoxlib runs on today's only. {ORDER_NOTE} The guide says firmware first, always."
    )


def frame(steps: tuple[InstallStep, ...]) -> "pd.DataFrame":
    """Return the steps as a table."""
    import pandas as pd

    return pd.DataFrame([asdict(step) for step in steps])


def text(steps: tuple[InstallStep, ...]) -> str:
    """Return the steps as a shell script, to read and to run line by line."""
    return "\n".join(
        f"# {n}. {one.step}: {one.package}\n{one.command}" for n, one in enumerate(steps, 1)
    )


def _hdk(chip: Chip, arch: str, era: Era, over: bool) -> tuple[InstallStep, ...]:
    """List user, driver and firmware; all go on the host, not in a container.

    The order is that of hiascend.com, CANNCommunityEdition 9.1.0, softwareinst/instg/instg_0005;
    the guide has firmware first, which holds over an older installation only.
    """
    name = NAMES[chip.family][0]
    cpu = arch if arch == "aarch64" or name == "Ascend-hdk-910b" else "x86-64"
    own = chip.family in OWN_VERSIONS
    soc = "-soc" if chip.family == "310B" else ""  # a part of the host itself, not a card
    versions = ["*" if own or not version else version for version in (era.firmware, era.driver)]
    firmware = f"{name}-npu-firmware{soc}_{versions[0]}.run"
    driver = f"{name}-npu-driver{soc}_{versions[1]}_linux-{cpu}.run"
    parts = [("driver", driver), ("firmware", firmware)]
    (first, one), (second, other) = reversed(parts) if over else parts
    steps = (
        InstallStep(first, one, _run(one, "--full")),
        InstallStep(second, other, f"{_run(other, '--full')} && reboot"),
    )
    return steps if over else (USER, *steps)


def _cann(chip: Chip, arch: str, era: Era) -> tuple[InstallStep, ...]:
    """List the toolkit and the kernels."""
    toolkit = f"Ascend-cann-toolkit_{era.cann}_linux-{arch}.run"
    kind = NAMES[chip.family][1]
    if order(era.cann) >= order(OPS_PACKAGE):
        kernels = f"Ascend-cann-{kind}-ops_{era.cann}_linux-{arch}.run"
    else:
        kernels = f"Ascend-cann-kernels-{kind}_{era.cann}_linux.run"
    return (
        InstallStep(
            "CANN toolkit", toolkit, f"{_run(toolkit, '--install')} && source {set_env(era.cann)}"
        ),
        InstallStep("CANN kernels", kernels, _run(kernels, "--install")),
    )


def _python(arch: str, era: Era) -> tuple[InstallStep, ...]:
    """List torch and torch_npu: today by pip's index, in the guide's era as wheels."""
    return _from_index(era) if era is TODAY else _from_wheels(arch, era)


def _from_index(era: Era) -> tuple[InstallStep, ...]:
    torch = f"torch=={era.release.torch}"
    adapter = f"torch-npu=={era.release.torch_npu}"
    # PyPI's own builds of torch are for CUDA, that for aarch64 too (2.13.0+cu130).
    return (
        InstallStep("torch", torch, f"pip install {torch} --index-url {CPU_INDEX}"),
        InstallStep("torch_npu", adapter, f"pip install {PYTHON_NEEDS} {adapter}"),
    )


def _from_wheels(arch: str, era: Era) -> tuple[InstallStep, ...]:
    """List the guide's wheels for its Python, and its Python packages with those that CANN needs.

    torch_npu's wheel comes in an archive.
    """
    python = era.python.replace(".", "")
    tag = f"cp{python}-cp{python}"
    system = "manylinux2014_aarch64" if arch == "aarch64" else "linux_x86_64"
    cpu = "" if arch == "aarch64" else "+cpu"
    torch = f"torch-{era.release.torch}{cpu}-{tag}-{system}.whl"
    archive = f"pytorch_v{era.release.torch}_py{python}.tar.gz"
    needs = " ".join(f"{name}=={version}" for name, version in GUIDE_NEEDS.items())
    others = " ".join(name for name in PYTHON_NEEDS.split() if name not in GUIDE_NEEDS)
    return (
        InstallStep("torch", torch, f"pip install {torch}"),
        InstallStep(
            "torch_npu", archive, f"tar -zxvf {archive} && pip install torch_npu-*_{arch}.whl"
        ),
        InstallStep("Python packages", needs, f"pip install {needs} {others}"),
    )


def _atb(arch: str, era: Era) -> InstallStep:
    """Return the ATB step: today a part of NNAL, in the guide's era one package per C++ ABI."""
    if era is TODAY:
        package = f"Ascend-cann-nnal_{era.cann}_linux-{arch}.run"
        source = "source /usr/local/Ascend/nnal/atb/set_env.sh"
        return InstallStep("ATB (NNAL)", package, f"{_run(package, '--install')} && {source}")
    package = f"Ascend-cann-atb_{era.cann}_cxx11abi${{ABI}}_linux-{arch}.run"
    ask = 'ABI=$(python -c "import torch; print(int(torch.compiled_with_cxx11_abi()))")'
    return InstallStep(
        "ATB",
        package,
        f"{ask} && {_run(package, '--install')} && source /usr/local/Ascend/atb/set_env.sh",
    )


def _llm(arch: str, era: Era) -> tuple[InstallStep, ...]:
    """List the guide's package of model scripts, which neoxlib does not use; none today."""
    if era is TODAY:
        return ()
    package = f"Ascend-cann-llm_*_linux-{arch}_torch{era.release.torch}-abi${{ABI}}.tar.gz"
    return (InstallStep("LLM", package, f"tar -xzvf {package} && source ./set_env.sh"),)


def _run(package: str, option: str) -> str:
    return f"chmod +x {package} && ./{package} {option}"
