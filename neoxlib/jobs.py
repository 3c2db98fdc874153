"""What a headless run is to do: which notebooks, and which values for which of them; all doubts come up here."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from neoxlib import parameters
from neoxlib.errors import ParameterError
from neoxlib.parameters import PARAMETERS, Param


@dataclass(frozen=True)
class Job:
    """One notebook to run: what its parameters cell declares, and the values given for it."""

    path: Path
    declared: dict[str, Param]
    given: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def values(self) -> dict[str, Any]:
        """All parameters, the given ones in place of their defaults."""
        return {name: param.default for name, param in self.declared.items()} | self.given


def find(name: str) -> Path:
    """A notebook by path, or by name in the checkout's `notebooks` folder, with or without the ending."""
    folder = notebooks_folder()
    for path in (Path(name), folder / name, folder / f"{name}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path
    have = ", ".join(path.stem for path in all_notebooks()) or "none"
    raise ParameterError(f"no notebook {name!r}; in {near(folder)} there are: {have}")


def notebooks_folder() -> Path:
    """`notebooks` where we stand or above; else the one beside the package."""
    here = Path.cwd()
    above = (folder / "notebooks" for folder in (here, *here.parents))
    return next((folder for folder in above if folder.is_dir()), Path(__file__).parents[1] / "notebooks")


def all_notebooks() -> list[Path]:
    """Every notebook of the workbook, in its order."""
    return sorted(notebooks_folder().glob("[0-9]*.ipynb"))


def read_preset(name: str) -> dict[str, Any]:
    """Parameters from a YAML file, by path or by name in `notebooks/presets`."""
    folder = notebooks_folder() / "presets"
    path = next((p for p in (Path(name), folder / name, folder / f"{name}.yaml") if p.is_file()), None)
    if path is None:
        have = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise ParameterError(f"no preset {name!r}; in {near(folder)} there are: {have}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"preset {name!r} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ParameterError(f"preset {name!r} holds {type(values).__name__}, expected lines of the form name: value")
    return {str(key): value for key, value in values.items()}


def declared_in(path: Path) -> dict[str, Param]:
    """The parameters cell, read as Python: `name: type = value  # help`, one a line; known names bring their checks."""
    try:
        cells = nbformat.read(path, as_version=4).cells
        source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
        nodes = [node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign) and node.value]
        found = {ast.unparse(node.target): (_kind(node.annotation), ast.literal_eval(node.value)) for node in nodes}
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:  # nbformat trusts what it reads
        raise ParameterError(f"{near(path)} is no notebook with a cell of plain parameters: {error}") from error
    return {name: PARAMETERS.get(name) or Param(kind, default, "") for name, (kind, default) in found.items()}


def _kind(annotation: ast.expr) -> str:
    """`list` of `list`, `list[str]` and "list[str]"."""
    return ast.unparse(annotation).strip("'\"").partition("[")[0]


def prepare(paths: list[Path], presets: list[dict[str, Any]], texts: list[tuple[str, str]]) -> list[Job]:
    """Give each notebook the values that it takes; a later value wins over an earlier one, -p over presets.

    A name given with -p must be taken by one of the notebooks; a preset may also hold names of the others.
    """
    declared = {path: declared_in(path) for path in paths}
    taken = {name: param for params in declared.values() for name, param in params.items()}
    preset = {name: value for values in presets for name, value in values.items()}
    problems = [parameters.unknown(name, taken) for name, _ in texts if name not in taken]
    problems += [parameters.unknown(name, taken) for name in preset if name not in taken and name not in PARAMETERS]
    given = preset | {name: parameters.read_text(taken[name], text) for name, text in texts if name in taken}
    known = {name: value for name, value in given.items() if name in taken or name in PARAMETERS}
    problems += parameters.complaints(known, PARAMETERS | taken)
    parameters.refuse(problems)
    blank = {name: taken[name].default for name, value in known.items() if value is None and name in taken}
    return [Job(path, params, {n: v for n, v in (known | blank).items() if n in params})
            for path, params in declared.items()]  # fmt: skip


def near(path: Path) -> str:
    """The path as seen from where we stand, where it is below; else as it is."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
