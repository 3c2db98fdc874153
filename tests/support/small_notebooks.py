"""Small notebooks that end in every way."""

import nbformat
from nbformat import v4


def write(folder, name, *sources):
    """A notebook of markdown (starting with #) and code cells; the first code cell declares the
    parameters.
    """
    cells = [v4.new_markdown_cell(s) if s.startswith("#") else v4.new_code_cell(s) for s in sources]
    next(cell for cell in cells if cell.cell_type == "code").metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return str(path)


def start(name):
    return f'from neoxlib.workbook.run import Run\nrun = Run.start("{name}", globals())\nrun.params'
