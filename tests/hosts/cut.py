"""A cut made on one host: verified on others, and read by each rank from its own host's disk."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from neoxlib.machine.launch_env import launch_env
from tests.hosts.bench import Bench
from tests.hosts.build import Host
from tests.hosts.desk import open_desk

CHIP = "910B3"  # emulated: no NPU is here


def cut(bench: Bench) -> None:
    """Cut on one host, copy, verify, spoil, and open sessions on what each disk holds."""
    first, second, third = bench.others
    place = bench.model.with_name("cut")
    first.run(sys.executable, "-m", "neoxlib", "shard", bench.model, place, "--world-size", "2")
    for host in (second, third):
        shutil.copytree(first.disk / "cut", host.disk / "cut")
        code, text = verified(host, place)
        law = f"a cut of {first.name} is verified on {host.name} by sha256"
        bench.lines.add(law, code == 0, text.splitlines()[-1])
    weights = next((third.disk / "cut").glob("part_model/1/*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, text = verified(third, place)
    words = " ".join(text[text.find("WeightsError") :].split())[:100]
    bench.lines.add("a changed byte of it is found there", code == 1, words)
    own_disks(bench)


def verified(host: Host, place: Path) -> tuple[int, str]:
    """`neoxlib verify` on a host: exit code and output."""
    command = host.command(sys.executable, "-m", "neoxlib", "verify", place)
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def own_disks(bench: Bench) -> None:
    """Under one path every host has another half of the weights; the desk has none of them."""
    hosts = bench.others[:2]
    for rank, host in enumerate(hosts):
        shutil.copytree(host.disk / "cut" / "part_model" / str(rank), host.disk / "part")
    desk = open_desk(bench, hosts, bench.model.with_name("part"))
    answer = desk.answer()
    law = "each rank reads its half from its own host's disk, and the text is one process's"
    told = f"{answer['seconds']:.1f} s" if answer.get("answer") else str(answer)
    bench.lines.add(law, bool(answer.get("answer")), told)
    desk.ask("hccl")
    found = [json.loads(text) for text in desk.hear("answer")["answer"]]
    all_ = launch_env(CHIP, len(hosts), here=1, servers=len(hosts))
    recipe = {name: value for name, value in all_.items() if "HCCL" in name}
    due = [recipe | {"HCCL_IF_IP": host.fabric} for host in hosts]
    law = f"on a {CHIP} (emulated) each rank gets HCCL's variables with its own host's address"
    told = ", ".join(one.get("HCCL_IF_IP", "none") for one in found)
    told = f"HCCL_IF_IP {told}, and {', '.join(recipe)}"
    bench.lines.add(law, found == due and bool(recipe), told)
    desk.close()
