"""Checks of NPUs: device nodes, driver, firmware, health, memory, variables.

Pure functions of a described host.
"""

import re
from collections.abc import Sequence

from neoxlib.machine.chips import CHIPS, WITHOUT_OPERATORS, Chip
from neoxlib.machine.devices import chip_at
from neoxlib.machine.host import Host
from neoxlib.machine.installed import in_range
from neoxlib.machine.launch_env import conflicts
from neoxlib.machine.npu_smi import Card, Holder
from neoxlib.setup.install import NAMES, USER, install_plan
from neoxlib.setup.machine_checks import CheckRow, HostCheck, verdict

MOUNTS = (
    "docker run --device /dev/davinci0 --device /dev/davinci_manager "
    "--device /dev/devmm_svm --device /dev/hisi_hdc "
    "-v /usr/local/dcmi:/usr/local/dcmi -v /usr/local/Ascend/driver:/usr/local/Ascend/driver "
    "-v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi ..."
)
CURES = {  # by the code that npu-smi prints instead of its table
    "-8020": "docker ps  # another container holds the device: "
    "docker stop it, or take other devices",
    "-8005": f"usermod -aG HwHiAiUser $USER  # and log in anew; in a container: {MOUNTS}",
}
IDLE = 0.85  # least free share of an unused card, which has up to 9 % in use
DIRECT = ("HCCS", "SIO", "UB")  # links between cards, or between the two chips of one
CALM = (
    "no NPU: models run on the CPU, in float32 or packed; "
    "fine for the shipped model and small ones, slow for large"
)
UNKNOWN_CHIP = (
    "python -m neoxlib doctor --json  "
    "# runs in float16 without figures; send this to get the chip a row"
)


def chip_there(host: Host) -> Chip | None:
    """Return the chip of the first card in the table of chips; None if there is none."""
    return next((chip_at(card, host.cards) for card in host.cards), None)


def visible_id(host: Host, n: int) -> int:
    """Return a card's number in ASCEND_RT_VISIBLE_DEVICES: its logic id, else its table row."""
    card = host.cards[n]
    logic = {(one.npu, one.chip): one.logic for one in host.positions if one.logic is not None}
    return logic.get((card.npu, card.chip), n)


def step_command(host: Host, step: str) -> str:
    """Return the command that installs a part, for this machine's chip and processor.

    For an unknown chip return the command that shows such commands.
    """
    chip = chip_there(host)
    if chip is None or chip.family not in NAMES or host.arch not in ("aarch64", "x86_64"):
        plan = f"python -m neoxlib install-plan --chip 910B3 --arch {host.arch}"
        return f"{plan}  # with the chip that is there"
    steps = install_plan(chip, host.arch, over=True)
    command = next(one.command for one in steps if one.step == step)
    first = step == "driver" and host.driver is None
    return f"{{ {USER.command}; }} && {command}" if first else command


def device(host: Host) -> CheckRow:
    """Check that the cards, their device nodes and npu-smi are present and known."""
    if not host.has_npu:
        return _no_npu(host)
    if host.smi is None:
        found = f"{len(host.nodes)} device node(s), no npu-smi"
        path = "export PATH=$PATH:/usr/local/sbin:/usr/local/bin"
        repair = MOUNTS if host.container else path
        return CheckRow("device", "WARN", found, "the driver's npu-smi", repair)
    if host.smi.failure:
        codes = (code for code in CURES if code in host.smi.failure)
        cure = CURES.get(next(codes, ""), "npu-smi info; dmesg | grep -i davinci")
        return CheckRow("device", "FAIL", host.smi.failure, "a table of devices", cure)
    names = ", ".join(sorted({card.name for card in host.cards}))
    found = f"{len(host.cards)} × {names}"
    if not host.nodes:
        found = f"npu-smi shows {found}, but there is no /dev/davinci*"
        return CheckRow("device", "FAIL", found, "device nodes", _bring_devices(host))
    known = all(chip_at(card, host.cards) for card in host.cards)
    return verdict("device", known, found, f"one of {', '.join(CHIPS)}", UNKNOWN_CHIP)


def _no_npu(host: Host) -> CheckRow:
    if not host.sourced:
        return CheckRow("device", "OK", CALM, "nothing: an NPU is not required")
    found = "CANN is sourced, but there is no /dev/davinci* and no npu-smi"
    needed = "devices; or CPU work, which needs no CANN"
    return CheckRow("device", "WARN", found, needed, _bring_devices(host))


def _bring_devices(host: Host) -> str:
    """Return the command that makes device nodes appear, in a container or on the host."""
    return MOUNTS if host.container else step_command(host, "driver")


def operators(host: Host) -> CheckRow | None:
    """Warn about a chip without documented fused operators, and about one that is not known."""
    chip = chip_there(host)
    if chip is None and host.has_npu:
        return _no_name(host)
    if chip is None or chip.family not in WITHOUT_OPERATORS:
        return None
    found = f"{chip.name} runs on PyTorch's own operators, slower, not checked there; {chip.note}"
    needed = "a chip with operators of its own: A2, A3, 310P, 910A"
    repair = "python -m neoxlib selftest-npu  # says which operators are right"
    return CheckRow("operators", "WARN", found, needed, repair)


def _no_name(host: Host) -> CheckRow:
    """Warn loudly: without a chip's name its fused operators are not used."""
    names = ", ".join(sorted({card.name for card in host.cards})) or "npu-smi shows none"
    found = f"the chip is not known ({names}); ranks ask torch_npu for its SoC code, and if the "
    found += "table lacks that too they run on PyTorch's own operators, slower"
    needed = "npu-smi beside the device, and a chip of the table"
    repair = MOUNTS if host.container and not host.cards else UNKNOWN_CHIP
    return CheckRow("operators", "WARN", found, needed, repair)


