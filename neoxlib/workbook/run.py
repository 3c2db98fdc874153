"""The run of a notebook: its parameters, environment, tables, figures, metrics and checks.

`results.json` is rewritten atomically whenever something is added, so a run that breaks keeps what
it had.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from neoxlib.errors import CheckFailed
from neoxlib.machine.environment import describe
from neoxlib.process import at_exit, need_home, this_process
from neoxlib.workbook import parameter_table, parameters
from neoxlib.workbook.progress import in_notebook, keep_off_stderr
from neoxlib.workbook.resolved import Params, shown
from neoxlib.workbook.results import Check, last_cell, status_of
from neoxlib.workbook.run_folder import (
    Heartbeat,
    csv_text,
    new_folder,
    outputs_root,
    plain,
    stamp,
    svg_text,
    write_results,
    write_text,
)
from neoxlib.workbook.table import Note, Table, show_frames

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from neoxlib.workbook.recorder import Recorder

SCHEMA_VERSION = 1
SESSION = (  # parameters that Session takes
    "world_size",
    "dtype",
    "device",
    "quant",
    "max_seq_len",
    "cluster_profile",
    "deterministic",
    "graph",
    "replicas",
)


class Describable(Protocol):
    """A loaded model: neoxlib's Engine or Session."""

    def describe(self) -> dict[str, Any]:
        """Describe which model is loaded, where and how."""


Opened = TypeVar("Opened", bound=Describable)


