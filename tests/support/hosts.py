"""Described machines: a healthy CPU, healthy NPU machines, and the doctor's rows for them."""

from dataclasses import replace
from pathlib import Path

from neoxlib.machine import npu_smi
from neoxlib.machine.host import Host
from neoxlib.setup.doctor import judge
from neoxlib.setup.machine_checks import CheckRow

FIXTURES = Path(__file__).parents[1] / "fixtures" / "npu_smi"
PINS = {"torch": "2.13.0", "transformers": "5.23.0"}
CPU = Host(pins=PINS, packages={"torch": "2.13.0+cpu", "transformers": "5.23.0"})
SOURCED = {
    "ASCEND_HOME_PATH": "/usr/local/Ascend/ascend-toolkit/latest",
    "ATB_HOME_PATH": "/usr/local/Ascend/nnal/atb",
}
SET_ENV = ("/usr/local/Ascend/ascend-toolkit/set_env.sh",)


def npu(name: str, count: int, **changes: object) -> Host:
    """A healthy machine with the chips of one npu-smi text and `count` device nodes."""
    healthy = replace(
        CPU,
        smi=npu_smi.parse((FIXTURES / f"{name}.txt").read_text()),
        nodes=tuple(f"/dev/davinci{i}" for i in range(count)),
        torch_npu="2.13.0",
        env=SOURCED,
        set_env=SET_ENV,
        cann="9.1.0",
        cann_kernels="9.1.0",
        governor="performance",
        driver="25.5.0",
        driver_takes="[7.0.0,7.9.99]",
        firmware="7.8.0.5.201",
    )
    return replace(healthy, **changes)


A2 = npu("910b3_x8", 8)


def rows(machine: Host) -> dict[str, CheckRow]:
    """The doctor's rows by name."""
    return {row.name: row for row in judge(machine)}


def faults(machine: Host) -> dict[str, str]:
    """The status of every row that is not OK."""
    return {row.name: row.status for row in judge(machine) if row.status != "OK"}
