"""Stopping a call on request: the notebook asks rank 0, and all ranks stop at the same point."""

import threading

REASON = "stopped on request of the notebook"
INTERRUPTED = "interrupted"  # why an answer ended that was made only in part
asked = threading.Event()  # set by SIGUSR1, cleared when the next call begins; rank 0's counts
