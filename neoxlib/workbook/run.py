"""The run folder: checked parameters, environment, tables, figures, metrics and checks of one run of one notebook.

`results.json` is rewritten, atomically, each time something is added, so that a run that breaks keeps what it had.
"""

import hashlib
import io
import json
import math
import os
import re
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.errors import CheckFailed, ParameterError, unreadable_is
from neoxlib.machine.environment import describe, without_home
from neoxlib.process import at_exit, need_home, this_process
from neoxlib.workbook import parameters
from neoxlib.workbook.table import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


SCHEMA_VERSION = 1


class Params(SimpleNamespace):
    """The resolved parameters as attributes; shown as a table name, value, default or given, meaning."""

    def _table(self) -> Table:
        rows = []
        for name, value in vars(self).items():
            param = parameters.PARAMETERS[name]
            default = parameters.resolve(name, param, param.default)
            rows.append(
                (name, shown(value), "default" if value == default else "given", param.help)
            )
        return Table(("name", "value", "source", "meaning"), rows)

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def __repr__(self) -> str:
        return repr(self._table())


@dataclass(frozen=True)
class Check:
    """One thing that must hold for the run to count, with the figures it was judged by."""

    name: str
    passed: bool
    detail: str = ""

    def __repr__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {self.detail}"


class Run:
    """One run of one notebook. Made by `Run.start`, ended by `finish`; everything it is told lands in its folder."""

    def __init__(self, notebook: str, values: dict[str, Any], folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        table = parameters.PARAMETERS
        self.params = Params(
            **{name: parameters.resolve(name, table[name], value) for name, value in values.items()}
        )
        self._checks: list[Check] = []
        self._started = datetime.now(UTC)
        self.results: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "notebook": notebook,
            "run": folder.name,
            "status": "running",
            "parameters": values,
            "given": [name for name, value in values.items() if value != table[name].default],
            "environment": describe(getattr(self.params, "device", "auto")),
            "model": {},
            "metrics": {},
            "checks": [],
            "files": [],
            "started": stamp(self._started),
            "finished": None,
            "seconds": None,
            "error": None,
            "process": this_process(),
        }
        self._write()

    @classmethod
    def start(cls, notebook: str, namespace: dict[str, Any]) -> "Run":
        """Check the parameters found in `namespace` (the notebook's `globals()`) and open a new run folder.

        Raises:
            ParameterError: with every missing, wrongly typed or impossible parameter.
        """
        _show_frames_as_text()
        need_home()
        takes = parameters.NOTEBOOKS.get(notebook) or [
            name for name in parameters.PARAMETERS if name in namespace
        ]
        missing = [name for name in takes if name not in namespace]
        parameters.refuse([f"{name}: missing in the cell tagged 'parameters'" for name in missing])
        values = {name: namespace[name] for name in takes}
        parameters.refuse(parameters.complaints(values, parameters.PARAMETERS))
        given = os.environ.pop(
            "NEOXLIB_RUN_DIR", None
        )  # a second start in the same kernel is a new run
        if given:
            return cls(notebook, values, Path(given))  # who gave it will end it
        run = cls(notebook, values, new_folder(outputs_root(), notebook, values))
        at_exit(run.leave)
        return run

    @property
    def environment(self) -> dict[str, Any]:
        """What the run runs on: versions, processor, memory, device, the variables that matter; no names of people."""
        return self.results["environment"]

    def describe(self, engine: Any) -> None:
        """Record what `engine.describe()` says of the model, for the report's "what ran" line."""
        about = {
            name: shown(value) if isinstance(value, str) else value
            for name, value in engine.describe().items()
        }
        self._add(model=_plain(about))

    def save(self, name: str, df: "pd.DataFrame") -> "pd.DataFrame":
        """Write `<name>.csv` (UTF-8; the index only where it was named or is not 0, 1, 2 …); returns the frame."""
        from pandas import RangeIndex

        plain_index = isinstance(df.index, RangeIndex) and df.index.name is None
        self.text(f"{name}.csv", df.to_csv(index=not plain_index))
        return df

    def text(self, name: str, text: str) -> None:
        """Write the file `name`, whole: a run that is killed leaves the old file or the new one."""
        write_text(self._file(name), text)

    def figure(self, name: str, fig: "Figure") -> None:
        """Write `figures/<name>.svg`, show it, close it. Text stays text: a reader's fonts hold what ours may not."""
        import matplotlib.pyplot as plt
        from IPython.display import SVG, display

        buffer = io.StringIO()
        with (
            plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            fig.savefig(
                buffer, format="svg", bbox_inches="tight", metadata=dict.fromkeys(_SVG_METADATA)
            )
        plt.close(fig)
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]  # the header before it names a document type on the web
        write_text(self._file(f"figures/{name}.svg"), svg)
        display(SVG(svg))

    def metric(self, name: str, value: float | int | str | bool) -> None:
        """Record one figure; the unit belongs into the name (`next_token_ms`)."""
        self.metrics(**{name: value})

    def metrics(self, **values: Any) -> None:
        """Record several figures at once."""
        self._add(metrics=self.results["metrics"] | _plain(values))

    def check(self, name: str, passed: bool, detail: str = "") -> Check:
        """Record whether something that must hold did hold; `finish` raises where one did not."""
        check = Check(name, bool(passed), str(detail))
        self._checks = [other for other in self._checks if other.name != name] + [check]
        self._add(checks=[asdict(check) for check in self._checks])
        return check

    def stop_if_plan_only(self) -> None:
        """With `plan_only`, finish here: the cells below are not run, which counts as success."""
        if getattr(self.params, "plan_only", False):
            self.stop("Stopped here because of plan_only.")

    def stop(self, why: str) -> NoReturn:
        """Say why, and finish here: the cells below are not run, which counts as success."""
        print(f"{why} The cells below are skipped.")
        self.finish()
        raise SystemExit(0)  # papermill and Jupyter both take this for a clean stop

    def finish(self) -> None:
        """Show the checks, close the results.

        Raises:
            CheckFailed: naming every check that did not hold.
        """
        from IPython.display import display

        failed = [check for check in self._checks if not check.passed]
        self._finish("check-failed" if failed else "ok")
        if self._checks:
            rows = (("PASS" if c.passed else "FAIL", c.name, c.detail) for c in self._checks)
            display(Table(("verdict", "check", "detail"), rows))
        if failed:
            raise CheckFailed("; ".join(f"{check.name}: {check.detail}" for check in failed))

    def leave(self) -> None:
        """Note that this process ends, if it does so in the middle of the run."""
        if self.results["status"] == "running":
            with suppress(OSError):  # a folder that was deleted meanwhile
                self._finish("interrupted")

    def __repr__(self) -> str:
        return f"run {self.results['notebook']}/{self.folder.name}: {self.results['status']}"

    def _finish(self, status: str) -> None:
        now = datetime.now(UTC)
        self._add(
            status=status,
            finished=stamp(now),
            seconds=round((now - self._started).total_seconds(), 3),
        )

    def _file(self, name: str) -> Path:
        """The path of a result file inside the run folder, listed in the results."""
        inside = re.fullmatch(r"[\w./-]+", name) and ".." not in Path(name).parts
        assert inside, f"not a file name: {name!r}"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._add(files=sorted({*self.results["files"], name}))
        return path

    def _add(self, **values: Any) -> None:
        self.results.update(values)
        self._write()

    def _write(self) -> None:
        write_results(self.folder, self.results)


