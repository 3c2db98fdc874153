"""A run of JupyterLab as a notebook: the code and outputs of its own cells, and of no others.

The kernel hears what it publishes, as JupyterLab does. So outputs of an earlier run, and changes
that were not saved, make no difference: only the texts between the cells are those last saved.
"""

import json
import logging
import os
import re
import threading
import time
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from ipykernel.connect import get_connection_file
from IPython import get_ipython
from IPython.display import display
from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete

from neoxlib.errors import show_controls
from neoxlib.languages import of_run
from neoxlib.languages.in_kernel import as_written, speak
from neoxlib.workbook import markup
from neoxlib.workbook.cells import read_notebook
from neoxlib.workbook.run_folder import stamp, write_text
from neoxlib.workbook.table import Note

log = logging.getLogger("neoxlib")

Cell = nbformat.NotebookNode
Message = dict[str, Any]
WIDGET = "application/vnd.jupyter.widget-view+json"
PATIENCE = 5.0  # seconds to wait for messages that are on their way
OFTEN = 2.0  # seconds between two files of a cell that goes on
MADE_WITH = (
    "Code and outputs are those of this run; the texts are those of {0} as saved at {1} UTC."
)
BROKE = "The cells of this run were recorded no longer from then on: {}."
MADE_WITHOUT = "Code and outputs are those of this run; its notebook was not found, nor its texts."


def begin(folder: Path, asked: dict[str, Any]) -> "Recorder | None":
    """Record the run of `folder` from the cell on that runs now; None where that is impossible.

    The kernel's cells are shown in the language that the parameters `asked` for from then on.
    """
    try:
        speak(of_run(asked))
        return Recorder(folder)
    except Exception as error:  # a page is not worth a run
        log.warning("the cells of this run are not recorded: %s", error)
        return None


class Recorder:
    """Keeps `notebook.ipynb` of a run's folder: what its cells are, what they showed.

    nbclient applies the kernel's messages to the cells, in the order in which these first ran.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = NotebookClient(nbformat.v4.new_notebook(), record_timing=False)
        self.places: dict[str, int] = {}  # of a cell, by its id
        self.parents: dict[str, int] = {}  # of a cell, by the request that runs it
        self.lock = threading.Lock()
        self.ready, self.heard, self.over = (threading.Event() for _ in range(3))
        self.marker = ""  # the display that `heard` waits for
        self.written = 0.0
        self.changed = self.closed = False
        self.broke = ""  # why nothing is recorded any more
        self.source, self.saved = _last_saved()
        self.shell = get_ipython()
        self._begin(self.shell.user_ns["In"][-1], self.shell.kernel.get_parent())
        self.shell.events.register("pre_run_cell", self._on_cell)
        threading.Thread(target=self._listen, name="recorder", daemon=True).start()
        self.ready.wait(PATIENCE)

    @property
    def made(self) -> str:
        """What the notebook is made of, in words."""
        return f"{self.source} {self.broke}".strip()

    def stop(self) -> None:
        """Record no more: another run begins."""
        self.shell.events.unregister("pre_run_cell", self._on_cell)
        self.over.set()

    def wait_for(self, display_id: str) -> None:
        """Wait until all is recorded that was published up to a display, but not for ever."""
        self.marker = display_id
        self.heard.wait(PATIENCE)

    def write(self) -> None:
        """Write the notebook as it is now."""
        with self.lock:
            self.changed = False
            self.written = time.monotonic()
            text = nbformat.writes(self._composed())
        write_text(self.folder / "notebook.ipynb", text + "\n")

    def close(self) -> None:
        """Take the texts as they are saved now, write the notebook, and write no more by itself."""
        self.source, self.saved = _last_saved()
        self.write()
        self.closed = True

    def _on_cell(self, info: Any) -> None:
        if not info.silent:
            self._begin(info.raw_cell, self.shell.kernel.get_parent())

    def _begin(self, source: str, parent: Message) -> None:
        """Begin the record of a cell that the kernel is about to run, or of the one that runs."""
        request = parent["header"]["msg_id"]
        name = (parent.get("metadata") or {}).get("cellId") or request
        started = {"status": "running", "start_time": stamp(datetime.now(UTC)), "duration": None}
        with self.lock:
            cells = self.client.nb.cells
            place = self.places.setdefault(name, len(cells))
            about = {"id": re.sub(r"[^\w-]", "-", name)[:64], "metadata": {"papermill": started}}
            made = nbformat.v4.new_code_cell(source, **about)
            made.execution_count = self.shell.execution_count
            cells[place : place + 1] = [nbformat.from_dict(made)]
            self.client.clear_display_id_mapping(place)
            self.client.clear_before_next_output = False
            self.parents[request] = place
            self.changed = True

    def _listen(self) -> None:
        client = BlockingKernelClient(connection_file=get_connection_file())
        client.load_connection_file()
        socket = client.connect_iopub()
        try:
            while not self.over.is_set():
                if socket.poll(200):
                    self._take(client.session.recv(socket)[1])
                if self.changed and not self.closed and time.monotonic() > self.written + OFTEN:
                    self.write()
        except Exception as error:  # a full disk, a folder that was deleted: the run goes on
            self.broke = BROKE.format(error)
            log.warning(self.broke)
        finally:
            socket.close(0)

    def _take(self, message: Message) -> None:
        kind, content = message["msg_type"], message["content"]
        self.ready.set()
        place = self.parents.get(message["parent_header"].get("msg_id"))
        if kind == "update_display_data" and place is None:
            place = 0  # of a thread: it is applied wherever that display is
        if place is None or kind.startswith("comm"):
            return
        with self.lock:
            self._apply(message, place)
        if kind == "status" and content["execution_state"] == "idle" and not self.closed:
            self.write()
        if self.marker and (content.get("transient") or {}).get("display_id") == self.marker:
            self.heard.set()

    def _apply(self, message: Message, place: int) -> None:
        cell = self.client.nb.cells[place]
        about = cell.metadata.papermill
        try:
            self.client.process_message(message, cell, place)
        except CellExecutionComplete:
            begun = datetime.fromisoformat(about.start_time)
            about.duration = (datetime.now(UTC) - begun).total_seconds()
            about.status = "failed" if _errors(cell) else "completed"
        self.changed = self.changed or message["msg_type"] != "status"

    def _composed(self) -> nbformat.NotebookNode:
        """The saved notebook with the cells of this run in their places, and those without one
        behind the cell that ran before them.
        """
        book = deepcopy(self.saved)
        book.metadata["neoxlib"] = {"made": self.made}
        _mark_earlier(book.cells, self.shell.user_ns["In"], self.client.nb.cells[0].id)
        behind = len(book.cells)
        for cell in self.client.nb.cells:
            ids = [other.get("id") for other in book.cells]
            shown = _shown(deepcopy(cell))
            if cell.id in ids:
                behind = ids.index(cell.id)
                shown.metadata.update({**book.cells[behind].metadata, **cell.metadata})
                book.cells[behind] = shown
            else:
                book.cells.insert(behind + 1, shown)
                behind += 1
        return book


def _last_saved() -> tuple[str, nbformat.NotebookNode]:
    """Return a sentence about the notebook that this kernel runs, and it, without its outputs."""
    path = Path.cwd() / os.environ.get("JPY_SESSION_NAME", "")
    try:
        book = read_notebook(path) if path.is_file() else None
    except ValueError:
        book = None
    if book is None:
        return MADE_WITHOUT, nbformat.v4.new_notebook()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("papermill", None)
    moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return MADE_WITH.format(path.name, f"{moment:%Y-%m-%d %H:%M}"), book


def _mark_earlier(cells: list[Cell], ran: list[str], first: str) -> None:
    """Number the cells above the run's first that this kernel ran as they are saved."""
    for cell in cells:
        if cell.get("id") == first:
            return
        if cell.cell_type == "code" and cell.source in ran:
            cell.execution_count = len(ran) - 1 - ran[::-1].index(cell.source)


