"""The ranks of a session as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psutil

from neoxlib.ranks import worker
from neoxlib.ranks.cluster import Ranks

if TYPE_CHECKING:
    import pandas as pd


def rank_table(ranks: Ranks, about: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Make a row per rank: pid, device, host, state and resident memory in MB.

    The memory of a rank on another machine, or of one that has ended, is missing.
    """
    import pandas as pd

    state = f"ended: {ranks.ended}" if ranks.ended else "ready"
    rows = [
        {
            "rank": member["rank"],
            "pid": member["pid"],
            "device": loaded["device"],
            "host": member["host"],
            "state": state,
            "resident_mb": _resident_mb(member),
        }
        for member, loaded in zip(ranks.members, about, strict=True)
    ]
    return pd.DataFrame(rows).set_index("rank")


def _resident_mb(member: dict[str, Any]) -> float | None:
    if member["host"] != worker.host() or not worker.alive(member["pid"]):
        return None
    try:
        return psutil.Process(member["pid"]).memory_info().rss / 1e6
    except psutil.NoSuchProcess:  # it ended just now
        return None
