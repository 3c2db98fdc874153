"""The setup report: this machine and a model folder judged row by row. It says what to type and changes nothing."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from neoxlib.errors import SettingsError
from neoxlib.machine import chips, launch_env
from neoxlib.machine.host import Host, read_host, restore
from neoxlib.setup.cann_checks import CANN
from neoxlib.setup.machine_checks import MACHINE, Row, Status
from neoxlib.setup.model_checks import model_rows
from neoxlib.setup.npu_checks import NPU, chip_there
from neoxlib.workbook import markup

if TYPE_CHECKING:
    import pandas as pd

ORDER: tuple[Status, ...] = ("OK", "WARN", "FAIL")
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
class Report:
    """All rows and the machine they were judged on. Shows itself as a table, in HTML and in plain text."""

    rows: tuple[Row, ...]
    host: Host

    @property
    def worst(self) -> Status:
        """The status that decides: FAIL where one row fails."""
        return max((row.status for row in self.rows), key=ORDER.index, default="OK")

    @property
    def summary(self) -> str:
        """How many rows of each status, in one line."""
        counts = {status: sum(row.status == status for row in self.rows) for status in ORDER}
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    @property
    def frame(self) -> "pd.DataFrame":
        """The rows as a table to save."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_json(self) -> str:
        """The rows and the machine as one JSON object."""
        rows = [asdict(row) for row in self.rows]
        whole = {"schema_version": 1, "worst": self.worst, "rows": rows, "host": asdict(self.host)}
        return json.dumps(whole, ensure_ascii=False, indent=1)

    def __repr__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        return "\n".join([*(_line(row, width) for row in self.rows), self.summary, *self._hint])

    @property
    def _hint(self) -> tuple[str, ...]:
        """Where software of an NPU machine has to be repaired: how to see the installation as a whole."""
        if not self.host.has_npu or not any(
            row.status != "OK" and row.name in INSTALLED for row in self.rows
        ):
            return ()
        chip = chip_there(self.host)
        name = f'"{chip.name}"' if chip else "CHIP"
        return (
            f"the whole installation: python -m neoxlib install-plan --chip {name} --arch {self.host.arch}",
        )

    def _repr_html_(self) -> str:
        table = markup.html_table(COLUMNS, map(_cells, self.rows), markup.KEPT)
        return table + markup.paragraph(self.summary)


def run(model_dir: str | os.PathLike[str] | None = None) -> Report:
    """Check this machine, and the model folder where one is given."""
    host = read_host()
    return Report((*judge(host), *(model_rows(model_dir) if model_dir else ())), host)


def read(text: str) -> Report:
    """Judge the machine that `to_json` described elsewhere. Raises SettingsError for any other text."""
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"not the JSON that `doctor --json` writes: {error}") from error
    if not isinstance(said, dict) or "host" not in said:
        raise SettingsError("not the JSON that `doctor --json` writes: it has no `host`")
    host = restore(said["host"])
    try:
        return Report(judge(host), host)
    except (AttributeError, TypeError, ValueError) as error:  # a value of another type
        raise SettingsError(f"not a host as `doctor --json` describes it: {error}") from error


def judge(host: Host) -> tuple[Row, ...]:
    """The verdicts on a machine; a check that does not apply to it gives no row."""
    return tuple(row for check in (*NPU, *CANN, *MACHINE) if (row := check(host)) is not None)


def _line(row: Row, width: int) -> str:
    """status  check  found, and below it what is needed and the repair where there is one."""
    line = f"{row.status:4}  {row.name:{width}}  {row.found}"
    indent = "\n" + " " * (width + 8)
    return line + (
        f"{indent}needed: {row.needed}{indent}repair: {row.repair}" if row.repair else ""
    )


def _cells(row: Row) -> list[str]:
    status = f'<b style="color:{COLOURS[row.status]}">{row.status}</b>'
    repair = row.repair and f"<code>{markup.text(row.repair)}</code>"
    return [status, *map(markup.text, (row.name, row.found, row.needed)), repair]


