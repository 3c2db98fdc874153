"""The setup report: checks of a machine and a model folder, each with its repair.

It changes nothing.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from neoxlib.errors import SettingsError, show_controls
from neoxlib.forms import parse
from neoxlib.languages import padded, said, width
from neoxlib.machine import chips, launch_env, recipe
from neoxlib.machine.devices import chip_at
from neoxlib.machine.host import Host, read_host, restore
from neoxlib.setup import sourced_env
from neoxlib.setup.cann_checks import CANN
from neoxlib.setup.machine_checks import MACHINE, CheckRow
from neoxlib.setup.model_checks import model_rows
from neoxlib.setup.npu_checks import NPU, chip_there, visible_id
from neoxlib.setup.port_checks import PORTS
from neoxlib.workbook import markup
from neoxlib.workbook.table import Checked

if TYPE_CHECKING:
    import pandas as pd

COLOURS = {"OK": "#137333", "WARN": "#b06000", "FAIL": "#c5221f"}
INSTALLED = (
    "driver",
    "firmware",
    "CANN toolkit",
    "CANN kernels",
    "torch_npu",
    "pairing",
    "ATB (NNAL)",
)
COLUMNS = ("status", "check", "found", "needed", "repair")


@dataclass(frozen=True)
class Report(Checked):
    """All rows and the machine they judge. Displays as a table, in HTML and in plain text."""

    rows: tuple[CheckRow, ...]
    host: Host

    def to_json(self) -> str:
        """Return the rows and the machine as one JSON object."""
        rows = [asdict(row) for row in self.rows]
        whole = {"schema_version": 1, "worst": self.worst, "rows": rows, "host": asdict(self.host)}
        return json.dumps(whole, ensure_ascii=False, indent=1)

    def __repr__(self) -> str:
        columns = max((width(said(row.name)) for row in self.rows), default=0)
        lines = [*(_line(row, columns) for row in self.rows), self.summary]
        lines += map(said, self._hint)
        return show_controls("\n".join(lines))

    @property
    def _hint(self) -> tuple[str, ...]:
        """The command that shows the whole installation, if an NPU's software needs repair."""
        broken = [row for row in self.rows if row.status != "OK" and row.name in INSTALLED]
        if not self.host.has_npu or not broken:
            return ()
        chip = chip_there(self.host)
        name = f'"{chip.name}"' if chip else "CHIP"
        plan = f"python -m neoxlib install-plan --chip {name} --arch {self.host.arch}"
        plan += " --over" if self.host.driver else ""
        return (f"the whole installation: {plan}",)

    def _repr_html_(self) -> str:
        table = markup.html_table(COLUMNS, map(_cells, self.rows))
        return table + markup.paragraph(self.summary)


def check(model_dir: str | os.PathLike[str] | None = None) -> Report:
    """Check this machine, and a model folder if one is given."""
    host = read_host()
    return Report((*judge(host), *(model_rows(model_dir) if model_dir else ())), host)