def driver(host: Host) -> CheckRow | None:
    """Check that the driver's version is recorded."""
    if not host.has_npu:
        return None
    repair = _bring_devices(host)
    found = host.driver or "no /usr/local/Ascend/driver/version.info"
    return verdict("driver", host.driver is not None, found, "the driver's record", repair)


def firmware(host: Host) -> CheckRow | None:
    """Check the firmware against the driver's record; a container sees only the driver."""
    if not host.has_npu or (host.container and host.firmware is None):
        return None
    repair = step_command(host, "firmware")
    if host.firmware is None:
        found = "no /usr/local/Ascend/firmware/version.info"
        return CheckRow("firmware", "WARN", found, "the firmware's record", repair)
    if host.driver_takes is None:
        found = f"{host.firmware}; the driver does not say which it takes"
        return CheckRow("firmware", "OK", found, "one the driver takes")
    needed = f"driver {host.driver} takes {host.driver_takes}"
    fine = in_range(host.firmware, host.driver_takes)
    return verdict("firmware", fine, host.firmware, needed, f"{repair} && reboot", "FAIL")


def health(host: Host) -> CheckRow | None:
    """Check the health that npu-smi shows for each chip."""
    if not host.cards:
        return None
    ill = [card for card in host.cards if card.health not in ("OK", "")]
    told = "OK" if all(card.health for card in host.cards) else "not shown"
    found = ", ".join(f"NPU {card.npu} chip {card.chip}: {card.health}" for card in ill) or told
    repair = "; ".join(f"npu-smi info -t health -i {card.npu}" for card in ill)
    return verdict("device health", not ill, found, "OK", repair, "FAIL")


def occupied(host: Host) -> CheckRow | None:
    """Check that no other process holds device memory."""
    if not host.cards:
        return None
    sized = [card for card in host.cards if card.free_mib is not None]
    own = [card for card in sized if not _shares_memory(card)]
    full = [card for card in own if card.free_mib < IDLE * card.total_mib]
    found = "; ".join([*map(_used, full), *(_held(host, one) for one in host.smi.holders)])
    free = "not shown"
    if sized:
        free = f"at least {min(card.free_mib for card in sized)} MiB free on each"
    needed = "no other process there"
    return verdict("device memory", not found, found or free, needed, _make_room(host, full))


def _used(card: Card) -> str:
    return f"NPU {card.npu} chip {card.chip}: {card.free_mib} of {card.total_mib} MiB free"


def _held(host: Host, one: Holder) -> str:
    return f"NPU {one.npu}: pid {_pid(host, one)} ({one.name or 'no name'}) {one.mib} MiB"


def _shares_memory(card: Card) -> bool:
    """Return whether a card uses the host's memory, of which a good part is always in use."""
    known = chip_at(card, (card,))
    return known is not None and known.family == "310B"


def _pid(host: Host, holder: Holder) -> int:
    """Return the pid that `kill` accepts here."""
    return holder.seen(host.container is not None)


def _make_room(host: Host, full: Sequence[Card]) -> str:
    """Return the command that leaves out the full cards, or ends the processes that hold them."""
    held = {(one.npu, one.chip) for one in (*host.smi.holders, *full)}
    rows = [n for n, card in enumerate(host.cards) if (card.npu, card.chip) not in held]
    free = [str(one) for one in sorted(visible_id(host, n) for n in rows)]
    pids = " ".join(str(_pid(host, one)) for one in host.smi.holders)
    end = "npu-smi info  # no process is shown: another container has it"
    if pids:
        end = f"kill {pids}  # only if yours"
    if not free:
        return end
    return f"export ASCEND_RT_VISIBLE_DEVICES={','.join(free)}  # the free ones; or: {end}"


def links(host: Host) -> CheckRow | None:
    """Name the links that all-reduces use. Both kinds are fine: 310P cards have no direct link."""
    if not host.links:
        return None
    own = any(link.startswith(DIRECT) for link in host.links)
    what = "cards are linked directly" if own else "over the host; all-reduces take longer"
    return CheckRow("links", "OK", f"{', '.join(host.links)}: {what}", "either")


def visible(host: Host) -> CheckRow | None:
    """Check ASCEND_RT_VISIBLE_DEVICES; torch_npu silently sees no device if it is malformed."""
    given = host.env.get("ASCEND_RT_VISIBLE_DEVICES")
    if given is None:
        return None
    count = len(host.cards) or len(host.nodes) or 64
    ids = [int(one) for one in given.split(",")] if re.fullmatch(r"\d+(,\d+)*", given) else []
    fine = bool(ids) and ids == sorted(set(ids)) and ids[-1] < count
    better = ",".join(str(one) for one in sorted(set(ids)) if one < count) or "0"
    needed = f"strictly ascending ids, 0 to {count - 1}; torch_npu sees no device otherwise"
    repair = f"export ASCEND_RT_VISIBLE_DEVICES={better}"
    return verdict(
        "visible devices", fine, f"ASCEND_RT_VISIBLE_DEVICES={given}", needed, repair, "FAIL"
    )


def variables(host: Host) -> CheckRow | None:
    """Check for settings of old scripts that stop a run today."""
    if not host.has_npu:
        return None
    found_chips = [chip_at(card, host.cards) for card in host.cards]
    bad = conflicts(host.env, {chip.family for chip in found_chips if chip} or {"unknown"})
    found = "; ".join(f"{name}: {why}" for name, why in bad.items()) or "no conflict"
    return verdict("variables", not bad, found, "no conflict", f"unset {' '.join(bad)}", "FAIL")


NPU: tuple[HostCheck, ...] = (
    device,
    operators,
    driver,
    firmware,
    health,
    occupied,
    links,
    visible,
    variables,
)
