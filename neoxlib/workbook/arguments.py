"""The arguments of a headless run: which notebooks, and which values for each, all checked."""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import yaml

from neoxlib.errors import ParameterError, did_you_mean, unreadable_is
from neoxlib.files import read_whole
from neoxlib.forms import parse
from neoxlib.workbook import parameters, typed
from neoxlib.workbook.param import Param
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.parameters import TYPES
from neoxlib.workbook.table import Table

SHIPPED = Path(__file__).parent / "shipped"  # of the package; in a checkout a link to notebooks/

MOST_BYTES = 1 << 20  # of a preset
MOST_OF_A_NOTEBOOK = 1 << 28  # bytes


@dataclass(frozen=True)
class RunArguments:
    """One notebook to run: the parameters that its cell declares, and the values given for it."""

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


@unreadable_is(ParameterError)
def find(name: str) -> Path:
    """Return a notebook by its path, its name in the folder `notebooks`, or a beginning of it.

    `02`, `02_inf` and `inference` all name 02_inference.
    """
    folder = notebooks_folder()
    for path in (Path(name), folder / name, folder / f"{name}.ipynb"):
        if path.suffix == ".ipynb" and _is_file(path):
            return path
    books = all_notebooks()
    meant = [path for path in books if name and _begins(path.stem, name)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        several = ", ".join(path.stem for path in meant)
        raise ParameterError(f"{name!r} is the beginning of {len(meant)} notebooks: {several}")
    have = [path.stem for path in books]
    hint = did_you_mean(name, have) or ";"
    all_of_them = ", ".join(have) or "none"
    raise ParameterError(f"no notebook {name!r}{hint} in {near(folder)} there are: {all_of_them}")


def _begins(stem: str, name: str) -> bool:
    """Whether a notebook's name, or the part after its number, begins with `name`."""
    return stem.startswith(name) or stem.partition("_")[2].startswith(name)


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; False if its name is too long to be one."""
    try:
        return path.is_file()
    except OSError:
        return False


def notebooks_folder() -> Path:
    """Return `notebooks` in the working directory or above it, else the shipped folder.

    A folder of that name without a numbered notebook is somebody else's.
    """
    here = Path.cwd()
    above = (folder / "notebooks" for folder in (here, *here.parents))
    return next((folder for folder in above if numbered(folder)), SHIPPED.resolve())


def all_notebooks() -> list[Path]:
    """Return every notebook of the workbook, in order."""
    return numbered(notebooks_folder())


def numbered(folder: Path) -> list[Path]:
    """Return the notebooks of a folder, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


@unreadable_is(ParameterError)
def read_preset(name: str) -> dict[str, Any]:
    """Return the parameters of a YAML file, by its path or name; `prepare` reads their values."""
    folder = notebooks_folder() / "presets"
    places = (Path(name), folder / name, folder / f"{name}.yaml")
    path = next((place for place in places if _is_file(place)), None)
    if path is None:
        have = ", ".join(all_presets()) or "none"
        close = did_you_mean(name, all_presets()) or ";"
        raise ParameterError(f"no preset {name!r}{close} in {near(folder)} there are: {have}")
    try:
        return dict(typed.read_yaml(read_whole(path, MOST_BYTES).decode()))
    except UnicodeDecodeError as error:
        raise ParameterError(f"preset {name!r} is not UTF-8: {error}") from error
    except ValueError as error:
        raise ParameterError(f"preset {name!r} {error}") from error


def all_presets() -> list[str]:
    """Return the names of the presets beside the notebooks."""
    return sorted(path.stem for path in (notebooks_folder() / "presets").glob("*.yaml"))


def preset_listing() -> str:
    """Return a line for each preset beside the notebooks: its name and the values it sets."""
    values = {name: read_preset(name) for name in all_presets()}
    rows = [
        (name, ", ".join(f"{key} {node.value}" for key, node in found.items()))
        for name, found in values.items()
    ]
    return repr(Table(("preset", "values"), rows)) if rows else "There are no presets."


def listing(path: Path) -> str:
    """Return a notebook's parameters in lines: name, type, default and meaning of each."""
    rows = [
        (name, param.type, json.dumps(param.default, ensure_ascii=False), param.help)
        for name, param in declared_in(path).items()
    ]
    return f"{path.stem}\n{Table(('parameter', 'type', 'default', 'meaning'), rows)}"


def declared_in(path: Path) -> dict[str, Param]:
    """Return the parameters that a notebook's cell declares; those of the table have its checks.

    Each line of the cell is `name: type = value  # help`. A default is the cell's own: in a copied
    notebook it may differ from the table's.
    """
    try:
        text = read_whole(path, MOST_OF_A_NOTEBOOK).decode()
        parse(text, halves=True)  # nbformat recurses as deep as a file wants
        cells = nbformat.reads(text, as_version=4).cells
        source = next(
            (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), ""
        )
        nodes = [
            node
            for node in ast.parse(source).body
            if isinstance(node, ast.AnnAssign) and node.value
        ]
        found = {ast.unparse(node.target): _declared(node) for node in nodes}
    except Exception as error:  # nbformat checks little, and Python's parser raises many kinds
        what = str(error) or type(error).__name__
        why = f"{near(path)} is no notebook with a cell of plain parameters: {what}"
        raise ParameterError(why) from error
    same = {
        name: replace(PARAMETERS[name], default=param.default)
        for name, param in found.items()
        if name in PARAMETERS and PARAMETERS[name].type == param.type
    }
    return found | same


def _declared(node: ast.AnnAssign) -> Param:
    """Return a parameter by its annotation, and by its default if that says more."""
    names = _names(node.annotation)
    default = ast.literal_eval(node.value)
    optional = "None" in names
    kind, _, inside = next((name for name in names if name != "None"), "").partition("[")
    if kind not in TYPES or len(names) - optional > 1:
        by_default = type(default).__name__
        kind = by_default if by_default in TYPES else ast.unparse(node.annotation)
    texts = bool(default) and kind == "list" and all(isinstance(one, str) for one in default)
    item = inside.removesuffix("]") or ("str" if texts else "")
    return Param(kind, default, "", blank=optional, item=item)


def _names(annotation: ast.expr) -> list[str]:
    """Return the types that an annotation joins: list[str] and None for "Optional[List[str]]"."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _names(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.BinOp):
        return _names(annotation.left) + _names(annotation.right)
    name = ast.unparse(annotation).removeprefix("typing.")
    if not isinstance(annotation, ast.Subscript):
        return [name]
    outer = name.partition("[")[0]
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if outer in ("Optional", "Union", "Annotated"):
        joined = parts[:1] if outer == "Annotated" else parts
        inner = [name for part in joined for name in _names(part)]
        return [*inner, "None"] if outer == "Optional" else inner
    return [f"{outer.lower()}[{_names(parts[0])[0]}]" if len(parts) == 1 else outer.lower()]


def asked(
    names: Iterable[str], presets: Iterable[str], texts: Iterable[tuple[str, str]]
) -> list[RunArguments]:
    """Prepare notebooks and presets by their names, and the texts given with -p."""
    paths = [find(name) for name in names]
    values = [read_preset(name) for name in presets]
    return prepare(paths, values, list(texts))


@unreadable_is(ParameterError)
def prepare(
    paths: list[Path], presets: list[dict[str, Any]], texts: list[tuple[str, str]]
) -> list[RunArguments]:
    """Give each notebook its values; a later value replaces an earlier one, and -p a preset's.

    One of the notebooks must take each name given with -p; a preset may have names of other
    notebooks, too.
    """
    declared = {path: declared_in(path) for path in paths}
    taken = {name: param for params in declared.values() for name, param in params.items()}
    preset = {name: value for values in presets for name, value in values.items()}
    problems = [parameters.unknown(name, taken) for name, _ in texts if name not in taken]
    problems += [
        parameters.unknown(name, taken)
        for name in preset
        if name not in taken and name not in PARAMETERS
    ]
    jobs = []
    for path, params in declared.items():
        others = {name: param for name, param in PARAMETERS.items() if name not in taken}
        given, wrong = _given(others | params, preset, dict(texts))
        problems += wrong
        taken_here = {name: value for name, value in given.items() if name in params}
        blank = {name: params[name].default for name, value in taken_here.items() if value is None}
        jobs.append(RunArguments(path, params, taken_here | blank))
    parameters.refuse(list(dict.fromkeys(problems)))
    return jobs


def _given(
    known: dict[str, Param], preset: dict[str, Any], texts: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of known names, as one notebook declares them, and the complaints."""
    values: dict[str, Any] = {}
    problems = []
    for name, value in preset.items():
        if name not in known or name in texts:
            continue
        try:
            node = isinstance(value, yaml.Node)
            param = known[name]
            values[name] = typed.read_node(param.type, param.item, value) if node else value
        except ValueError as error:
            problems.append(f"{name}: {error}")
    typed_here = {name: text for name, text in texts.items() if name in known}
    values |= {name: parameters.read_text(known[name], text) for name, text in typed_here.items()}
    values = {name: parameters.placed(name, known[name], value) for name, value in values.items()}
    return values, problems + parameters.complaints(values, known)


def near(path: Path) -> str:
    """Return the path relative to the working directory if it is below, else absolute."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
