"""A study as data frames for notebook 06 and for files."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.align import limits, operators
from neoxlib.align.distances import Distance
from neoxlib.align.localize import Finding
from neoxlib.align.reader import Capture
from neoxlib.align.study import Study
from neoxlib.align.verdict import pass_words, step_words
from neoxlib.model import steps
from neoxlib.model.steps import Step, layer_of, within
from neoxlib.workbook.table import Note, Table, TextTable

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

STEPS: dict[str, Step] = {
    step.name: step for kind in (True, False) for step in steps.layer_steps(kind)
} | {step.name: step for step in (*steps.BEGINNING, *steps.END)}
HEADS = {  # of a column in steps.csv and three_way.csv -> in words
    "own_max": "own error, greatest (roundings)",
    "own_rms": "own error, rms (roundings)",
    "same_dtype_own_max": "own error of the same dtype (roundings)",
    "relative_l2": "relative distance (L2)",
    "same_dtype_l2": "relative distance of the same dtype (L2)",
    "reference to same dtype": "relative distance of the same dtype (L2)",
    "reference to target": "relative distance of the target (L2)",
    "times": "target ÷ same dtype",
    "cosine": "cosine similarity",
    "max_error": "greatest difference",
    "same_bits": "same bits",
}
THREE = (
    "Distances are relative ones from the reference: 0 is the same. The quotient takes the same "
    "dtype's for its distance from the checkpoint or for one rounding if these are more. Verdicts: "
    "right; guilty by its own error; the dtype, past the limits as well; carried from a guilty "
    "step before it; farther than the dtype explains by small errors or other formulas."
)
NOTE = (
    f"Own errors are in roundings of the dtype: at most {limits.OWN_MAX.value:g}, their rms "
    f"{limits.OWN_RMS.value:g}. Distances are accumulated errors, relative to the reference: 0 is "
    "the same."
)


def frame(study: Study) -> pd.DataFrame:
    """A row per step, pass and rank: own and accumulated error, and whether it is guilty.

    `same_bits` is whether the whole tensor equals, to the bit, that of the capture that is the
    reference; if that is a checkpoint, that of the same dtype in plain layers on one CPU.
    """
    drifts = {(drift.name, drift.pass_): drift.distance for drift in study.alignment.drifts}
    same = {(drift.name, drift.pass_): drift.distance for drift in study.witness.drifts}
    beside = study.other.target if study.other else study.witness.beside
    bits = {(drift.name, drift.pass_): drift.distance.same_bits for drift in beside}
    rows = []
    for found in study.alignment.findings:
        key = (found.name, found.pass_)
        rows.append(_row(found, drifts.get(key), same.get(key)) | {"same_bits": bits.get(key)})
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
        "same_dtype_own_max": found.same.greatest if found.same else float("nan"),
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
    """The steps with the greatest own errors, also in worst.csv.

    "same bits" is beside the capture that is the reference, or the same dtype on one CPU.
    """
    rows = frame(study).sort_values("own_max", ascending=False).head(count)
    columns = ["layer", "step", "rank", "pass", "own_max", "own_rms", "relative_l2", "same_bits"]
    worst_rows = run.save("worst", rows[[*columns, "guilty"]].reset_index(drop=True))
    return _shown(worst_rows)


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


def three_way(run: "Run", study: Study, count: int = 10) -> TextTable:
    """The steps whose distance the dtype explains least; all of them in three_way.csv.

    A line has the distance of the same dtype and of the target from the reference, how many times
    as far the target is, the greatest own errors of both, and the verdict.
    """
    rows = run.save("three_way", three_way_frame(study))
    worst_rows = rows.sort_values("times", ascending=False, kind="stable").head(count)
    return _shown(worst_rows.drop(columns="name").reset_index(drop=True), THREE)


def three_way_frame(study: Study) -> pd.DataFrame:
    """A row per step and pass, in the order of computing: see `three_way.Line`."""
    rows = [
        {
            "name": line.name,
            "layer": layer_of(line.name),
            "step": step_words(line.name),
            "pass": line.pass_,
            "reference to same dtype": line.same,
            "reference to target": line.target,
            "times": line.times,
            "own_max": line.own,
            "same_dtype_own_max": line.own_same,
            "verdict": line.word,
        }
        for line in study.lines
    ]
    table = pd.DataFrame(rows)
    return table.astype({"layer": "Int64"}) if len(table) else table


def against_other(study: Study) -> TextTable | Note:
    """The distances from the capture that is the reference, layer outputs and logits only."""
    if study.other is None:
        return Note("The reference is a checkpoint; no other capture was given.")
    rows = [
        {
            "layer": _column(drift.name),
            "pass": drift.pass_,
            "relative_l2": drift.distance.relative_l2,
            "cosine": drift.distance.cosine,
            "max_error": drift.distance.max_error,
            "same_bits": drift.distance.same_bits,
        }
        for drift in study.other.target
        if within(drift.name) in ("", "gpt_neox.embed_in", steps.LOGITS)
    ]
    return _shown(pd.DataFrame(rows))


def _column(name: str) -> str:
    layer = layer_of(name)
    if layer is not None:
        return str(layer)
    return "embedding" if name.startswith("gpt_neox.embed_in") else "head"


def _shown(rows: pd.DataFrame, note: str = NOTE) -> TextTable:
    """Return rows for reading: heads and passes in words."""
    words = {"pass": pass_words}
    cells = {
        HEADS.get(name, name): [words.get(name, _cell)(value) for value in rows[name]]
        for name in rows
    }
    return TextTable(pd.DataFrame(cells, dtype=object), note)


def _cell(value: object) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, float):
        return f"{int(value)}" if value.is_integer() and abs(value) < 1000 else f"{value:.3g}"
    return {"True": "yes", "False": ""}.get(str(value), str(value))
