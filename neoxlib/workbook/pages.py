"""The pages of runs: `report.html` of one run and `index.html` of all, files that need no network.

Both depend only on the files in the folders: the executed notebook, `results.json` and the logs.
"""

import base64
import hashlib
import os
from datetime import datetime
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import quote

import jinja2
import nbformat
from pygments.formatters import HtmlFormatter

from neoxlib.errors import show_controls
from neoxlib.process import has_ended
from neoxlib.workbook.cells import TEMPLATES, body_of, label, title_of
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.results import NO_RUN, read_results
from neoxlib.workbook.run import shown, write_text
from neoxlib.workbook.table import figure, worded

LOG_LINES = 30
KEY_METRICS = 5
GONE = {"type": "Interrupted", "message": "its process ended without a word: it was killed"}


def write_report(folder: Path) -> Path:
    """Make `report.html` from the run folder's `notebook.ipynb` and `results.json`."""
    run = read_results(folder)
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    title = title_of(notebook, run["notebook"])
    notebook.metadata.pop("widgets", None)
    cells = label(notebook, run)
    body, contents = body_of(notebook, title)
    text = _page(
        "report.html.j2",
        title,
        run=run,
        what=_what(run),
        files=_files(folder),
        logs=_logs(folder),
        contents=contents,
        parameters=_parameters(run),
        body=body,
        cells=cells,
        environment=_flat(run["environment"] | run["model"]),
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


def write_index(root: Path) -> Path:
    """Make `<root>/index.html` from every run folder below it; one that is damaged is "broken"."""
    root.mkdir(parents=True, exist_ok=True)
    folders = [
        folder for folder in root.glob("*/*") if folder.is_dir() and not folder.name.startswith(".")
    ]
    rows = [
        _row(folder)
        for folder in sorted(folders, key=lambda folder: (folder.name, folder), reverse=True)
    ]
    write_text(root / "index.html", _page("index.html.j2", "neoxlib runs", rows=rows))
    return root / "index.html"


def _what(run: dict[str, Any]) -> list[str]:
    """Return the parts of the line that says what ran on what; unknown parts are left out."""
    env = run["environment"]
    asked = run["parameters"]
    model = run["model"]
    ranks = asked.get("world_size")
    size = model.get("parameters")
    parts = [
        shown(asked["model_dir"] or PARAMETERS["model_dir"].stands_for)
        if "model_dir" in asked
        else "",
        f"{size / 1e6:,.1f} M parameters" if isinstance(size, int) else "",
        model.get("dtype"),
        f"{ranks} rank{'s' if ranks != 1 else ''}" if ranks else "",
        f"over {model['backend']}" if model.get("backend", "none") != "none" else "",
        " ".join(str(env[key]) for key in ("device", "cpu") if env.get(key)),
        f"{env['cores']} cores, {env.get('memory_gb')} GB" if env.get("cores") else "",
        f"torch {env['torch']}" if env.get("torch") else "",
        f"{_when(run['started'])} UTC" if _when(run["started"]) else "",
        _took(run["seconds"]),
    ]
    return [str(part) for part in parts if part]


def _parameters(run: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, value in run["parameters"].items():
        param = PARAMETERS.get(name)
        default, meaning = (worded(param.default), param.help) if param else ("", "")
        given = name in run["given"]
        rows.append(
            {
                "name": name,
                "value": worded(value),
                "default": default,
                "given": given,
                "meaning": meaning,
            }
        )
    return rows


def _row(folder: Path) -> dict[str, Any]:
    """Return one line of the index, with links relative to the root."""
    run, note = _run_of(folder)
    failed = [str(check.get("name")) for check in run["checks"] if not check.get("passed")]
    names = ("report.html", "results.json", "notebook.ipynb")
    have = [name for name in names if (folder / name).is_file()]
    links = {name: link(folder.parent.name, folder.name, name) for name in have}
    return {
        "status": run["status"],
        "notebook": run["notebook"],
        "run": run["run"],
        "when": _when(run["started"]),
        "took": _took(run["seconds"]),
        "report": links.pop("report.html", None),
        "files": list(links.items()),
        "given": [(name, worded(run["parameters"].get(name))) for name in run["given"]],
        "note": shorten(note or "; ".join(failed), 160, placeholder=" …"),
        "metrics": [
            (name, figure(value)) for name, value in list(run["metrics"].items())[:KEY_METRICS]
        ],
    }


def _run_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a folder's results, and its error in a few words."""
    try:
        run = read_results(folder)
    except ValueError as damage:
        run = NO_RUN | {"run": folder.name, "notebook": folder.parent.name}
        return run, f"cannot be read: {damage}"
    if run["status"] == "running" and has_ended(run["process"]):
        run |= {"status": "interrupted", "error": GONE}
    error = run["error"] or {}
    return run, ": ".join(str(error[key]) for key in ("type", "message") if key in error)


def link(*parts: str) -> str:
    """Return a file's relative address, with `#`, `?`, `%` and bytes that are not UTF-8 quoted."""
    return "/".join(quote(os.fsencode(part)) for part in parts)


def _files(folder: Path) -> list[tuple[str, str]]:
    """Return the files beside the report, tables last: names with their links."""
    found = ("results.json", "notebook.ipynb", *sorted(path.name for path in folder.glob("*.csv")))
    return [(name, link(name)) for name in found if (folder / name).is_file()]


def _logs(folder: Path) -> list[tuple[str, str]]:
    """Return the end of every log, of ranks and kernel, for the box that says why a run failed."""
    logs = sorted(path for path in folder.glob("logs/*.log") if path.stat().st_size)
    return [
        (path.name, "\n".join(path.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]))
        for path in logs
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        rows += (
            _flat(value, f"{name} ")
            if isinstance(value, dict)
            else [(f"{prefix}{name}", worded(value))]
        )
    return rows


def _when(stamp: Any) -> str:
    try:
        return f"{datetime.fromisoformat(stamp):%Y-%m-%d %H:%M}"
    except (TypeError, ValueError):
        return ""


def _took(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _page(template: str, title: str, **values: Any) -> str:
    script = (TEMPLATES / "toggle.js").read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _templates().get_template(template)
    return page.render(title=title, css=_css(), script=script, script_hash=script_hash, **values)


@cache
def _templates() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        finalize=_seen,
    )
    env.filters |= {"figure": figure, "words": lambda status: str(status).replace("-", " ")}
    return env


def _seen(value: Any) -> Any:
    """Show what cannot be seen in a text; HTML of our own is as it is."""
    return show_controls(value) if type(value) is str else value


@cache
def _css() -> str:
    """Return our style sheet and the colours of the code, in light and dark."""
    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    ours = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{ours}"
