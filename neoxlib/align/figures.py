"""A study as figures. Pure functions: nothing is shown, written or kept."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from neoxlib.align import limits
from neoxlib.align.study import Study
from neoxlib.align.tables import frame
from neoxlib.colours import BLUE, RED
from neoxlib.model.steps import layer_of, within


def strip(study: Study) -> Figure:
    """Layers × steps: the greatest own error over ranks and passes, and the accumulated one."""
    rows = frame(study)
    rows["column"] = [_column(name) for name in rows["name"]]
    grids = {}
    for value in ("own_max", "relative_l2"):
        rows[value] = rows[value].replace(np.inf, np.nan).fillna(rows[value].max())
        grids[value] = rows.pivot_table(value, "step", "column", "max", sort=False)
    wide = len(set(rows["column"]))
    figure = Figure(figsize=(min(5 + 0.5 * wide, 14), 7.5), layout="constrained")
    for axes, (name, grid) in zip(figure.subplots(2, 1, sharex=True), grids.items(), strict=True):
        _heat(axes, grid, name)
    return figure


def _heat(axes: Axes, grid: pd.DataFrame, name: str) -> None:
    """Colour a grid, logarithmic; own errors around their limit."""
    least = limits.OWN_MAX.value / 100 if name == "own_max" else 1e-9
    values = grid.astype(float).clip(lower=least)
    top = limits.OWN_MAX.value * 100 if name == "own_max" else max(1.0, np.nanmax(values))
    colours = "RdYlBu_r" if name == "own_max" else "cividis"
    image = axes.imshow(values, cmap=colours, norm=LogNorm(least, top), aspect="auto")
    axes.set_xticks(range(len(grid.columns)), grid.columns, fontsize=8)
    axes.set_yticks(range(len(grid.index)), grid.index, fontsize=7)
    own = f"own error, in roundings (limit {limits.OWN_MAX.value:g})"
    title = own if name == "own_max" else "accumulated error: relative distance (L2), 0 is the same"
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("layer")
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


def three_way(study: Study) -> Figure:
    """The residual stream's distance from the reference: of the target and of the same dtype.

    Of each layer the last pass is shown.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    series = [
        ("target", "target", RED, "o"),
        (f"{study.dtype}, plain layers on the CPU", "same", BLUE, "s"),
    ]
    for label, value, colour, marker in series:
        points = {_column(d.name): getattr(d, value) for d in study.lines if _stream(d.name)}
        finite = [value if np.isfinite(value) else np.nan for value in points.values()]
        axes.plot(list(points), finite, color=colour, marker=marker, markersize=4, label=label)
    axes.set_yscale("symlog", linthresh=1e-9)
    axes.set_ylabel("relative distance (L2)\nfrom the reference")
    axes.set_xlabel("layer")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _stream(name: str) -> bool:
    return within(name) in ("", "gpt_neox.embed_in", "embed_out")


def _column(name: str) -> str:
    layer = layer_of(name)
    if layer is not None:
        return str(layer)
    return "embed" if name.startswith("gpt_neox.embed_in") else "head"
