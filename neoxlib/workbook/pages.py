"""The pages of runs: `report.html` of one run and `index.html` of all, files that need no network.

Both depend only on the files in the folders: the executed notebook, `results.json` and the logs.
"""

import base64
import hashlib
import logging
import os
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import quote

import jinja2
from pygments.formatters import HtmlFormatter

from neoxlib import languages
from neoxlib.errors import show_controls
from neoxlib.workbook import front, metrics, past_run
from neoxlib.workbook.cells import TEMPLATES, label, notebook_of, title_of
from neoxlib.workbook.parameter_table import PARAMETERS
from neoxlib.workbook.report_body import sections
from neoxlib.workbook.results import NO_RUN, log_ends
from neoxlib.workbook.results import read_run as read_whole
from neoxlib.workbook.run_folder import write_text
from neoxlib.workbook.table import flat, worded

log = logging.getLogger("neoxlib")
MOST_MADE = 20  # reports of runs that broke off that are made with one index
MOST_RUNS = 2000  # lines of the index; older runs are counted
SAME = "parity_of_limit"
ANSWERS = {  # question on top of the index -> the metrics that answer it, the first known one
    "right?": ("accuracy",),
    "fast?": ("longest_tokens_per_second", "next_token_ms"),
    "same as the reference?": (SAME,),
}
FAILURES = ("failed", "check-failed", "interrupted")


def write_report(folder: Path) -> Path:
    """Make `report.html` from the run folder's `notebook.ipynb` and `results.json`."""
    run = read_whole(folder)
    with languages.speaking(languages.of_run(run["parameters"])):
        return _write_report(folder, run)


