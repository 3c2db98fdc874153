"""The laws of the repository: the direction of imports, pins that agree, notebooks that are
clean.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml

from neoxlib.workbook.parameter_table import NOTEBOOKS, PARAMETERS
from neoxlib.workbook.parameters import TYPES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neoxlib"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOK_FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))

# One room per notebook: each line imports from the lines above it, and rooms of one line do not
# import from each other. Imports inside functions and for type checking count.
LAW = """
errors process streams files forms redact colours demo
names languages
kernels machine
model
workbook
checkpoint hosts
inference
ranks exam
speed setup align harness history
compare __main__
"""
LEVEL = {room: level for level, line in enumerate(LAW.split("\n")) for room in line.split()}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOMS = {module: module.split(".")[1] for module in MODULES if "." in module}


def imports(path: Path) -> set[str]:
    """The modules of neoxlib that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the room"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name in MODULES}


@pytest.mark.parametrize("module", ROOMS)
def test_a_room_imports_only_from_rooms_to_its_left(module: str):
    assert ROOMS[module] in LEVEL, "a room that the law does not name"
    rooms = {ROOMS[name] for name in imports(MODULES[module]) if name in ROOMS}
    level = LEVEL[ROOMS[module]]
    assert not [room for room in rooms - {ROOMS[module]} if LEVEL[room] >= level]


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    while free := [module for module, needs in graph.items() if not needs]:
        graph = {module: needs - set(free) for module, needs in graph.items() if needs}
    assert not graph


def test_a_room_holds_25_files_at_most():
    rooms = Counter(room for module, room in ROOMS.items() if not module.startswith("neoxlib.demo"))
    assert {room: count for room, count in rooms.items() if count > 26} == {}  # its __init__ is one


@pytest.mark.parametrize("word", ["torch.distributed", "torch_npu"])
def test_a_library_is_imported_by_the_rooms_that_know_it_only(word: str):
    allowed = {"torch.distributed": {"ranks", "demo"}, "torch_npu": {"kernels", "machine"}}[word]
    pattern = re.compile(rf"^\s*(import|from) {re.escape(word)}\b", re.M)
    found = {ROOMS.get(name) for name, path in MODULES.items() if pattern.search(path.read_text())}
    assert found <= allowed


@pytest.mark.parametrize("room", ["machine", "workbook"])
def test_what_a_machine_and_a_workbook_are_is_known_without_torch(room: str):
    names = [module for module in ROOMS if ROOMS[module] == room]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


TESTS = ROOT / "tests"
ELSEWHERE = {  # files of tests of what is no single file of a room
    "test_repository",
    "test_docs",
    "test_page_rows",
    "test_guide_page",
    "test_step_pages",
    "test_pages_in_chinese",
    "test_ci_page",
    "test_batch_page",
    "test_cli",
    "test_wheel",
    "test_lm_eval",
    "exam/data/test_sources",
    "fuzz/test_readers",
    "hosts/test_verify",
    "kernels/test_npu_conditions",
    "kernels/cpu/test_isas",
    "kernels/test_goldens",
    "kernels/test_attention_contracts",
    "ranks/test_replicas",
    "setup/test_npu_mistakes",
}


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_a_file_is_tested_at_its_own_place(path: Path):
    """In test_FILE.py; where that would be long, in parts: test_FILE_PART.py."""
    place = path.relative_to(TESTS).with_suffix("")
    if (
        place.parts[0] in ("notebooks", "npu_wheel", "benchmarks", "demo", "browser")
        or str(place) in ELSEWHERE
    ):
        return
    words = place.name.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    tested = [PACKAGE / place.with_name(f"{name}.py") for name in names]
    assert any(path.is_file() for path in tested), f"there is no {tested[0].relative_to(ROOT)}"


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        (r"\bget_close_matches\(", "errors"),
        (r"\bos\.replace\(", "files"),
        (r"\btqdm\(", "workbook.progress"),
        (r"<table|\.to_html\(|html import escape|html\.escape", "workbook.markup"),
        (r'"lm_head\.weight"|inv_freq\)', "checkpoint.names"),
    ],
)
def test_a_thing_is_done_in_one_file(pattern: str, place: str):
    found = [name for name, path in MODULES.items() if re.search(pattern, path.read_text())]
    assert {name for name in found if ROOMS.get(name) != "demo"} == {f"neoxlib.{place}"}


