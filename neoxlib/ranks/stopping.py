"""Stopping a call on request: the notebook asks rank 0, and all ranks stop at the same point.

Light on purpose: the driver unpickles `Stopped`, and never imports torch.
"""

import threading

from neoxlib.errors import RankError

REASON = "stopped on request of the notebook"
asked = threading.Event()  # set by SIGUSR1, cleared when the next call begins; rank 0's counts


class Stopped(RankError):
    """The call ended between two steps, on all ranks alike, because the notebook asked for it."""