def _write_report(folder: Path, run: dict[str, Any]) -> Path:
    notebook = notebook_of(folder)
    title = title_of(notebook, run["notebook"])
    notebook.metadata.pop("widgets", None)
    made = str(notebook.metadata.get("neoxlib", {}).get("made", ""))
    cells = label(notebook, run)
    parts = sections(notebook, run, title)
    here = {f"cell-{cell['number']}" for cell in cells}
    here = {anchor for anchor in here if any(f'id="{anchor}"' in part.body for part in parts)}
    text = _page(
        "report.html.j2",
        title,
        "report.js",
        **_first_screen(folder, run, title),
        run=run,
        files=_files(folder),
        logs=log_ends(folder),
        sections=parts,
        made=made,
        parameters=_parameters(run),
        figures=front.other_figures(run),
        cells=[cell | {"here": f"cell-{cell['number']}" in here} for cell in cells],
        environment=flat(run["environment"] | run["model"]),
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


def write_index(root: Path, reports: bool = True) -> Path:
    """Make `<root>/index.html` from every run folder below it; one that is damaged is "broken".

    With `reports` also those of runs that broke off and could make none.
    """
    root.mkdir(parents=True, exist_ok=True)
    folders = [
        folder for folder in root.glob("*/*") if folder.is_dir() and not folder.name.startswith(".")
    ]
    folders.sort(key=lambda folder: (folder.name, folder), reverse=True)
    listed = folders[:MOST_RUNS]
    runs = [read_run(folder) for folder in listed]
    if reports:
        _report_broken(listed, runs)
    history = past_run.histories(runs)
    rows = [_row(*found) for found in zip(listed, runs, history, strict=True)]
    text = _page(
        "index.html.j2",
        "neoxlib runs",
        "index.js",
        rows=rows,
        more=len(folders) - len(listed),
        answers=_answers(rows, runs, history),
    )
    write_text(root / "index.html", text)
    return root / "index.html"


def _report_broken(folders: list[Path], runs: list[dict[str, Any]]) -> None:
    """Make the reports that runs which broke off could not make."""
    broken = (f for f, run in zip(folders, runs, strict=True) if run["status"] == "interrupted")
    lacking = [folder for folder in broken if not (folder / "report.html").exists()]
    for folder in lacking[:MOST_MADE]:
        try:
            write_report(folder)
        except Exception as error:  # the index has a line of it in any case
            log.warning("no report of %s: %s", folder, error)


def read_run(folder: Path) -> dict[str, Any]:
    """Return a folder's results; damaged ones are an error."""
    try:
        return read_whole(folder)
    except ValueError as damage:
        error = {"type": "cannot be read", "message": str(damage)}
        return NO_RUN | {"run": folder.name, "notebook": folder.parent.name, "error": error}


def _row(folder: Path, run: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the index, with links relative to the root."""
    colour, word = front.state(run)
    given = [name for name in run["given"] if name != "model_dir"]
    lasted = front.took(run["seconds"])
    about = {
        "status": run["status"],
        "colour": colour,
        "word": word,
        "notebook": run["notebook"],
        "run": run["run"],
        "place": f"{folder.parent.name}/{folder.name}",
        "when": front.when(run["started"]),
        "took": lasted,
        "seconds": run["seconds"] if lasted else 0,
        "model": " · ".join(front.model(run, short=True)),
        "given": [(name, _short(worded(run["parameters"].get(name)), 60)) for name in given],
        "said": _short(languages.said(front.in_two(front.verdict(run))[0]), 160),
    }
    return about | _first_figure(run, earlier) | _links(folder)


def _first_figure(run: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a run's first key figure, and its change since the comparable run before."""
    names = front.key_names(run)[:1]
    if not names:
        return {"figures": [], "change": "", "way": ""}
    value = _short(metrics.shown(names[0], run["metrics"][names[0]]), 40)
    lately = past_run.trend(names[0], [*earlier, run])
    return {
        "figures": [(metrics.label(names[0]), value)],
        "change": lately.change,
        "way": lately.way,
    }


def _links(folder: Path) -> dict[str, Any]:
    """Return the link to a run's report, or, if it has none, to its other files."""
    names = ("report.html", "results.json", "notebook.ipynb")
    have = [name for name in names if (folder / name).is_file()]
    links = {name: link(folder.parent.name, folder.name, name) for name in have}
    report = links.pop("report.html", "")
    return {"report": report, "files": [] if report else list(links.items())}


def _answers(
    rows: list[dict[str, Any]], runs: list[dict[str, Any]], history: list[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the cards on top of the index: right, fast, same as the reference, last failure."""
    found = []
    for question, names in ANSWERS.items():
        knowing = ((name, n) for name in names for n, run in enumerate(runs) if _says(name, run))
        name, place = next(knowing, ("", None))
        card = {"question": question, "row": None if place is None else rows[place]}
        if place is not None:
            card |= _answer(name, runs[place], history[place])
        found.append(card)
    bad = next((row for row in rows if row["status"] in FAILURES), None)
    return [*found, {"question": "last failure", "row": bad}]


def _answer(name: str, run: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a card's value, with its trend over the comparable runs."""
    lately = past_run.trend(name, [*earlier, run])
    value, unit = metrics.parts(name, run["metrics"][name])
    noisy = " (noisy)" if any(run["noise"]) and metrics.timed(name) else ""
    card = {"value": value, "unit": unit, "label": metrics.label(name) + noisy}
    card |= {"bars": front.bars(name, lately.values), "change": lately.change}
    return card | (_as_yes(run, f"{value} {unit}") if name == SAME else {})


def _says(name: str, run: dict[str, Any]) -> bool:
    """Whether a finished run has a metric as a number.

    Of a run whose checks failed only the comparison with the reference counts.
    """
    counts = run["status"] != "check-failed" or name == SAME
    known = past_run.is_number(run["metrics"].get(name))
    return known and counts and run["status"] in past_run.FINISHED


def _as_yes(run: dict[str, Any], error: str) -> dict[str, str]:
    """Return the answer to whether a run's model is its reference: yes or no, and the error."""
    share = run["metrics"][SAME]
    return {"value": "yes" if share <= 1 else "no", "unit": "", "label": f"error {error} of limit"}


def _short(text: str, most: int) -> str:
    # Chinese has no blanks to cut at.
    return shorten(text, most, placeholder=" …") if text.isascii() else text[:most]


def _first_screen(folder: Path, run: dict[str, Any], title: str) -> dict[str, Any]:
    earlier = past_run.before(folder, run)
    _, dash, question = title.partition(" — ")
    said, rest = map(front.held, front.in_two(front.verdict(run)))
    last = earlier[-1] if earlier else None
    return {
        "part": languages.said_whole(title).partition(" — ")[0] if dash else run["notebook"],
        "question": question[:1].upper() + question[1:] if dash else title,
        "what": [*front.model(run), *front.place(run)],
        "when": front.when(run["started"]),
        "took": front.took(run["seconds"]),
        "state": front.state(run),
        "said": said,
        "rest": rest,
        "cards": front.cards(run, [past.results for past in earlier]),
        "checks": front.checks(run),
        "previous": link("..", last.folder.name, "report.html")
        if last and (last.folder / "report.html").is_file()
        else "",
        "compare": f"-p run_a {last.name} -p run_b {run['notebook']}/{folder.name}"
        if last and run["notebook"] != "05_compare"
        else "",
    }


def _parameters(run: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, value in run["parameters"].items():
        param = PARAMETERS.get(name)
        default, meaning = (worded(param.default), param.help) if param else ("", "")
        given = name in run["given"]
        told = {"value": worded(value), "default": default, "given": given, "meaning": meaning}
        rows.append({"name": name} | told)
    return rows


def link(*parts: str) -> str:
    """Return a file's relative address, with `#`, `?`, `%` and bytes that are not UTF-8 quoted."""
    return "/".join(quote(os.fsencode(part)) for part in parts)


def _files(folder: Path) -> list[tuple[str, str]]:
    """Return the files beside the report, tables last: names with their links."""
    found = ("results.json", "notebook.ipynb", *sorted(path.name for path in folder.glob("*.csv")))
    return [(name, link(name)) for name in found if (folder / name).is_file()]


def _page(template: str, title: str, script: str, **values: Any) -> str:
    code = (TEMPLATES / script).read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = _templates().get_template(template)
    made = page.render(title=title, css=_css(), script=code, script_hash=script_hash, **values)
    return languages.page(made)


@cache
def _templates() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        finalize=_seen,
    )
    env.filters |= {"clean": lambda text: show_controls(str(text)), "said": languages.said}
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
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{ours}"
