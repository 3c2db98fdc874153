"""The guide's installation, step by step, with package names for a chip and a processor."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from neoxlib.errors import SettingsError
from neoxlib.machine.chips import Chip
from neoxlib.machine.versions import ERAS, PYTHON_NEEDS, TODAY, Era, order

if TYPE_CHECKING:
    import pandas as pd

ARCHITECTURES = ("aarch64", "x86_64")
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


def install_plan(chip: Chip, arch: str, era: str = "today") -> tuple[InstallStep, ...]:
    """List the steps in order: firmware, driver, toolkit, kernels, torch, torch_npu, ATB.

    `arch` is the output of `uname -m`; `era` is "today" or "guide". A version that depends on the
    card is a `*` in the package name: the vendor's page for the card and the CANN release names
    it. Raises SettingsError for an unknown chip family, architecture or era.
    """
    at = _era_for(chip, arch, era)
    return (*_hdk(chip, arch, at), *_cann(chip, arch, at), *_python(arch, at), _atb(arch, at))


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


def notes(era: str) -> str:
    """Return a remark for readers of the plan."""
    if era == "today":
        return (
            "A * in a name: take the release that the vendor's page for this card names "
            "for this CANN."
        )
    return (
        "The guide's own versions, to repeat its results with its scripts; "
        "neoxlib runs on today's only."
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


def _hdk(chip: Chip, arch: str, era: Era) -> tuple[InstallStep, ...]:
    """List firmware and driver, in the guide's order; both go on the host, not in a container."""
    name = NAMES[chip.family][0]
    cpu = arch if arch == "aarch64" or name == "Ascend-hdk-910b" else "x86-64"
    own = chip.family in OWN_VERSIONS
    soc = "-soc" if chip.family == "310B" else ""  # a part of the host itself, not a card
    versions = ["*" if own or not version else version for version in (era.firmware, era.driver)]
    firmware = f"{name}-npu-firmware{soc}_{versions[0]}.run"
    driver = f"{name}-npu-driver{soc}_{versions[1]}_linux-{cpu}.run"
    return (
        InstallStep("firmware", firmware, _run(firmware, "--full")),
        InstallStep("driver", driver, f"{_run(driver, '--full')} && reboot"),
    )


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
            "CANN toolkit", toolkit, f"{_run(toolkit, '--install')} && source {set_env(era)}"
        ),
        InstallStep("CANN kernels", kernels, _run(kernels, "--install")),
    )


def _python(arch: str, era: Era) -> tuple[InstallStep, ...]:
    """List torch and torch_npu: today by pip's index, in the guide's era as wheels."""
    return _from_index(arch, era) if era is TODAY else _from_wheels(arch, era)


def _from_index(arch: str, era: Era) -> tuple[InstallStep, ...]:
    torch = f"torch=={era.release.torch}"
    adapter = f"torch-npu=={era.release.torch_npu}"
    # On x86_64 PyPI's own build of torch is for CUDA.
    index = "" if arch == "aarch64" else " --index-url https://download.pytorch.org/whl/cpu"
    return (
        InstallStep("torch", torch, f"pip install {torch}{index}"),
        InstallStep("torch_npu", adapter, f"pip install {PYTHON_NEEDS} {adapter}"),
    )


def _from_wheels(arch: str, era: Era) -> tuple[InstallStep, ...]:
    tag = f"cp{era.python.replace('.', '')}"
    cpu = "" if arch == "aarch64" else "+cpu"
    torch = f"torch-{era.release.torch}{cpu}-{tag}-{tag}-linux_{arch}.whl"
    adapter = f"torch_npu-{era.release.torch_npu}-{tag}-{tag}-linux_{arch}.whl"
    needs = f"pip install {PYTHON_NEEDS}"
    return (
        InstallStep("torch", torch, f"pip install {torch}"),
        InstallStep("torch_npu", adapter, f"{needs} && pip install {adapter}"),
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


def set_env(era: Era) -> str:
    """Return the path of the set_env.sh of an era's toolkit."""
    folder = "cann" if order(era.cann) >= order("9.0.0") else "ascend-toolkit"
    return f"/usr/local/Ascend/{folder}/set_env.sh"


def _run(package: str, option: str) -> str:
    return f"chmod +x {package} && ./{package} {option}"
