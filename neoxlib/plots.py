"""Data frame → matplotlib figure. Pure functions: nothing is shown or written, and no global state is touched."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

PARTS = {"pre": "#999999", "forward": "#0072B2", "communication": "#D55E00", "post": "#009E73"}  # the same palette


def step_times(steps: pd.DataFrame) -> Figure:
    """Stacked bars, one per decoding step after the first, of where its time went.

    `steps`: a row per step with pre, forward, communication and post in ms, as `views.steps` gives.
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


def rank_bytes(plan: pd.DataFrame) -> Figure:
    """What a rank holds: bytes by class of tensor, the cut part and the part that every rank repeats.

    `plan`: rows of `weights.plan` as a frame with tensor, rule and rank_bytes.
    """
    table = plan.assign(short=plan["tensor"].str.removeprefix("gpt_neox.").str.replace("layers.*.", "", regex=False))
    table = table.sort_values("rank_bytes").tail(12)
    colours = ["#999999" if "whole" in rule else "#0072B2" for rule in table["rule"]]
    figure = Figure(figsize=(8, 0.9 + 0.27 * len(table)), layout="constrained")
    axes = figure.subplots()
    axes.barh(table["short"], table["rank_bytes"] / 2**20, color=colours, height=0.7)
    axes.set_xlabel("MiB on one rank, all layers together")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color="#0072B2", label="cut over the ranks"), Patch(color="#999999", label="whole on every rank")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
