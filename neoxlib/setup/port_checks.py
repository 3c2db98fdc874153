"""The check of the host's ports by which HCCL's ranks find each other."""

from neoxlib.machine.hccl_rules import TAKE_RANGES, ports
from neoxlib.machine.host import Host
from neoxlib.setup.machine_checks import CheckRow, HostCheck
from neoxlib.setup.npu_checks import chip_there


def hccl_ports(host: Host) -> CheckRow | None:
    """Check HCCL's 32 ports of the host: free, and kept from other connections.

    The ports, and the line that reserves them: hccl 09300b70,
    docs/zh/user_guide/hccl_env/HCCL_IF_BASE_PORT.md:17-29.
    """
    if not host.has_npu or "HCCL_HOST_SOCKET_PORT_RANGE" in host.env:
        return None
    wanted = ports(host.env.get("HCCL_IF_BASE_PORT", ""))
    span = f"{wanted[0]}-{wanted[-1]}"
    needed = f"{span} of the host free, and reserved where the kernel may give them away"
    if host.hccl_ports_taken:
        taken = ", ".join(map(str, host.hccl_ports_taken))
        return CheckRow("HCCL ports", "WARN", f"taken: {taken}", needed, _other_ports(host))
    kept = _reserved(host.reserved_ports or "", wanted)
    if kept or not _given_away(host.port_range, wanted):
        return CheckRow("HCCL ports", "OK", f"{span} free", needed)
    reserve = ",".join(filter(None, (host.reserved_ports, span)))
    repair = f"sysctl -w net.ipv4.ip_local_reserved_ports={reserve}"
    found = f"{span} free now, but any program's connection may be given one"
    return CheckRow("HCCL ports", "WARN", found, needed, repair)


def _other_ports(host: Host) -> str:
    """Return the command that takes other ports; 310P and 910A know no "auto"."""
    chip = chip_there(host)
    if chip and chip.family in TAKE_RANGES:
        return "export HCCL_HOST_SOCKET_PORT_RANGE=auto HCCL_NPU_SOCKET_PORT_RANGE=auto"
    return "export HCCL_IF_BASE_PORT=50000  # or another start of 32 free ports"


def _reserved(said: str, wanted: range) -> bool:
    """Return whether a list of the kernel's, as 60000-60031,61000, holds all of `wanted`."""
    ends = [part.split("-") for part in said.split(",") if part]
    held = {port for pair in ends for port in range(int(pair[0]), int(pair[-1]) + 1)}
    return held >= set(wanted)


def _given_away(said: str | None, wanted: range) -> bool:
    """Return whether the kernel's range, as 32768 60999, reaches into `wanted`; True if unknown."""
    ends = [int(word) for word in (said or "").split()]
    return len(ends) != 2 or (ends[0] <= wanted[-1] and wanted[0] <= ends[1])


PORTS: tuple[HostCheck, ...] = (hccl_ports,)
