"""Every text of the sources that a reader may meet, as the catalogue of a language has it."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter

import click
import nbformat

from neoxlib.__main__ import cli
from neoxlib.languages.catalogue import plain
from neoxlib.languages.help import AS_TYPED, BLANK, LINE

PACKAGE = Path(__file__).parents[2] / "neoxlib"
NOTEBOOKS = PACKAGE.parent / "notebooks"
NUMERIC = re.compile(r"[,+]|[defgn%]$")
# What a template computes, its loops and comments, and what it has no words in.
UNSPOKEN = re.compile(r"<(script|style)\b.*?</\1>|\{#.*?#\}", re.DOTALL)


def name_of(value: ast.expr) -> str:
    """The name of a value in a catalogue: the last name of what computes it."""
    match value:
        case ast.IfExp() | ast.BinOp(op=ast.Mult()) if _is_plural(value):
            return "s"
        case ast.Subscript(slice=ast.Constant(value=str(name))) if name.isidentifier():
            return name
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=inner) | ast.Starred(value=inner):
            return name_of(inner)
        case ast.BinOp(left=ast.Constant(), right=inner) | ast.BinOp(left=inner):
            return name_of(inner)
    return _name_of_call(value) if isinstance(value, ast.Call) else "value"


def _name_of_call(call: ast.Call) -> str:
    first = name_of(call.args[0]) if call.args else "value"
    return first if first != "value" else name_of(call.func)


def _is_plural(value: ast.expr) -> bool:
    """Whether it is the "s" of a plural, or nothing."""
    texts = {node.value for node in ast.walk(value) if isinstance(node, ast.Constant)}
    return "s" in texts and texts <= {"s", "", 1}


def template(node: ast.JoinedStr) -> str:
    """An f-string as the catalogue has it: each place by its name, a number with its format."""
    made, names = "", {}
    for part in node.values:
        if isinstance(part, ast.Constant):
            made += part.value.replace("{", "{{").replace("}", "}}")
            continue
        computed = ast.unparse(part.value)
        name = name_of(part.value)
        while names.setdefault(name, computed) != computed:
            name += "_"
        spec = part.format_spec
        told = (
            "".join(one.value if isinstance(one, ast.Constant) else "" for one in spec.values)
            if spec
            else ""
        )
        made += f"{{{name}:{told}}}" if NUMERIC.search(told) else f"{{{name}}}"
    return made


def constant(text: str) -> str:
    """A text as the catalogue has it: `{}`, `{0}` and `{name}` are places, other braces are not."""
    try:
        fields = [
            (name, spec, kind)
            for _, name, spec, kind in Formatter().parse(text)
            if name is not None
        ]
    except ValueError:
        fields = [("?", "", None)]
    if all(re.fullmatch(r"\w*", name) and not spec and not kind for name, spec, kind in fields):
        return re.sub(r"\{(\d*)\}", lambda found: f"{{_{found[1] or 0}}}", text)
    return text.replace("{", "{{").replace("}", "}}")


def _of_python(path: Path) -> Iterator[str]:
    """Texts and f-strings, and those between the tags of one that is HTML."""
    for text in _literals(path):
        yield text
        if re.search(r"</\w+>", text):
            yield from re.split(r"<[^<>]*>", text)


def _literals(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    words = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words |= {id(text) for node in ast.walk(tree) if _is_option(node) for text in ast.walk(node)}
    for node in ast.walk(tree):
        yield from _figure(node)
        if isinstance(node, ast.JoinedStr):
            yield template(node)
            yield from paragraphs(template(node))
        elif _is_text(node) and id(node) not in inside | words:
            yield constant(node.value)


def _of_page(path: Path) -> Iterator[str]:
    """The texts between tags and in attributes; what is computed is a place with its last name."""
    text = UNSPOKEN.sub("", path.read_text(encoding="utf-8"))
    yield from re.findall(r"'([^'{}<>]+)'", " ".join(re.findall(r"\{[{%].*?[%}]\}", text)))
    text = re.sub(r"\{\{-?\s*(.*?)\s*-?\}\}", lambda found: f"{{{_last_name(found[1])}}}", text)
    yield from re.findall(r'="([^"<>]*[a-z][^"<>]*)"', text)
    yield from re.split(r"<[^<>]*>|\{%.*?%\}", text)


def _last_name(expression: str) -> str:
    names = re.findall(r"[A-Za-z_]\w*", expression.split("|")[0])
    return names[-1] if names else "value"


def _of_notebook(path: Path) -> Iterator[str]:
    notebook = nbformat.read(path, as_version=4)
    yield notebook.metadata["title"]
    yield notebook.metadata["title"].partition(" — ")[2]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.source.replace("{", "{{").replace("}", "}}")
            yield from re.findall(r"^##\s+(.+?)\s*$", cell.source, re.M)
        else:
            yield from _of_code(cell.source)


def _of_code(source: str) -> Iterator[str]:
    """The texts of a cell; a figure's name is shown with blanks."""
    for node in ast.walk(ast.parse(source)):
        yield from _figure(node)
        if isinstance(node, ast.JoinedStr):
            yield template(node)
        elif _is_text(node):
            yield constant(node.value)


def _is_option(node: ast.AST) -> bool:
    """Whether it is an option of the command line, whose help is in English."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.option", "option")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _figure(node: ast.AST) -> Iterator[str]:
    """A figure's name as its text for who does not see it has it: with blanks."""
    is_call = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".figure")
    if is_call and node.args and _is_text(node.args[0]):
        yield f"Figure {node.args[0].value.replace('_', ' ')}"


@cache
def texts() -> dict[str, str]:
    """Every text of the sources on one line -> the first file that has it."""
    found: dict[str, str] = {}
    kinds = (
        (PACKAGE.rglob("*.py"), _of_python),
        (PACKAGE.rglob("*.j2"), _of_page),
        (NOTEBOOKS.glob("*.ipynb"), _of_notebook),
    )
    for paths, kind in kinds:
        for path in sorted(paths):
            if "making" in path.parts:
                continue
            for text in kind(path):
                found.setdefault(plain(text), str(path.relative_to(PACKAGE.parent)))
    for text in helps(cli):
        found.setdefault(plain(constant(text)), "neoxlib/__main__.py")
    return found


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help, and each line of one that stays as typed."""
    for part in BLANK.split(text):
        lines = part.replace(AS_TYPED, "").strip("\n").split("\n")
        yield from (LINE.fullmatch(line)[2] for line in lines) if AS_TYPED in part else [part]


def helps(command: click.Command) -> Iterator[str]:
    """The paragraphs and options of a command's help, and of its commands'."""
    yield from paragraphs(inspect.cleandoc(command.help or ""))
    yield from (option.help for option in command.params if getattr(option, "help", None))
    for inner in getattr(command, "commands", {}).values():
        yield from helps(inner)