def _shown(cell: Cell) -> Cell:
    """Return a cell with what can be shown without a kernel, its streams each in one piece."""
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor  # slow to import

    for output in cell.outputs:
        if "data" in output:
            output.data = as_written(output.data)
    cell.outputs = [
        output
        for output in cell.outputs
        if WIDGET not in output.get("data", {}) or "text/html" in output.data
    ]
    return CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)[0]


def _errors(cell: Cell) -> list[Cell]:
    return [output for output in cell.outputs if output.output_type == "error"]


class Link(Note):
    """A sentence that leads to a page: a link where JupyterLab's server has it."""

    page = Path()

    def _repr_html_(self) -> str:
        address = served(self.page)
        if not address:
            return markup.paragraph(self)
        name = markup.text(self.page.name)
        link = f'<a href="{markup.text(address)}" target="_blank">{name}</a>'
        return markup.block(f"<p>{link}: {markup.text(self)}</p>")


def served(page: Path) -> str:
    """Return the address of a file as seen from the notebook; "" if the server does not show it."""
    pid = os.environ.get("JPY_PARENT_PID", "")
    try:
        told = Path(jupyter_runtime_dir(), f"jpserver-{pid}.json").read_text(encoding="utf-8")
        root = Path(json.loads(told)["root_dir"]).resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    inside = page.resolve().is_relative_to(root) and Path.cwd().resolve().is_relative_to(root)
    return quote(os.path.relpath(page.resolve(), Path.cwd().resolve())) if inside else ""


def publish(recorder: Recorder) -> None:
    """Make the report of a run that has ended and the index of all, and show where they are.

    Whatever prevents it is said; the run keeps what it has.
    """
    from neoxlib.workbook import pages  # slow to import

    folder = recorder.folder
    shown = display(Note("Making report.html …"), display_id=True)
    recorder.wait_for(shown.display_id)
    try:
        recorder.close()
        link = Link(f"the report of this run, in {show_controls(str(folder))}. {recorder.made}")
        link.page = pages.write_report(folder)
        pages.write_index(folder.parent.parent, reports=False)  # as quick as can be
        shown.update(link)
    except Exception as error:  # the results are on disk; this is only their page
        again = f"python -m neoxlib report --from {folder}"
        shown.update(Note(f"report.html was not made ({error}); to make it: {again}"))
