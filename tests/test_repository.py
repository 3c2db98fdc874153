"""What holds the repository together: the direction of imports, pins that agree, notebooks that are clean."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest
import yaml

from neoxlib.workbook.parameters import NOTEBOOKS, PARAMETERS, TYPES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neoxlib"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOK_FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Imports point up this list only, so that each module can be read knowing those before it.
README = (ROOT / "README.md").read_text(encoding="utf-8")

# The README's map of the package is the order: imports point up it only, so that each room can be read by those above.
ORDER = re.findall(r"^  (\w+(?:\.py|/)) ", README[README.index("neoxlib/\n") :], re.M)


def imports(path: Path) -> set[str]:
    """Modules of neoxlib that a file imports when it runs; those for type checking only do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node) for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test) for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in typing_only:
            continue
        if (node.module or "").partition(".")[0] != "neoxlib":
            continue
        if node.module in ("neoxlib", "neoxlib.kernels", "neoxlib.exam"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            found.add(node.module)
    return {name.removeprefix("neoxlib.") for name in found}


def room(module: str) -> str:
    """The file or folder of the map that a module is in: `tasks.data` is in `tasks/`."""
    first = module.partition(".")[0]
    return f"{first}/" if (PACKAGE / first).is_dir() else f"{first}.py"


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"
}


def test_the_readme_maps_every_file_once():
    here = {room(module) for module in MODULES}
    assert sorted(ORDER) == sorted(here)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up_the_map_only(module: str):
    own = ORDER.index(room(module))
    below = [other for other in imports(MODULES[module]) if room(other) in ORDER and ORDER.index(room(other)) > own]
    assert not below


def test_every_pin_is_the_constraint_that_was_tested():
    constraints = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), re.M))
    extras = PYPROJECT["project"]["optional-dependencies"]
    for requirement in [*PYPROJECT["project"]["dependencies"], *extras["eval"], *extras["dev"]]:
        name, _, version = requirement.partition("==")
        assert version and constraints.get(name) == version, requirement


def test_the_conda_environment_installs_the_same_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda, pip = environment["dependencies"][:-1], environment["dependencies"][-1]["pip"]
    python = next(item for item in conda if item.startswith("python=")).removeprefix("python=")
    assert PYPROJECT["project"]["requires-python"].startswith(f">={python},")
    assert pip == ["-c constraints.txt", "-e .[dev,eval]"]
    assert not [item for item in conda + pip if "npu" in item]  # it breaks `import torch` where CANN is not sourced


def test_from_above_a_clone_the_package_is_found_and_not_the_clones_folder(tmp_path: Path):
    """A clone is named neoxlib, too: that folder must not come before what is installed from it."""
    pytest.importorskip("setuptools")
    clone, wheels, env = tmp_path / "neoxlib", tmp_path / "wheels", tmp_path / "env"
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
    cells = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    declared = {}
    for line in cells[0].source.splitlines():
        name, kind, default, text = re.fullmatch(r"(\w+): (\w+) = (.+?)  # (.+)", line).groups()
        assert "=" not in text, "papermill does not see a parameter whose help holds an equals sign"
        assert kind in TYPES
        declared[name] = (kind, ast.literal_eval(default), text)
    assert sorted(declared) == sorted(NOTEBOOKS[path.stem])
    for name, (kind, default, text) in declared.items():
        assert (kind, default, text) == (PARAMETERS[name].type, PARAMETERS[name].default, PARAMETERS[name].help), name


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_name_parameters_that_exist(path: Path):
    values = yaml.safe_load(path.read_text())
    assert values and not [name for name in values if name not in PARAMETERS]


def test_notebook_json_is_stable():
    for path in NOTEBOOK_FILES:
        ids = [cell["id"] for cell in json.loads(path.read_text())["cells"]]
        assert len(ids) == len(set(ids))