def test_nothing_imports_from_a_file_of_tests():
    pattern = re.compile(r"^\s*from tests[\w.]*\.test_\w+ import", re.M)
    assert not [path for path in TESTS.rglob("*.py") if pattern.search(path.read_text())]


def test_every_pin_is_the_constraint_that_was_tested():
    constraints = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), re.M)
    )
    extras = PYPROJECT["project"]["optional-dependencies"]
    for requirement in [*PYPROJECT["project"]["dependencies"], *extras["eval"], *extras["dev"]]:
        name, _, version = requirement.partition("==")
        assert version and constraints.get(name) == version, requirement


def test_the_conda_environment_installs_the_same_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = environment["dependencies"][:-1]
    pip = environment["dependencies"][-1]["pip"]
    python = next(item for item in conda if item.startswith("python=")).removeprefix("python=")
    assert PYPROJECT["project"]["requires-python"].startswith(f">={python},")
    assert pip == ["-c constraints.txt", "-e .[dev,eval]"]
    assert not [
        item for item in conda + pip if "npu" in item
    ]  # it breaks `import torch` where CANN is not sourced


def test_from_above_a_clone_the_package_is_found_and_not_the_clones_folder(tmp_path: Path):
    """A clone is named neoxlib, too: that folder must not come before what is installed from it."""
    pytest.importorskip("setuptools")
    clone = tmp_path / "neoxlib"
    wheels = tmp_path / "wheels"
    env = tmp_path / "env"
    left_out = shutil.ignore_patterns("__pycache__", "demo")
    shutil.copytree(PACKAGE, clone / "neoxlib", ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools import build_meta; build_meta.build_editable({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    venv.create(env, symlinks=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(next(env.glob("lib/python*/site-packages")))
    ask = [env / "bin" / "python", "-c", "import neoxlib; print(neoxlib.__file__)"]
    found = subprocess.run(ask, cwd=tmp_path, env={}, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == clone / "neoxlib" / "__init__.py"


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean_and_call_only(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["title"]
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert not cell.outputs and cell.execution_count is None
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert "parameters" in cell.metadata.get("tags", []) or len(lines) <= 5, cell.source
        assert not re.search(r"^\s*(def |class |!|%)|sys\.path", cell.source, re.M), cell.source


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=lambda path: path.stem)
def test_parameters_cells_agree_with_the_table(path: Path):
    cells = [
        c
        for c in nbformat.read(path, as_version=4).cells
        if "parameters" in c.metadata.get("tags", [])
    ]
    assert len(cells) == 1
    declared = {}
    for line in cells[0].source.splitlines():
        name, kind, default, text = re.fullmatch(r"(\w+): (\w+) = (.+?)  # (.+)", line).groups()
        assert "=" not in text, "papermill does not see a parameter whose help holds an equals sign"
        assert kind in TYPES
        declared[name] = (kind, ast.literal_eval(default), text)
    assert sorted(declared) == sorted(NOTEBOOKS[path.stem])
    for name, (kind, default, text) in declared.items():
        assert (kind, default, text) == (
            PARAMETERS[name].type,
            PARAMETERS[name].default,
            PARAMETERS[name].help,
        ), name


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks" / "presets").glob("*.yaml")), ids=lambda path: path.stem
)
def test_presets_name_parameters_that_exist(path: Path):
    values = yaml.safe_load(path.read_text())
    assert values and not [name for name in values if name not in PARAMETERS]


def test_notebook_json_is_stable():
    for path in NOTEBOOK_FILES:
        ids = [cell["id"] for cell in json.loads(path.read_text())["cells"]]
        assert len(ids) == len(set(ids))