def from_json(text: str) -> Report:
    """Judge the machine that `to_json` described. Raises SettingsError for any other text."""
    try:
        said = parse(text)
    except ValueError as error:
        raise SettingsError(f"not the JSON that `doctor --json` writes: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("host"), dict):
        raise SettingsError("not the JSON that `doctor --json` writes: it has no `host`")
    host = restore(said["host"])
    try:
        return Report(judge(host), host)
    except (AttributeError, TypeError, ValueError) as error:  # a value of another type
        raise SettingsError(f"not a host as `doctor --json` describes it: {error}") from error


def judge(host: Host) -> tuple[CheckRow, ...]:
    """Run every check on a machine; a check that does not apply gives no row."""
    return tuple(
        row for check in (*NPU, *PORTS, *CANN, *MACHINE) if (row := check(host)) is not None
    )


def _line(row: CheckRow, columns: int) -> str:
    """Format status, check and found; below them needed and repair if there is a repair."""
    line = f"{row.status:4}  {padded(said(row.name), columns)}  {said(row.found)}"
    if not row.repair:
        return line
    indent = "\n" + " " * (columns + 8)
    return indent.join([line, said(f"needed: {row.needed}"), said(f"repair: {row.repair}")])


def _cells(row: CheckRow) -> list[str]:
    status = f'<b style="color:{COLOURS[row.status]}">{row.status}</b>'
    repair = row.repair and f"<code>{markup.text(row.repair)}</code>"
    return [status, *map(markup.text, (row.name, row.found, row.needed)), repair]


def devices(host: Host) -> "pd.DataFrame":
    """Return a row per device: each chip of npu-smi with its memory and its holders, or the CPU."""
    import pandas as pd

    if not host.cards:
        free = f"{host.memory_free / 2**20:,.0f} of {host.memory / 2**20:,.0f}"
        limits = "; ".join(filter(None, (host.cores_limit, host.memory_limit))) or "none"
        row = {"device": f"CPU, {host.cores} core(s)", "free MiB": free, "limited by": limits}
        return pd.DataFrame([row])
    return pd.DataFrame([_device(host, n) for n in range(len(host.cards))])


def _device(host: Host, n: int) -> dict[str, object]:
    card = host.cards[n]
    inside = host.container is not None
    holders = [one for one in host.smi.holders if (one.npu, one.chip) == (card.npu, card.chip)]
    held = [f"{one.seen(inside)} {one.name}".strip() for one in holders]
    known = chip_at(card, host.cards)
    shown = card.free_mib is not None
    return {
        "device": f"NPU {card.npu} chip {card.chip}",
        "id": visible_id(host, n),
        "name": card.name,
        "taken for": known.name if known else "not known",
        "health": card.health,
        "free MiB": f"{card.free_mib:,} of {card.total_mib:,}" if shown else "not shown",
        "held by": ", ".join(held) or "none",
    }


def chip_table() -> "pd.DataFrame":
    """Return the figures of each chip, and their sources."""
    import pandas as pd

    return pd.DataFrame([_figures(chip) for chip in chips.CHIPS.values() if chip.name != "cpu"])


FIGURES = {  # field of Chip -> title
    "memory_gib": "memory (GiB)",
    "usable_gib": "usable (GiB)",
    "fp16_tflops": "peak (TFLOPS)",
    "bandwidth_gb_s": "bandwidth (GB/s)",
    "link": "link",
}


def _figures(chip: chips.Chip) -> dict[str, object]:
    said: dict[str, list[str]] = {}
    for name in filter(chip.sources.get, FIGURES):
        said.setdefault(chip.sources[name], []).append(FIGURES[name])
    known = {title: getattr(chip, name) or "not known" for name, title in FIGURES.items()}
    source = "; ".join(f"{', '.join(of)}: {why}" for why, of in said.items())
    return {"chip": chip.name} | known | {"source": source}


def launch_table(
    on: chips.Chip,
    world_size: int,
    host: Host,
    max_seq_len: int | None = None,
    env: Mapping[str, str] = os.environ,
    deterministic: bool = False,
    era: str = "today",
) -> "pd.DataFrame":
    """Compare the ranks' environment with `env`; this process's own stays unchanged.

    A variable that `env` holds is kept, and the row says what the recipe has instead. `effect` is
    empty for a variable that matters here, else the reason why it has none. Variables of the
    guide that nothing here needs come last, with their replacements.
    """
    import pandas as pd

    inside = host.container is not None
    preload = sourced_env.extra(host).get("LD_PRELOAD", "") if on.name != "cpu" else ""
    options = {"max_seq_len": max_seq_len, "preload": preload, "era": era}
    wanted = launch_env.launch_env(on, world_size, inside, deterministic, **options)
    rows = [_setting(name, to, env) for name, to in wanted.items()]
    if on.name != "cpu":
        unused = recipe.REPLACED.items()
        rows += [_row(name, env, "not needed", "none", why, recipe.GUIDE) for name, why in unused]
    return pd.DataFrame(rows)


ASKED = {  # variables that no row of the recipe gives: why, and whose advice
    "MAX_SEQ_LEN": ("asked for", "parameters"),
    "LD_PRELOAD": ("libgomp loaded first, else it may find no room for static TLS", recipe.GUIDE),
}


def _setting(name: str, to: str, env: Mapping[str, str]) -> dict[str, str]:
    """A row of the table for a variable that the recipe or a parameter sets to `to`."""
    row = next((one for one in recipe.RECIPE if (one.name, one.value) == (name, to)), None)
    why, source = (row.why, row.source) if row else ASKED[name]
    unused = row.unused if row else ""
    if name == recipe.ALLOCATOR and launch_env.NEW_ALLOCATOR in env:
        why = f"{launch_env.NEW_ALLOCATOR} is exported, and torch_npu ends when both are set"
        return _row(name, env, "left out", "left out", why, source)
    if name not in env:
        return _row(name, env, to, "added", why, source, unused)
    if env[name] == to:
        return _row(name, env, to, "none", why, source, unused)
    if name == "MAX_SEQ_LEN":
        return _row(name, env, to, "replaced", why, source)
    return _row(name, env, env[name], f"kept; the recipe has {to}", why, source, unused)


def _row(
    name: str,
    env: Mapping[str, str],
    to: str,
    change: str,
    why: str,
    source: str,
    unused: str = "",
) -> dict[str, str]:
    return {
        "variable": name,
        "now": env.get(name, "not set"),
        "for the ranks": to,
        "change": change,
        "why": why,
        "whose advice": source,
        "effect": f"none here: {unused}" if unused else "",
    }
