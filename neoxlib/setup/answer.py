"""The answer of 00_setup: can this model start on this machine?"""

from collections.abc import Mapping
from typing import Any

from neoxlib.inference.parity import same
from neoxlib.workbook import metrics
from neoxlib.workbook.results import failed


def can_start(results: Mapping[str, Any], ran: bool = True) -> str:
    """Answer from a run's checks and figures, in a sentence or two; `ran` if the ranks did."""
    if wrong := failed(results):
        return f"No, you cannot start yet. {wrong}."
    if not ran:
        return f"By the plan you can start; nothing was run.{room(results)}"
    ranks = results["model"].get("world_size") or results["parameters"].get("world_size") or 1
    wrote = f"{ranks} ranks started and wrote text" if ranks > 1 else "the model wrote text"
    said = ", and ".join(filter(None, (wrote, same(results))))
    return f"Yes, you can start: {said}.{room(results)}"


def room(results: Mapping[str, Any]) -> str:
    """Say how much memory a rank needs of what is free, as a sentence after another; "" if neither
    is known.
    """
    values = results["metrics"]
    names = ("needed_bytes_per_rank", "free_bytes_per_rank")
    if any(values.get(name) is None for name in names):
        return ""
    needed, free = (metrics.shown(name, values[name]) for name in names)
    return f" A rank needs {needed} of the {free} that it may have."
