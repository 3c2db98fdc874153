"""What a machine with NPUs must have besides: driver, devices, CANN, torch_npu, variables. Pure functions of a host."""

import re

from neoxlib.checks import Check, Row, base, verdict
from neoxlib.chips import CHIPS, chip_of_card
from neoxlib.host import Host

MOUNTS = (
    "docker run --device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc "
    "-v /usr/local/dcmi:/usr/local/dcmi -v /usr/local/Ascend/driver:/usr/local/Ascend/driver "
    "-v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi ..."
)
CURES = {  # by the code that npu-smi prints in place of its table
    "-8020": "another container holds the device: end that one (docker ps), or take other devices",
    "-8005": f"no permission: usermod -aG HwHiAiUser $USER and log in anew; in a container: {MOUNTS}",
}


def device(host: Host) -> Row:
    if not host.has_npu:
        found = "no NPU: models run on the CPU, in float32"
        return Row("device", "OK", found, "a CPU is enough, and slow for large models")
    if host.smi is None:
        return Row("device", "WARN", f"{len(host.nodes)} device node(s), no npu-smi", "the driver's npu-smi",
                   f"export PATH=$PATH:/usr/local/sbin:/usr/local/bin; in a container: {MOUNTS}")  # fmt: skip
    if host.smi.failure:
        codes = (code for code in CURES if code in host.smi.failure)
        cure = CURES.get(next(codes, ""), "npu-smi info; dmesg | grep -i davinci")
        return Row("device", "FAIL", host.smi.failure, "a table of devices", cure)
    names = ", ".join(sorted({card.name for card in host.smi.cards}))
    if not host.nodes:
        found = f"npu-smi shows {len(host.smi.cards)} × {names}, but there is no /dev/davinci*"
        return Row("device", "FAIL", found, "device nodes", MOUNTS)
    known = all(chip_of_card(card.name, card.total_mib) for card in host.smi.cards)
    repair = "runs in float16 without figures; add a row to neoxlib/chips.py"
    return verdict("device", known, f"{len(host.smi.cards)} × {names}", f"one of {', '.join(CHIPS)}", repair)


def health(host: Host) -> Row | None:
    if not host.cards:
        return None
    ill = [card for card in host.cards if card.health != "OK"]
    found = ", ".join(f"NPU {card.npu} chip {card.chip}: {card.health}" for card in ill) or "OK"
    repair = "; ".join(f"npu-smi info -t health -i {card.npu}" for card in ill)
    return verdict("device health", not ill, found, "OK", repair, "FAIL")


def occupied(host: Host) -> Row | None:
    if not host.cards:
        return None
    sized = [card for card in host.cards if card.free_mib is not None]
    full = [card for card in sized if card.free_mib < 0.85 * card.total_mib]  # at idle up to 9 % are in use
    found = [f"NPU {card.npu} chip {card.chip}: {card.free_mib} of {card.total_mib} MiB free" for card in full]
    found += [f"NPU {one.npu}: pid {one.pid} ({one.name or 'no name'}) {one.mib} MiB" for one in host.smi.holders]
    free = f"at least {min(card.free_mib for card in sized)} MiB free on each" if sized else "not shown"
    repair = "end the process if it is yours; or name the free devices in ASCEND_RT_VISIBLE_DEVICES"
    return verdict("device memory", not found, "; ".join(found) or free, "no other process there", repair)


def visible(host: Host) -> Row | None:
    given = host.env.get("ASCEND_RT_VISIBLE_DEVICES")
    if given is None:
        return None
    count = len(host.cards) or len(host.nodes) or 64
    ids = [int(one) for one in given.split(",")] if re.fullmatch(r"\d+(,\d+)*", given) else []
    fine = bool(ids) and ids == sorted(set(ids)) and ids[-1] < count
    better = ",".join(str(one) for one in sorted(set(ids)) if one < count) or "0"
    needed = f"strictly ascending ids, 0 to {count - 1}; torch_npu sees no device otherwise"
    repair = f"export ASCEND_RT_VISIBLE_DEVICES={better}"
    return verdict("visible devices", fine, f"ASCEND_RT_VISIBLE_DEVICES={given}", needed, repair, "FAIL")


