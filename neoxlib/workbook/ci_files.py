"""What a CI job reads: the exit code, JUnit's XML, one JSON document, and a summary in Markdown.

Exit codes: 0 all went well, 1 a cell failed or a file cannot be written, 2 the parameters cannot be
used, 3 a check failed, 4 a check cannot be judged;
130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP, which end the run as interrupted.
"""

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from neoxlib.errors import show_controls
from neoxlib.languages import said
from neoxlib.workbook.arguments import near
from neoxlib.workbook.past_run import Past
from neoxlib.workbook.run_folder import plain, write_text
from neoxlib.workbook.terminal import checks_told, key_figures, reasons

Runs = Sequence[tuple[dict[str, Any], Path]]  # results and folder of each run
OK = 0
FAILED = 1
BAD_PARAMETERS = 2
CHECK_FAILED = 3
NOT_JUDGED = 4
INTERRUPTED = 130
WORST_FIRST = (INTERRUPTED, BAD_PARAMETERS, FAILED, CHECK_FAILED, NOT_JUDGED, OK)
CODES = {
    "ok": OK,
    "noisy": OK,
    "not-judged": NOT_JUDGED,
    "failed": FAILED,
    "check-failed": CHECK_FAILED,
    "interrupted": INTERRUPTED,
}
REFUSED = ("ParameterError", "SettingsError")  # the request cannot be met
NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")  # beside the control characters
RECORDED = (
    *("notebook", "run", "status", "verdict", "noise", "metrics", "checks", "error"),
    *("started", "seconds"),
)
WENT_WELL = ("ok", "noisy", "check-failed", "not-judged")  # the cells: checks are cases themselves
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its folder and its results, which a full disk may not have taken."""

    folder: Path
    results: dict[str, Any]

    @property
    def code(self) -> int:
        """The exit code."""
        status = self.results["status"]
        refused = status == "failed" and self.results["error"]["type"] in REFUSED
        return BAD_PARAMETERS if refused else CODES[status]


@dataclass(frozen=True)
class Report:
    """The runs of one call below `root`; the signal that broke it off, and what it prevented.

    `came` is None, and `not_run` empty, if there was no signal. `errors` say which files beside
    the runs cannot be written.
    """

    runs: tuple[Ended, ...]
    root: Path
    came: signal.Signals | None
    not_run: tuple[str, ...]
    errors: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """The exit code: the worst of the runs, and 1 for `errors`."""
        codes = {OK, *(run.code for run in self.runs), *(FAILED for _ in self.errors)}
        worst = next(code for code in WORST_FIRST if code in codes)
        return worst if self.came is None else 128 + self.came

    @property
    def index(self) -> Path:
        """The page of all runs below `root`."""
        return self.root / "index.html"


def unwritten(error: OSError, folder: Path) -> str:
    """Say which file cannot be written, by default one of `folder`, and why."""
    file = Path(error.filename2 or error.filename or folder)
    why = error.strerror or error
    return f"{near(file)} cannot be written: {why}"


def record(results: dict[str, Any], folder: Path, code: int) -> dict[str, Any]:
    """Return a run as an object of the JSON document; `report` is None if it has no page."""
    page = folder / "report.html"
    return plain(
        {name: results[name] for name in RECORDED}
        | {"exit_code": code, "folder": str(folder), "report": str(page) if page.exists() else None}
        | {"identity": Past(folder, results).identity}
    )


def junit(runs: Runs) -> str:
    """Return JUnit's XML: a test suite per run; a test case for its cells and for each check.

    A run that broke is an error, a check that failed a failure, one that cannot be judged skipped.
    """
    root = Element("testsuites", name="neoxlib")
    for results, folder in runs:
        root.append(_suite(results, folder))
    _count(root)
    return _xml(root)


def refusal(message: str) -> str:
    """Return JUnit's XML of parameters that were refused, so that nothing ran."""
    root = Element("testsuites", name="neoxlib")
    suite = SubElement(root, "testsuite", name="report", time="0")
    case = SubElement(suite, "testcase", classname="neoxlib.report", name="parameters", time="0")
    problem = SubElement(case, "error", type="ParameterError", message=_first_line(message))
    problem.text = _clean(message)
    for element in (suite, root):
        _count(element)
    return _xml(root)


