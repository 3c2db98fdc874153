"""first-steps, your-checkpoint and ascend: their commands run, as far as this machine goes.

Their reports are checked by test_docs.py; what needs docker, a device or a registry is checked
word by word. docs/zh has the same blocks: test_pages_in_chinese.py.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.demo import MODEL_DIR
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.versions import PYTHON_NEEDS, RELEASES, TODAY
from neoxlib.model.config import ModelConfig
from neoxlib.setup import install, npu_checks, selftest, trial_process
from neoxlib.setup.npu_trials import Trial
from neoxlib.speed.plan import plan

ROOT = Path(__file__).parents[1]
NAMES = ("first-steps", "your-checkpoint", "ascend")
TEXT = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in NAMES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line and not line.startswith("#")
)
GPT_NEOX_20B = {
    "model_type": "gpt_neox",
    "hidden_act": "gelu_fast",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "max_position_embeddings": 2048,
    "num_attention_heads": 64,
    "num_hidden_layers": 44,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "vocab_size": 50432,
}


def lines(name: str) -> list[str]:
    """The commands of a page: those of its blocks without a language, continued lines joined."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT[name], re.M | re.S)
    text = "".join(block for language, block in found if not language)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line]


COMMANDS = {name: lines(name) for name in NAMES}
ALL = [line for found in COMMANDS.values() for line in found]
RUN = {
    "status": "failed",
    "notebook": "02_inference",
    "parameters": {"model_dir": "", "world_size": 2},
    "environment": {},
    "error": {"type": "RankError", "cell": 3, "message": "EI0006"},
}
OURS = re.compile(r"^\.venv/bin/python -m neoxlib (?!report )(.*)")


@pytest.mark.parametrize("name", NAMES)
def test_our_commands_of_a_page_run_in_its_order(name: str, tmp_path: Path, monkeypatch):
    """On the shipped model in place of GPT-NeoX-20B. Without an NPU selftest-npu ends with 77."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs" / "02_inference" / "RUN"
    run.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(RUN))
    (tmp_path / "config.ini").write_text("[model]\nmodel_path = /models/x\n")
    for line in COMMANDS[name]:
        if not (found := OURS.match(line)):
            continue
        words = shlex.split(found[1].replace("/data/", f"{tmp_path}/"))
        words = [str(MODEL_DIR) if word == "/models/gpt-neox-20b" else word for word in words]
        done = CliRunner().invoke(cli, words)
        codes = {"selftest-npu": (77,), "doctor": (0, 1)}.get(words[0], (0,))
        assert done.exit_code in codes, (line, done.output, done.exception)
        assert "--json" not in words or json.loads(done.output)


def test_a_shell_can_read_every_block():
    done = subprocess.run(["bash", "-n", "-c", "\n".join(ALL)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PARSE = """
import json, sys
from pip._internal.commands import create_command
options, requirements = create_command(sys.argv[1]).parse_args(sys.argv[2:])
print(json.dumps([vars(options), requirements], default=str))
"""


def pip_words(line: str) -> tuple[dict, list[str]]:
    """The options and requirements of a pip command, read by pip's own parser.

    In a process of its own, and without this machine's index and constraints.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *shlex.split(line.partition(" -m pip ")[2])],
        env=env | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    options, requirements = json.loads(done.stdout)
    return options, requirements


PIP = [line for line in ALL if " -m pip " in line]


@pytest.mark.parametrize("line", PIP)
def test_pip_takes_the_line_and_the_versions_are_the_pinned_ones(line: str):
    options, requirements = pip_words(line)
    for one in requirements + options.get("editables", []):
        name, _, version = one.partition("==")
        assert not version or version == PINS[name]
        extras = re.findall(r"\w+", one) if one.startswith(".[") else []
        assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert options["index_url"] in ("https://pypi.org/simple", install.CPU_INDEX)
    assert set(options["constraints"]) <= {"constraints.txt"}


def test_what_canns_compiler_imports_is_installed_with_and_without_a_network():
    with_network, without = [pip_words(line)[1] for line in PIP[-2:]]
    assert with_network == PYTHON_NEEDS.split()
    ours = {line.partition("==")[0] for line in PROJECT["dependencies"]} | {"sympy"}  # torch's
    assert set(without) | ours >= set(PYTHON_NEEDS.split())


