"""How neoxlib behaves with torch_npu installed and no NPU: without CANN's libraries, and with
stand-ins for them.

Each question runs in a process of its own: what is asked is how an import ends.
"""

import json
import os
import subprocess
import sys

from neoxlib.demo import MODEL_DIR, PROMPTS
from tests.npu_wheel import standins
from tests.npu_wheel.say import check

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
CURES = ("set_env.sh", AUTOLOAD)
LOAD = f"""
import neoxlib
from neoxlib.errors import NeoXError
try:
    with neoxlib.load({str(MODEL_DIR)!r}, device=DEVICE) as engine:
        answer = engine.generate([{PROMPTS["en"][0]!r}], max_new_tokens=4)[0]
        print(engine.describe()["device"], answer.token_ids)
except NeoXError as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
SESSION = LOAD.replace("load(", "Session(").replace(", device=DEVICE", ", 2, device='auto'")
ASK = """
import torch, torch_npu
print(torch.npu.is_available(), torch.npu.device_count())
try:
    torch.ones(2).npu()
    print("a tensor was made")
except RuntimeError as error:
    print("refused:", str(error).splitlines()[0])
"""


def main() -> None:
    """All questions, the one with the plainest answer first."""
    bare = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LD_LIBRARY_PATH", AUTOLOAD)
    }
    code, out = python("import torch", bare)
    check(
        "without CANN's libraries `import torch` fails, by torch_npu's own doing",
        code != 0 and "libhccl" in out,
    )
    code, out = loads("auto", bare)
    check(
        "neoxlib.load then names the cure",
        code == 0 and all(cure in out for cure in CURES),
        last(out),
    )
    code, out = run(["-m", "neoxlib", "doctor", "--json"], bare)
    check("doctor then names the cure", *repair(out))
    code, alone = loads("auto", bare | {AUTOLOAD: "0"})
    check(
        "with autoload off the same call runs on the CPU",
        code == 0 and alone.startswith("cpu ["),
        last(alone),
    )
    code, out = python(SESSION, bare)
    check(
        "a Session then names the cure, too",
        code == 0 and all(cure in out for cure in CURES),
        last(out),
    )
    code, out = python(SESSION, bare | {AUTOLOAD: "0"})
    check("with autoload off a Session runs on the CPU", last(out) == last(alone), last(out))
    on_standins(last(alone))
    refusals()


def on_standins(cpu_answer: str) -> None:
    """The same with `import torch_npu` working."""
    env = standins.environment()
    code, out = python(ASK, env)
    answer = next(
        (line for line in out.splitlines() if line.startswith(("True", "False"))), last(out)
    )
    check(
        "on stand-ins `import torch_npu` works, and no device is available",
        answer == "False 0",
        answer,
    )
    check("no tensor can be made on them", last(out).startswith("refused:"), last(out))
    code, out = loads("auto", env)
    check(
        'load(device="auto") falls back to the CPU, with the same answer',
        last(out) == cpu_answer,
        last(out),
    )
    code, out = loads("npu", env)
    check(
        'load(device="npu") is refused with every reason',
        "SettingsError" in out and "davinci" in out,
        last(out),
    )
    code, out = python("from neoxlib.machine import devices; print(devices._count_problem())", env)
    check(
        "asking torch_npu for its devices is answered with a reason",
        "sees no device" in out,
        last(out),
    )
    code, out = run(["-m", "neoxlib", "doctor"], env)
    check(
        "doctor runs and does not report an NPU",
        "no NPU" in out,
        out.splitlines()[0] if out else "no output",
    )
    code, out = run(["-m", "neoxlib", "selftest-npu"], env)
    told = code == 77 and last(out) == "Nothing about a device was verified."
    check(
        "selftest-npu ends with 77 and says that nothing was verified",
        told,
        f"exit code {code}, {last(out)}",
    )


def refusals() -> None:
    """Where a real CANN is, stand-ins are neither made nor loaded."""
    real = {standins.REAL[0]: "/opt/a-real-cann"}
    code, out = python("from tests.npu_wheel import standins; standins.make()", os.environ | real)
    check("stand-ins are not made beside a real CANN", code != 0 and "Refused" in out, last(out))
    code, out = python("import torch", standins.environment() | real)
    check("stand-ins do not load beside a real CANN", code == standins.REFUSED, last(out))


def loads(device: str, env: dict[str, str]) -> tuple[int, str]:
    return python(LOAD.replace("DEVICE)", f"{device!r})"), env)


def repair(out: str) -> tuple[bool, str]:
    """Whether doctor's JSON has a failing row for torch_npu with a command in it, and that
    command.
    """
    try:
        rows = json.loads(out[out.index("{") :])["rows"]
    except ValueError:
        return False, last(out)
    cures = [
        row["repair"] for row in rows if row["status"] == "FAIL" and "torch_npu" in row["name"]
    ]
    return bool(cures) and any(cure in cures[0] for cure in CURES), "; ".join(
        cures
    ) or "no failing row"


def python(code: str, env: dict[str, str]) -> tuple[int, str]:
    return run(["-c", code], env)


def run(arguments: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of a Python process; what it says on stderr comes first."""
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=600
    )
    return done.returncode, (
        done.stderr + done.stdout
    ).strip() if done.returncode else done.stdout.strip()


def last(out: str) -> str:
    return out.splitlines()[-1] if out else "no output"


if __name__ == "__main__":
    main()