class Run:
    """One run of one notebook: opened by `Run.start`, closed by `finish`, kept in its folder."""

    recorded: "Recorder | None" = None  # the cells of the run that this kernel does now
    current: "Run | None" = None

    def __init__(self, notebook: str, values: dict[str, Any], folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        table = parameter_table.PARAMETERS
        self.params = Params(
            **{name: parameters.resolve(name, table[name], value) for name, value in values.items()}
        )
        self._checks: list[Check] = []
        self._started = datetime.now(UTC)
        self.results = self._first_results(notebook, values)
        self._write()
        self._heartbeat = Heartbeat(folder)

    def _first_results(self, notebook: str, values: dict[str, Any]) -> dict[str, Any]:
        table = parameter_table.PARAMETERS
        return {
            "schema_version": SCHEMA_VERSION,
            "notebook": notebook,
            "run": self.folder.name,
            "status": "running",
            "parameters": values,
            "given": [name for name, value in values.items() if value != table[name].default],
            "environment": describe(getattr(self.params, "device", "auto")),
            "model": {},
            "verdict": "",
            "noise": [],
            "metrics": {},
            "checks": [],
            "files": [],
            "started": stamp(self._started),
            "finished": None,
            "seconds": None,
            "error": None,
            "process": this_process(),
        }

    @classmethod
    def start(cls, notebook: str, namespace: dict[str, Any]) -> "Run":
        """Check the parameters in `namespace` (a notebook's `globals()`) and open a new run folder.

        Raises:
            ParameterError: with every missing, wrongly typed or impossible parameter.
        """
        keep_off_stderr()
        show_frames()
        need_home()
        takes = parameter_table.NOTEBOOKS.get(notebook) or [
            name for name in parameter_table.PARAMETERS if name in namespace
        ]
        missing = [name for name in takes if name not in namespace]
        parameters.refuse([f"{name}: missing in the cell tagged 'parameters'" for name in missing])
        table = parameter_table.PARAMETERS
        values = {name: parameters.placed(name, table[name], namespace[name]) for name in takes}
        parameters.refuse(parameters.complaints(values, parameter_table.PARAMETERS))
        # Taken once: a second start in the same kernel is a new run.
        if given := os.environ.pop("NEOXLIB_RUN_DIR", None):
            return cls(notebook, values, Path(given))  # the process that set it ends the run
        run = cls(notebook, values, new_folder(outputs_root(), notebook, values))
        at_exit(run.leave)
        if in_notebook():
            run._record()
        return run

    def _record(self) -> None:
        """Record the cells of this run from now on; the one before it in this kernel has ended."""
        from neoxlib.workbook import recorder

        if Run.current is not None:
            Run.current.leave("another run was started in its place")
        if Run.recorded is not None:
            Run.recorded.stop()
        Run.current, Run.recorded = self, recorder.begin(self.folder, self.results["parameters"])

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, processor, memory, device and the variables that matter; no names of people."""
        return self.results["environment"]

    def session(
        self, kind: Callable[..., Opened], model_dir: str | os.PathLike[str] | None = None
    ) -> Opened:
        """Open `kind`, which is neoxlib.Session, by this run's parameters, and record what it runs.

        `model_dir` replaces the parameter of this name.
        """
        given = {name: value for name, value in vars(self.params).items() if name in SESSION}
        folder = self.params.model_dir if model_dir is None else model_dir
        opened = kind(folder, log_dir=self.logs, **given)
        self.describe(opened)
        return opened

    def describe(self, engine: Describable) -> None:
        """Record `engine.describe()`, for the report's line about the model."""
        about = {
            name: shown(value) if isinstance(value, str) else value
            for name, value in engine.describe().items()
        }
        self._add(model=plain(about))

    def save(self, name: str, df: "pd.DataFrame") -> "pd.DataFrame":
        """Write `<name>.csv` in UTF-8 and return the frame.

        The index is written if it has a name or is not 0, 1, 2 …
        """
        from pandas import RangeIndex

        plain_index = isinstance(df.index, RangeIndex) and df.index.name is None
        self.text(f"{name}.csv", csv_text(df, index=not plain_index))
        return df

    def text(self, name: str, text: str) -> None:
        """Write the file `name` atomically."""
        write_text(self._file(name), text)

    def figure(self, name: str, fig: "Figure", alt: str = "") -> None:
        """Write `figures/<name>.svg`, show it and close it.

        `alt` says in words what it shows, for who cannot see it; by default the titles of its axes
        do. Text stays text: a reader's fonts may have characters that this machine's do not.
        """
        from IPython.display import SVG, display

        svg = svg_text(name, fig, alt)
        write_text(self._file(f"figures/{name}.svg"), svg)
        display(SVG(svg))

    def metric(self, name: str, value: float | int | str | bool) -> None:
        """Record one figure; its name ends in the unit (`next_token_ms`)."""
        self.metrics(**{name: value})

    def metrics(self, **values: Any) -> None:
        """Record several figures at once."""
        self._add(metrics=self.results["metrics"] | plain(values))

    def verdict(self, sentence: str) -> Note:
        """Record and show the sentence that answers the notebook's question."""
        self._add(verdict=str(sentence))
        return Note(sentence)

    def noisy(self, why: str) -> None:
        """Record, in a sentence with its figures, why the times of this run are not to be trusted.

        Such a run ends as "noisy" instead of "ok".
        """
        self._add(noise=list(dict.fromkeys([*self.results["noise"], why])))

    def check(self, name: str, passed: bool | None, detail: str = "") -> Check:
        """Record whether a condition holds; None says that it cannot be judged.

        `finish` raises if a condition does not hold.
        """
        check = Check(name, None if passed is None else bool(passed), str(detail))
        self._checks = [other for other in self._checks if other.name != name] + [check]
        self._add(checks=[asdict(check) for check in self._checks])
        return check

    def stop_if_plan_only(self) -> None:
        """With `plan_only`, end the run here, as a success."""
        if getattr(self.params, "plan_only", False):
            self.stop("Stopped here because of plan_only.")

    def stop_if_failed(self) -> None:
        """End the run here if a check has failed so far, as `finish` does."""
        if any(check.passed is False for check in self._checks):
            self.finish()

    def stop(self, why: str) -> NoReturn:
        """Say why, and end the run here, as a success. The cells below do not run."""
        print(f"{why} The cells below are skipped.")
        self._add(verdict=self.results["verdict"] or why)
        self.finish()
        raise SystemExit(0)  # a clean stop for papermill and for Jupyter

    def finish(self) -> None:
        """Show the checks, close the results, and in JupyterLab make the report and link it.

        Raises:
            CheckFailed: with every check that failed.
        """
        from IPython.display import display

        failed = [check for check in self._checks if check.passed is False]
        self._finish(status_of(self._checks, self.results["noise"]))
        if self._checks:
            rows = ((check.word, check.name, check.detail) for check in self._checks)
            display(Table(("verdict", "check", "detail"), rows))
        if self is Run.current and Run.recorded is not None:
            from neoxlib.workbook import recorder

            recorder.publish(Run.recorded)
        if failed:
            raise CheckFailed("; ".join(f"{check.name}: {check.detail}" for check in failed))

    def leave(self, why: str = "its process ended before the last cell") -> None:
        """Record that the run ends before `finish`, and in which cell."""
        if self.results["status"] == "running":
            with suppress(OSError):  # a folder that was deleted meanwhile
                error = {"type": "Interrupted", "message": why} | last_cell(self.folder)
                self.results["error"] = error | {"at": stamp(datetime.now(UTC))}
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
        self._heartbeat.stop()

    def _file(self, name: str) -> Path:
        """Return the path of a result file in the run folder, and list it in the results."""
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
