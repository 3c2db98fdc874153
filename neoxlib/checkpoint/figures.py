"""Figures of a cut."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neoxlib.colours import BLUE, PALE


def rank_bytes(plan: pd.DataFrame) -> Figure:
    """Draw the bytes on one rank by class of tensor, coloured by whether the class is cut.

    `plan`: rows of `plan.plan` as a frame with tensor, rule and rank_bytes.
    """
    table = plan.assign(
        short=plan["tensor"].str.removeprefix("gpt_neox.").str.replace("layers.*.", "", regex=False)
    )
    table = table.sort_values("rank_bytes").tail(12)
    colours = [PALE if "whole" in rule else BLUE for rule in table["rule"]]
    figure = Figure(figsize=(8, 0.9 + 0.27 * len(table)), layout="constrained")
    axes = figure.subplots()
    axes.barh(table["short"], table["rank_bytes"] / 2**20, color=colours, height=0.7)
    axes.set_xlabel("MiB on one rank, all layers together")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Patch(color=BLUE, label="cut over the ranks"),
        Patch(color=PALE, label="whole on every rank"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