def _suite(results: dict[str, Any], folder: Path) -> Element:
    seconds = results["seconds"] if isinstance(results["seconds"], (int, float)) else 0
    about = {"name": results["notebook"], "time": f"{seconds:.3f}"}
    about |= {"timestamp": str(results["started"])} if results["started"] else {}
    suite = Element("testsuite", {name: _clean(value) for name, value in about.items()})
    properties = SubElement(suite, "properties")
    facts = {"run": results["run"], "status": results["status"]}
    page = folder / "report.html"
    facts |= {"report": near(page)} if page.exists() else {}
    for name, value in (facts | results["metrics"]).items():
        SubElement(properties, "property", name=_clean(name), value=_clean(value))
    _case(suite, results, "run", f"{seconds:.3f}")
    for check in results["checks"]:
        case = _case(suite, results, str(check.get("name")), "0")
        passed = check.get("passed")
        if passed is not True:
            kind = "skipped" if passed is None else "failure"
            SubElement(case, kind, message=_clean(check.get("detail")))
    if results["status"] not in WENT_WELL:
        error = results["error"] or {"type": results["status"], "message": "the run did not end"}
        about = {"type": str(error.get("type")), "message": _first_line(error.get("message"))}
        problem = SubElement(suite.find("testcase"), "error", about)
        problem.text = _clean("\n".join(reasons(results, folder)))
    SubElement(suite, "system-out").text = _clean("\n".join(_words(results)))
    _count(suite)
    return suite


def _words(results: dict[str, Any]) -> list[str]:
    """Return a run's answer, and why it is not to be trusted where that is known."""
    return [*filter(None, [results["verdict"]]), *(f"noisy: {why}" for why in results["noise"])]


def _case(suite: Element, results: dict[str, Any], name: str, seconds: str) -> Element:
    place = _clean(f"neoxlib.{results['notebook']}")
    return SubElement(suite, "testcase", classname=place, name=_clean(name), time=seconds)


def _count(element: Element) -> None:
    """Add the numbers of test cases and of their ends below an element."""
    counted = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for name, tag in counted.items():
        if (element.tag, name) != ("testsuites", "skipped"):  # which Jenkins' schema does not have
            element.set(name, str(len(element.findall(f".//{tag}"))))


def _clean(value: Any) -> str:
    """Return a text that XML can hold."""
    return NOT_XML.sub("\ufffd", show_controls(str(value)))


def _first_line(message: Any) -> str:
    return _clean(next(iter(str(message).splitlines()), ""))


def _xml(root: Element) -> str:
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def write_summary(root: Path, runs: Runs, not_run: Sequence[str] = ()) -> Path:
    """Write `<root>/summary.md`, for the page of a CI job: a row per run, and what failed."""
    write_text(root / "summary.md", summary(runs, not_run))
    return root / "summary.md"


def summary(runs: Runs, not_run: Sequence[str] = ()) -> str:
    """Return the runs as a table in Markdown; no text of a run can be markup there.

    `not_run` names notebooks that were asked for and did not start. It is in the language that is
    spoken, but for a run's own texts that the catalogue does not have.
    """
    well = sum(results["status"] in ("ok", "noisy") for results, _ in runs)
    head = said(f"## neoxlib: {well} of {len(runs) + len(not_run)} notebooks went well")
    names = ("notebook", "status", "answer", "key figures", "checks", "ran on", "took")
    heads = tuple(map(said, names))
    rows = [heads, ("---",) * len(names), *(_row(results, folder) for results, folder in runs)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    rest = [f"\n- {said('not run')}: {', '.join(map(literal, not_run))}"] if not_run else []
    return "\n".join([head, "", *table, *_failures(runs), *rest]) + "\n"


def _row(results: dict[str, Any], folder: Path) -> tuple[str, ...]:
    passed = [check.get("passed") for check in results["checks"]]
    identity = Past(folder, results).identity
    ranks = f"{identity['ranks']} ranks" if identity["ranks"] else ""
    on = (identity["model"], identity["dtype"], ranks, identity["chip"])
    seconds = results["seconds"]
    cells = (
        results["notebook"],
        str(results["status"]).replace("-", " "),
        "; ".join(_words(results)),
        key_figures(results),
        f"{passed.count(True)} of {len(passed)} passed" if passed else "",
        ", ".join(map(str, filter(None, on))),
        f"{seconds:.0f} s" if isinstance(seconds, (int, float)) else "",
    )
    return (literal(cells[0]), *(literal(said(cell)) for cell in cells[1:]))


def _failures(runs: Runs) -> Iterable[str]:
    """Yield a list of what failed or cannot be judged."""
    for results, _ in runs:
        error = results["error"] or {}
        told = [f"{error.get('type')}: {_first_line(error.get('message'))}"] if error else []
        for line in (*told, *checks_told(results)):
            yield f"\n- **{literal(results['notebook'])}**: {literal(said(line))}"


def literal(text: Any) -> str:
    """Return a text as one line of Markdown that shows it as it is."""
    return MARKDOWN.sub(r"\\\1", _clean(" ".join(str(text).split())))
