"""Folders of runs: where they are made, how files are written into them, and a sign of life."""

import hashlib
import io
import json
import math
import os
import re
import threading
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.colours import in_both_schemes
from neoxlib.errors import ParameterError, show_controls, unreadable_is
from neoxlib.files import replace
from neoxlib.redact import scrub
from neoxlib.workbook import markup

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LARGEST_LOG = 64 << 20  # bytes of a log that is read to be cleaned


def outputs_root() -> Path:
    """Return the folder of all runs.

    That is NEOXLIB_OUTPUTS, else `outputs` in the checkout around the working directory, else
    `outputs` in the working directory.
    """
    if named := os.environ.get("NEOXLIB_OUTPUTS"):
        return Path(named).absolute()
    here = Path.cwd()
    checkouts = (folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir())
    return next(checkouts, here) / "outputs"


@unreadable_is(ParameterError, "written to")
def new_folder(root: Path, notebook: str, values: dict[str, Any]) -> Path:
    """Make `<root>/<notebook>/<utc>-<hash of the parameters>`, always a new folder."""
    text = json.dumps(plain(values), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
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
    """Replace `results.json` atomically; nan and inf, which JSON does not have, become null."""
    text = json.dumps(plain(results), ensure_ascii=False, indent=1, default=str)
    write_text(folder / "results.json", text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8: a reader sees the old text or the new one, never a part.

    Secrets of the environment and the home folder are left out: others read it. OSError names the
    file, also where the disk is full.
    """
    # The text may hold file names, which need not be UTF-8.
    data = scrub(text).encode("utf-8", "backslashreplace")
    try:
        replace(path, data, f".{os.getpid()}.part")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def scrub_logs(folder: Path) -> None:
    """Do the same in the logs of processes that have ended, and that wrote them on their own."""
    for path in sorted(folder.rglob("*.log")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_LOG:
            continue
        text = path.read_text("utf-8", "surrogateescape")
        if (cleaned := scrub(text)) != text:
            replace(path, cleaned.encode("utf-8", "surrogateescape"), f".{os.getpid()}.part")


def plain(value: Any) -> Any:
    """Convert numpy and torch scalars and tuples to Python's own numbers, lists and dicts."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stamp(moment: datetime) -> str:
    """Return a moment as text, to the second."""
    return moment.isoformat(timespec="seconds")


class Heartbeat:
    """While a run goes on, its folder has a file with the time at which it was last alive."""

    FILE = "logs/heartbeat"
    SECONDS = 5.0  # between two beats

    def __init__(self, folder: Path) -> None:
        self.path = folder / self.FILE
        self.over = threading.Event()
        self.lock = threading.Lock()
        self._beat()
        threading.Thread(target=self._go_on, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop, and remove the file: the run has an end of its own."""
        self.over.set()
        with self.lock, suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        while not self.over.wait(self.SECONDS) and self.path.exists():
            self._beat()

    def _beat(self) -> None:
        with self.lock, suppress(OSError):  # a full disk ends no run
            if not self.over.is_set():
                self.path.write_text(stamp(datetime.now(UTC)), encoding="utf-8")


def last_beat(folder: Path) -> datetime | None:
    """When a run was last alive; None for one that left no heartbeat, and for one that ended."""
    path = folder / Heartbeat.FILE
    try:
        if not path.is_file():
            return None
        with path.open(encoding="utf-8") as file:
            return datetime.fromisoformat(file.read(40)).astimezone(UTC)
    except ValueError:  # torn
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def csv_text(df: "pd.DataFrame", index: bool) -> str:
    """The CSV of pandas, with quotes also around cells that hold a carriage return.

    pandas quotes a cell that holds the line terminator: with CR LF for it, either character. The
    rows' own are then outside quotes, and become line feeds.
    """
    text = df.to_csv(index=index)
    if "\r" not in text:
        return text
    quoted = df.to_csv(index=index, lineterminator="\r\n")
    return re.sub(r'("[^"]*")|\r\n', lambda found: found[1] or "\n", quoted)


def svg_text(name: str, fig: "Figure", alt: str = "") -> str:
    """A figure as SVG for light and dark pages, closed; `alt` says what it shows.

    By default its axes' titles do. Text stays text: a reader's fonts may have characters that this
    machine's do not.
    """
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        fig.savefig(buffer, format="svg", bbox_inches="tight", metadata=unsaid)
    plt.close(fig)
    svg = show_controls(buffer.getvalue())  # XML has no control characters
    # Without the header, which refers to a DTD on the web.
    svg = in_both_schemes(svg[svg.index("<svg") :])
    label = markup.text(alt or _in_words(name, fig))
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _in_words(name: str, fig: "Figure") -> str:
    """What a figure shows, by the titles and labels of its axes."""
    panels = []
    for axes in fig.axes:
        across, up = axes.get_xlabel(), axes.get_ylabel()
        of = f"{up} over {across}" if across and up else across or up
        panels.append(": ".join(filter(None, (axes.get_title() or axes.get_title("left"), of))))
    said = "; ".join(dict.fromkeys(filter(None, panels)))
    return " ".join(f"Figure {name.replace('_', ' ')}: {said or 'no title'}".split())