def test_the_page_names_the_versions_and_the_index_that_the_plan_has():
    page = TEXT["ascend"]
    torch, torch_npu = TODAY.release.torch, TODAY.release.torch_npu
    assert f"torch {torch}, torch_npu {torch_npu}, Python {TODAY.python}" in page
    assert f"CANN {TODAY.cann} or later" in page and RELEASES[0].cann is None
    assert install.CPU_INDEX in page and f"that of {RELEASES[1].torch_npu}" in page
    for name in ("rouge_score", "sqlitedict", "word2number", "soupsieve"):
        assert f"{name} {PINS[name]}" in page


def test_the_container_gets_the_devices_and_mounts_that_the_doctor_names():
    (line,) = [line for line in COMMANDS["ascend"] if line.startswith("docker run")]
    given, wanted = (shlex.split(text) for text in (line, npu_checks.MOUNTS))
    for option in ("--device", "-v"):
        pairs = [
            {words[n + 1] for n, word in enumerate(words) if word == option}
            for words in (given, wanted)
        ]
        assert pairs[0] >= pairs[1]
    assert "--shm-size=16g" in given and given[-1] == "bash"


def test_the_image_is_built_under_the_name_that_the_container_starts():
    words = [shlex.split(line) for line in COMMANDS["ascend"] if line.startswith("docker ")]
    build, run, user = words
    image = build[build.index("-t") + 1]
    assert run[-2] == image and f"FROM {image}" in TEXT["ascend"]
    assert f"`{user[user.index('-t') + 1]}` as the image" in TEXT["ascend"]
    assert TODAY.cann in image and TODAY.cann in build[build.index("-f") + 1]


def test_the_wheelhouse_is_for_the_pinned_packages_and_pip_takes_its_lines():
    # within `make test` a make that it starts also prints the folder it enters and leaves
    quiet = ["--no-print-directory", "-n", "-o", ".venv/.installed"]
    asked = ["make", *quiet, "wheelhouse"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    recipe = re.sub(r"\$\(.*\)", " ".join([TODAY.release.torch, PYTHON_NEEDS]), done.stdout)
    wheel, download = recipe.replace("\\\n", " ").strip().splitlines()[-2:]
    options, built = pip_words(wheel)
    assert set(built) <= set(PINS) and options["constraints"] == ["constraints.txt"]
    options, requirements = pip_words(download)
    assert options["constraints"] == ["constraints.txt"] and options["extra_index_urls"]
    assert options["python_version"] == [3, 11, 5]
    for platform in options["platforms"]:
        assert f"`--platform {platform}`" in TEXT["ascend"]
    (ours,) = [one for one in requirements if one.startswith(".[")]
    assert ours == PIP[-1].split('-e "')[1].partition('"')[0]  # what the other machine installs
    assert set(PYTHON_NEEDS.split()) <= set(requirements)


def test_the_selftests_codes_fields_and_limit_are_those_of_the_page():
    page = TEXT["ascend"]
    assert f"| {selftest.NOT_HERE} |" in page and f"most {trial_process.LIMIT_S:g} s" in page
    rows = dict(re.findall(r"^\| (`chip`.*?|`cann`.*?|`checks`) \| (.*?) \|$", page, re.M))
    head = selftest.about("cpu", CHIPS["910B3"], "cpu", 1).keys() | {"left_out"}
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"checks"}
    assert named and named <= head
    told = re.split(r"[:,] ", rows["`checks`"])[1:]
    assert set(told) <= {one.name for one in fields(Trial)}


def test_the_plan_of_gpt_neox_20b_is_the_one_in_the_page(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(GPT_NEOX_20B))
    assert ModelConfig.from_dir(tmp_path).num_attention_heads == 64
    page = TEXT["your-checkpoint"]
    table = re.findall(r"^\| (\d) \| (.*) \| (.*) \| (.*) \| (.*) \|$", page, re.M)
    assert [row[0] for row in table] == ["1", "2", "4", "8"]
    for column, chip in ((3, "910B3"), (4, "310P3")):
        said = str(plan(tmp_path, 1, chip=chip))
        free = re.search(r"free per rank +(\S+ GiB)", said)[1]
        assert f"on {chip}, {free} free" in page
        for row in table:
            found = rf"^{row[0]} +{row[1]} +{row[2]} +(yes|no) "
            fits = re.search(found, said, re.M)[1]
            assert row[column] == ("fits" if fits == "yes" else "does not fit")
