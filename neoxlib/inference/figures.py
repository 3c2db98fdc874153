"""Data frame → matplotlib figure. Pure functions: nothing is shown, written or kept."""

import pandas as pd
from matplotlib.figure import Figure

from neoxlib.colours import BLUE, GREEN, GREY, RED

PARTS = {"pre": GREY, "forward": BLUE, "communication": RED, "post": GREEN}


def step_times(steps: pd.DataFrame) -> Figure:
    """Draw the time of each decode step after the first as a bar of its four parts.

    `steps` are those of `tables.steps`: a row per step with its four parts in ms.
    """
    later = steps.iloc[1:]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    below = later["pre"] * 0
    for part, colour in PARTS.items():
        axes.bar(later.index, later[part], bottom=below, color=colour, width=0.85, label=part)
        below = below + later[part]
    axes.set_xlabel("step (each makes one token per prompt)")
    axes.set_ylabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