def cann(host: Host) -> Row | None:
    if not host.has_npu and not host.sourced:
        return None
    found = f"{host.cann or 'version not known'}, sourced" if host.sourced else "not sourced in this environment"
    return verdict("CANN", host.sourced, found, "ASCEND_HOME_PATH, before Python starts", source(host), "FAIL")


def torch_npu(host: Host) -> Row | None:
    if host.torch_npu is None:
        missing = Row("torch_npu", "FAIL", "not installed", "torch's NPU backend", "pip install 'neoxlib[npu]'")
        return missing if host.has_npu else None
    found, torch = host.torch_npu or "version not known", base(host.packages.get("torch"))
    if not host.sourced:
        return _unsourced(host, found)
    fine = not torch or not host.torch_npu or host.torch_npu.startswith(torch)
    repair = f"pip install 'torch-npu=={torch}.*'"
    return verdict("torch_npu", fine, f"{found} beside torch {torch or '?'}", "the same release", repair, "FAIL")


def _unsourced(host: Host, found: str) -> Row:
    """torch loads torch_npu by itself, which needs CANN's libraries: then `import torch` fails, on the CPU too."""
    if host.env.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
        off = f"{found}, kept out by TORCH_DEVICE_BACKEND_AUTOLOAD=0"
        return verdict("torch_npu", not host.has_npu, off, "CANN sourced, to use NPUs", source(host))
    repair = f"{source(host)}; for the CPU alone: export TORCH_DEVICE_BACKEND_AUTOLOAD=0"
    return Row("torch_npu", "FAIL", f"{found}, but CANN is not sourced", "CANN, else `import torch` fails", repair)


def atb(host: Host) -> Row | None:
    if not host.has_npu:
        return None
    fine = "ATB_HOME_PATH" in host.env
    path = (*host.atb_set_env, "/usr/local/Ascend/nnal/atb/set_env.sh")[0]
    needed = "for ATB's ops; else: libatb.so: cannot open shared object file"
    return verdict("ATB (NNAL)", fine, "sourced" if fine else "not sourced", needed, f"source {path}")


def variables(host: Host) -> Row | None:
    """Settings of old scripts that stop a run today."""
    if not host.has_npu:
        return None
    env, chips = host.env, [chip_of_card(card.name, card.total_mib) for card in host.cards]
    family = {chip.family for chip in chips if chip}
    bad = {}
    if env.get("INF_NAN_MODE_ENABLE") == "0" and family & {"A2", "A3"} and "INF_NAN_MODE_FORCE_DISABLE" not in env:
        bad["INF_NAN_MODE_ENABLE"] = "0 is an error on this chip"
    if {"PYTORCH_ALLOC_CONF", "PYTORCH_NPU_ALLOC_CONF"} <= env.keys():
        bad["PYTORCH_ALLOC_CONF"] = "an error beside PYTORCH_NPU_ALLOC_CONF"
    if env.get("BACKEND") == "lccl" and "310P" in family:
        bad["BACKEND"] = "310P has no lccl"
    found = "; ".join(f"{name}: {why}" for name, why in bad.items()) or "no conflict"
    return verdict("variables", not bad, found, "no conflict", f"unset {' '.join(bad)}", "FAIL")


def hccl_port(host: Host) -> Row | None:
    if not host.has_npu or "HCCL_IF_BASE_PORT" in host.env:
        return None
    found = "16666 is free" if host.hccl_port_free else "16666 is taken, by another job"
    return verdict("HCCL port", host.hccl_port_free, found, "16666 or another", "export HCCL_IF_BASE_PORT=26666")


NPU: tuple[Check, ...] = (device, health, occupied, visible, cann, torch_npu, atb, variables, hccl_port)


def source(host: Host) -> str:
    """The command that puts CANN into the environment; a Jupyter kernel does not inherit it, so it comes first."""
    path = (*host.set_env, "/usr/local/Ascend/ascend-toolkit/set_env.sh")[0]
    return f"source {path}, then start Python or Jupyter anew"