def _show_frames_as_text() -> None:
    """JupyterLab would typeset a $…$ in a data frame's cells."""
    import pandas as pd

    pd.set_option("display.html.use_mathjax", False)


_SVG_METADATA = ("Creator", "Date", "Format", "Type")


def outputs_root() -> Path:
    """`NEOXLIB_OUTPUTS`, else the `outputs` folder of the checkout that we stand in, else one where we stand."""
    if named := os.environ.get("NEOXLIB_OUTPUTS"):
        return Path(named).absolute()
    here = Path.cwd()
    checkouts = (folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir())
    return next(checkouts, here) / "outputs"


@unreadable_is(ParameterError, "written to")
def new_folder(root: Path, notebook: str, values: dict[str, Any]) -> Path:
    """Make `<root>/<notebook>/<utc>-<hash of the parameters>`; a folder that is there already is never reused."""
    digest = hashlib.sha256(
        json.dumps(_plain(values), sort_keys=True, default=str).encode()
    ).hexdigest()[:6]
    stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}"
    for name in (stem, *(f"{stem}-{n}" for n in range(2, 1000))):
        folder = root / notebook / name
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError(f"no free name beside {root / notebook / stem}")


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Replace `results.json` as a whole; numbers that JSON cannot hold (nan, inf) become null."""
    write_text(
        folder / "results.json",
        json.dumps(_plain(results), ensure_ascii=False, indent=1, default=str) + "\n",
    )


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of one."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name may be no text
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)  # of a disk that is full


def _plain(value: Any) -> Any:
    """Python's own numbers, lists and dicts for what came as numpy or torch scalars and tuples."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: Any) -> str:
    """A value as a reader wants it; the shipped folders by what they are, others without the home they lie in."""
    shipped = {str(MODEL_DIR): "shipped model", str(EXAM_DIR): "shipped exam"}
    return "none" if value is None else shipped.get(str(value)) or without_home(str(value))


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