def devices(host: Host) -> "pd.DataFrame":
    """A row per device: every chip that npu-smi lists with its memory and who holds it, or the CPU."""
    import pandas as pd

    if not host.cards:
        free = f"{host.memory_free / 2**20:,.0f} of {host.memory / 2**20:,.0f}"
        limits = "; ".join(filter(None, (host.cores_limit, host.memory_limit))) or "none"
        row = {"device": f"CPU, {host.cores} core(s)", "free MiB": free, "limited by": limits}
        return pd.DataFrame([row])
    return pd.DataFrame([_device(host, n) for n in range(len(host.cards))])


def _id(host: Host, n: int) -> int:
    """What a card is called in ASCEND_RT_VISIBLE_DEVICES: its logic id, else its place in the table."""
    card = host.cards[n]
    places = {(one.npu, one.chip): one.logic for one in host.positions if one.logic is not None}
    return places.get((card.npu, card.chip), n)


def _device(host: Host, n: int) -> dict[str, Any]:
    card = host.cards[n]
    inside = host.container is not None
    holders = [one for one in host.smi.holders if (one.npu, one.chip) == (card.npu, card.chip)]
    held = [f"{one.seen(inside)} {one.name}".strip() for one in holders]
    known = chips.chip_of_card(card.name, card.total_mib)
    return {
        "device": f"NPU {card.npu} chip {card.chip}",
        "id": _id(host, n),
        "name": card.name,
        "taken for": known.name if known else "not known",
        "health": card.health,
        "free MiB": "not shown"
        if card.free_mib is None
        else f"{card.free_mib:,} of {card.total_mib:,}",
        "held by": ", ".join(held) or "none",
    }


def chip_table() -> "pd.DataFrame":
    """What is known of each chip, and where each figure comes from."""
    import pandas as pd

    return pd.DataFrame([_figures(chip) for chip in chips.CHIPS.values() if chip.name != "cpu"])


FIGURES = {  # field of Chip -> title
    "memory_gib": "memory (GiB)",
    "usable_gib": "usable (GiB)",
    "fp16_tflops": "peak (TFLOPS)",
    "bandwidth_gb_s": "bandwidth (GB/s)",
    "link": "link",
}


def _figures(chip: chips.Chip) -> dict[str, Any]:
    said: dict[str, list[str]] = {}
    for name in filter(chip.sources.get, FIGURES):
        said.setdefault(chip.sources[name], []).append(FIGURES[name].partition(" ")[0])
    known = {title: getattr(chip, name) or "not known" for name, title in FIGURES.items()}
    return (
        {"chip": chip.name}
        | known
        | {"source": "; ".join(f"{', '.join(of)}: {why}" for why, of in said.items())}
    )


def launch_table(
    on: chips.Chip,
    world_size: int,
    host: Host,
    max_seq_len: int | None = None,
    env: Mapping[str, str] = os.environ,
    deterministic: bool = False,
) -> "pd.DataFrame":
    """How the ranks' environment differs from `env`; this process's own is left as it is.

    Variables of the guide that nothing here needs come last, with what is there in their place.
    """
    import pandas as pd

    inside = host.container is not None
    wanted = launch_env.launch_env(on, world_size, inside, deterministic, max_seq_len=max_seq_len)
    said = {(row.name, row.value): (row.why, row.source) for row in launch_env.RECIPE}
    rows = [
        (name, env.get(name, "not set"), to, *said.get((name, to), ("asked for", "parameters")))
        for name, to in wanted.items()
    ]
    if on.name != "cpu":
        rows += [
            (name, env.get(name, "not set"), "not needed", why, launch_env.GUIDE)
            for name, why in launch_env.REPLACED.items()
        ]
    frame = pd.DataFrame(rows, columns=["variable", "now", "for the ranks", "why", "whose advice"])
    change = [
        _change(now, to) for now, to in zip(frame["now"], frame["for the ranks"], strict=True)
    ]
    frame.insert(3, "change", change)
    return frame


def _change(now: str, to: str) -> str:
    return (
        "none" if now == to or to == "not needed" else "added" if now == "not set" else "replaced"
    )
