"""A study as data frames for notebook 06 and for files."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.align import operators
from neoxlib.align.distances import Distance
from neoxlib.align.localize import Finding
from neoxlib.align.reader import Capture
from neoxlib.align.study import Study
from neoxlib.align.verdict import step_words
from neoxlib.model import steps
from neoxlib.model.steps import Step, layer_of, within
from neoxlib.workbook.table import Table, TextTable

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

STEPS: dict[str, Step] = {
    step.name: step for kind in (True, False) for step in steps.layer_steps(kind)
} | {step.name: step for step in (*steps.BEGINNING, *steps.END)}
NOTE = "Own errors are in roundings of the dtype; accumulated ones relative to the reference."


def frame(study: Study) -> pd.DataFrame:
    """A row per step, pass and rank: own and accumulated error, and whether it is guilty."""
    drifts = {(drift.name, drift.pass_): drift.distance for drift in study.alignment.drifts}
    same = {(drift.name, drift.pass_): drift.distance for drift in study.same_dtype}
    rows = []
    for found in study.alignment.findings:
        key = (found.name, found.pass_)
        rows.append(_row(found, drifts.get(key), same.get(key)))
    table = pd.DataFrame(rows)
    return table.astype({"layer": "Int64"}) if len(table) else table


def _row(found: Finding, drift: Distance | None, plain: Distance | None) -> dict[str, Any]:
    """A row of `frame`; `plain` is the same dtype's distance on plain layers."""
    step = STEPS[within(found.name)]
    error = found.error
    return {
        "name": found.name,
        "layer": layer_of(found.name),
        "step": step_words(found.name),
        "operator": step.operator,
        "ranks hold": step.join,
        "pass": found.pass_,
        "rank": found.rank,
        "own_max": error.greatest if error else float("nan"),
        "own_rms": error.rms if error else float("nan"),
        "not_finite": error.not_finite if error else 0,
        "missing": error is None,
        "relative_l2": drift.relative_l2 if drift else float("nan"),
        "cosine": drift.cosine if drift else float("nan"),
        "max_error": drift.max_error if drift else float("nan"),
        "same_dtype_l2": plain.relative_l2 if plain else float("nan"),
        "guilty": found.guilty,
    }


def about(capture: Capture) -> Table:
    """What was captured, and by what."""
    facts = capture.manifest
    rows = [(name, facts[name]) for name in ("dtype", "quant", "world_size", "device", "compile")]
    rows.append(("prompts", len(facts["ids"])))
    rows.append(("passes", len(facts["passes"])))
    rows.append(("tokens", sum(map(sum, facts["mask"]))))
    return Table(("what", "value"), ((name, "none" if v is None else v) for name, v in rows))


def saved(run: "Run", study: Study) -> pd.DataFrame:
    """All rows, also in steps.csv."""
    return run.save("steps", frame(study))


def worst(run: "Run", study: Study, count: int = 10) -> TextTable:
    """The steps with the greatest own errors, also in worst.csv."""
    rows = frame(study).sort_values("own_max", ascending=False).head(count)
    columns = ["layer", "step", "rank", "pass", "own_max", "own_rms", "relative_l2", "guilty"]
    return _shown(run.save("worst", rows[columns].reset_index(drop=True)))


def opened(study: Study) -> TextTable:
    """The steps of the first guilty layer in its pass, or of the layer with the greatest error.

    Of a guilty layer also the own errors of its operators and of plain ones: see operators.py.
    """
    rows = frame(study)
    one = study.alignment.first
    if one:
        layer, pass_ = layer_of(one[0].name), one[0].pass_
    else:
        top = rows.loc[rows["own_max"].idxmax()]
        layer, pass_ = top["layer"], top["pass"]
    here = rows["layer"].isna() if pd.isna(layer) else (rows["layer"] == layer).fillna(False)
    columns = ["step", "operator", "ranks hold", "rank", "own_max", "own_rms", "relative_l2"]
    rows = rows[here & (rows["pass"] == pass_)]
    where = zip(rows["name"], rows["pass"], rows["rank"], strict=True)
    blames = pd.DataFrame([_blame_cells(study, *each) for each in where], rows.index)
    return _shown(rows[[*columns, "same_dtype_l2", "guilty"]].join(blames))


def _blame_cells(study: Study, name: str, pass_: int, rank: int) -> dict[str, Any]:
    """The columns of a step that say who is to blame; none if it is not known."""
    blame = operators.blame_of(study.alignment, name, pass_, rank)
    if blame is None:
        return {}
    return {
        "chip's operator": blame.operator,
        "chip's operator, roundings": (blame.again or blame.seen).greatest,
        "plain operator, roundings": blame.plain.greatest,
        "to blame": blame.to_blame,
    }


def by_rank(study: Study) -> TextTable:
    """The greatest own error of each layer on each rank."""
    rows = frame(study)
    rows["layer"] = [_column(name) for name in rows["name"]]
    table = rows.pivot_table("own_max", "layer", "rank", "max", sort=False)
    table.columns = [f"rank {rank}" for rank in table.columns]
    return _shown(table.reset_index())


def against_other(study: Study) -> TextTable:
    """The distances from the capture `reference`, layer outputs and logits only."""
    rows = [
        {
            "layer": _column(drift.name),
            "pass": drift.pass_,
            "relative_l2": drift.distance.relative_l2,
            "cosine": drift.distance.cosine,
            "max_error": drift.distance.max_error,
            "same bits": drift.distance.same_bits,
        }
        for drift in study.other
        if within(drift.name) in ("", "gpt_neox.embed_in", steps.LOGITS)
    ]
    return _shown(pd.DataFrame(rows))


def _column(name: str) -> str:
    layer = layer_of(name)
    if layer is not None:
        return str(layer)
    return "embedding" if name.startswith("gpt_neox.embed_in") else "head"


def _shown(rows: pd.DataFrame) -> TextTable:
    cells = {name: [_cell(value) for value in rows[name]] for name in rows}
    return TextTable(pd.DataFrame(cells, dtype=object), NOTE)


def _cell(value: object) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{int(value)}" if value.is_integer() and abs(value) < 1000 else f"{value:.3g}"
    return {"True": "yes", "False": ""}.get(str(value), str(value))
