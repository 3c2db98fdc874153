"""The setup report: this machine and a model folder judged row by row. It says what to type and changes nothing."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib import chips
from neoxlib.checks import MACHINE, Row, Status
from neoxlib.config import ModelConfig
from neoxlib.errors import ConfigError, NeoXError
from neoxlib.host import Host, read_host
from neoxlib.npu_checks import NPU
from neoxlib.smi import Card, Holder

if TYPE_CHECKING:
    import pandas as pd

ORDER: tuple[Status, ...] = ("OK", "WARN", "FAIL")
COLOURS = {"OK": "#137333", "WARN": "#b06000", "FAIL": "#c5221f"}
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
        return "\n".join([*(_line(row, width) for row in self.rows), self.summary])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        body = "".join(_html(row) for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{self.summary}</p>"


def run(model_dir: str | os.PathLike[str] | None = None) -> Report:
    """Check this machine, and the model folder where one is given."""
    host = read_host()
    return Report((*judge(host), *(model_rows(model_dir) if model_dir else ())), host)


def judge(host: Host) -> tuple[Row, ...]:
    """The verdicts on a machine; a check that does not apply to it gives no row."""
    return tuple(row for check in (*NPU, *MACHINE) if (row := check(host)) is not None)


def _line(row: Row, width: int) -> str:
    """status  check  found, and below it what is needed and the repair where there is one."""
    line = f"{row.status:4}  {row.name:{width}}  {row.found}"
    indent = "\n" + " " * (width + 8)
    return line + (f"{indent}needed: {row.needed}{indent}repair: {row.repair}" if row.repair else "")


def _html(row: Row) -> str:
    status = f'<td style="color:{COLOURS[row.status]};font-weight:bold">{row.status}</td>'
    cells = "".join(f"<td>{escape(text)}</td>" for text in (row.name, row.found, row.needed))
    return f"<tr>{status}{cells}<td>{row.repair and f'<code>{escape(row.repair)}</code>'}</td></tr>"


def model_rows(model_dir: str | os.PathLike[str]) -> tuple[Row, ...]:
    """Verdicts on a model folder: its config, the names, shapes and sizes of its weights (no data is read), its ids."""
    copy = "copy the folder from the checkpoint anew"
    return (
        _look("model config", lambda: _config(model_dir), "a GPT-NeoX that neoxlib runs", copy),
        _look("model weights", lambda: _weights(model_dir), "every tensor of the config, and no other", copy),
        _look("model tokenizer", lambda: _tokenizer(model_dir), "tokenizer.json, with ids for rows of embed_in", copy),
    )


def _look(name: str, look: Callable[[], str], needed: str, repair: str) -> Row:
    try:
        return Row(name, "OK", look(), needed)
    except NeoXError as error:
        return Row(name, "FAIL", str(error), needed, repair)
    except (ImportError, RuntimeError) as error:  # what `import torch` raises where its backend cannot be loaded
        return Row(name, "FAIL", f"torch cannot be used: {error}", needed, "see torch_npu and packages above")


def _config(model_dir: str | os.PathLike[str]) -> str:
    config = ModelConfig.from_dir(model_dir)
    return f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, {config.num_attention_heads} heads"


def _weights(model_dir: str | os.PathLike[str]) -> str:
    from neoxlib.checkpoint import open_checkpoint  # needs torch, which may be what is broken
    from neoxlib.model import count_parameters
    from neoxlib.names import match

    checkpoint, config = open_checkpoint(model_dir), ModelConfig.from_dir(model_dir)
    tensors = [stored for _, stored in match(checkpoint, config).values()]
    dtypes = ", ".join(sorted({str(stored.dtype).removeprefix("torch.") for stored in tensors}))
    size = sum(stored.nbytes for stored in tensors) / 1e9
    what = f"{size:.3g} GB of {dtypes}" + (f" (packed as {checkpoint.quant})" if checkpoint.quant else "")
    return f"{count_parameters(config):,} parameters, {what} in {len(checkpoint.files)} file(s)"


def _tokenizer(model_dir: str | os.PathLike[str]) -> str:
    from tokenizers import Tokenizer

    places = (Path(model_dir), Path(model_dir) / "part_model" / "0")  # a checkpoint, or a cut
    path = next((place / "tokenizer.json" for place in places if (place / "tokenizer.json").is_file()), None)
    if path is None:
        raise ConfigError(f"{model_dir} has no tokenizer.json: only token ids can be given, no text")
    try:
        ids = Tokenizer.from_file(str(path)).get_vocab_size()
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise ConfigError(f"{path} cannot be read ({error})") from error
    rows = ModelConfig.from_dir(model_dir).vocab_size
    if ids > rows:
        raise ConfigError(f"{path} has {ids} ids, the model {rows} rows: it belongs to another model")
    return f"{ids} ids for {rows} rows"


def devices(host: Host) -> "pd.DataFrame":
    """A row per device: every chip that npu-smi lists with its memory and who holds it, or the CPU."""
    import pandas as pd

    if not host.cards:
        free = f"{host.memory_free / 2**20:,.0f} of {host.memory / 2**20:,.0f}"
        return pd.DataFrame([{"device": f"CPU, {host.cores} core(s)", "free MiB": free}])
    return pd.DataFrame([_device(card, host.smi.holders) for card in host.cards])


def _device(card: Card, holders: Sequence[Holder]) -> dict[str, Any]:
    held = [f"{one.pid} {one.name}".strip() for one in holders if (one.npu, one.chip) == (card.npu, card.chip)]
    known = chips.chip_of_card(card.name, card.total_mib)
    return {
        "device": f"NPU {card.npu} chip {card.chip}",
        "name": card.name,
        "taken for": known.name if known else "not known",
        "health": card.health,
        "free MiB": "not shown" if card.free_mib is None else f"{card.free_mib:,} of {card.total_mib:,}",
        "held by": ", ".join(held) or "none",
    }


def chip_table() -> "pd.DataFrame":
    """What is known of each chip, and where each figure comes from."""
    import pandas as pd

    return pd.DataFrame([_figures(chip) for chip in chips.CHIPS.values() if chip.name != "cpu"])


FIGURES = {  # field of Chip -> title
    "memory_gib": "memory (GiB)", "usable_gib": "usable (GiB)", "fp16_tflops": "peak (TFLOPS)",
    "bandwidth_gb_s": "bandwidth (GB/s)", "link": "link",
}  # fmt: skip


def _figures(chip: chips.Chip) -> dict[str, Any]:
    said: dict[str, list[str]] = {}
    for name in filter(chip.sources.get, FIGURES):
        said.setdefault(chip.sources[name], []).append(FIGURES[name].partition(" ")[0])
    known = {title: getattr(chip, name) or "not known" for name, title in FIGURES.items()}
    return {"chip": chip.name} | known | {"source": "; ".join(f"{', '.join(of)}: {why}" for why, of in said.items())}


def launch_table(
    on: chips.Chip, world_size: int, host: Host, max_seq_len: int | None = None, env: Mapping[str, str] = os.environ
) -> "pd.DataFrame":
    """What the ranks' environment sets, beside what `env` has now; this process's own is left as it is."""
    import pandas as pd

    why = {(row.name, row.value): row.why for row in chips.RECIPE}
    wanted = chips.launch_env(on, world_size, container=host.container is not None, max_seq_len=max_seq_len)
    rows = [(name, env.get(name, "not set"), to, why.get((name, to), "asked for")) for name, to in wanted.items()]
    return pd.DataFrame(rows, columns=["variable", "now", "for the ranks", "why"])
