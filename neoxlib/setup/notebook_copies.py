"""Copies of the shipped notebooks and presets, to be edited; their prose in a reader's language."""

import re
from pathlib import Path

import nbformat

from neoxlib import languages
from neoxlib.errors import ParameterError
from neoxlib.workbook import arguments

HELP = re.compile(r"(  # )(.+)$", re.MULTILINE)  # of a parameter
LANG = 'lang: str = "{}"'


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the shipped notebooks and presets into `folder`; return the files that were copied.

    A file that is there already stays as it is. In a language other than English, a copy's prose
    and its parameters' help are in it, and so will its reports be. Raises ParameterError if the
    folder cannot be written to.
    """
    copied = []
    for path in (
        *arguments.numbered(arguments.SHIPPED),
        *sorted(arguments.SHIPPED.glob("presets/*.yaml")),
    ):
        to = folder / path.relative_to(arguments.SHIPPED)
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("xb") as file:
                file.write(_spoken(path))
            copied.append(to)
        except FileExistsError:
            if to.parent.is_dir():
                continue
            raise ParameterError(f"{to.parent} is a file; name a folder") from None
        except OSError as error:
            raise ParameterError(f"{to} cannot be written: {error.strerror}") from error
    return copied


def _spoken(path: Path) -> bytes:
    """Return a shipped file's bytes; a notebook's prose is in the language that is spoken."""
    if languages.current() == "en" or path.suffix != ".ipynb":
        return path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            told = HELP.sub(
                lambda found: f"{found[1]}{languages.said_whole(found[2])}", cell.source
            )
            cell.source = told.replace(LANG.format("auto"), LANG.format(languages.current()))
        elif cell.cell_type == "markdown":
            cell.source = languages.said_whole(cell.source)
    return nbformat.writes(notebook).encode()
