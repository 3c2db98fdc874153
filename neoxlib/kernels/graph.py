"""A step captured as one graph of an NPU, by torch_npu 2.13.0's own means.

Read in Ascend/pytorch 9e73e708, torch_npu/npu/graphs.py and npu/_npugraph_handlers/ifa_handler.py;
never run on an NPU.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# Any of these makes the capture of a step impossible, if it is "1".
AGAINST = {
    "ASCEND_LAUNCH_BLOCKING": "the host waits for every operator",
    "NEOXLIB_DEBUG": "the ranks compare every sum, for which the host waits",
}


class Recorder(Protocol):
    """A device's graph of one step."""

    def capture(self, step: Callable[[], Tensor]) -> Tensor:
        """Record the operators of `step`, which may not run them; return its output's memory."""

    def replay(self, end: int) -> None:
        """Run them again on the same memory, attention over the first `end` slots."""


class NpuGraph:
    """torch.npu.NPUGraph: the host launches it with one call instead of every operator.

    The lengths of the fused attention are the host's; `update` gives them to all layers at once.
    The graph of the step before must have ended by then: `decode` waits for its logits.
    """

    def __init__(self) -> None:
        self.graph = torch.npu.NPUGraph()

    def capture(self, step: Callable[[], Tensor]) -> Tensor:
        """As Recorder.capture: nothing is run."""
        with torch.npu.graph(self.graph, auto_dispatch_capture=True):
            return step()

    def replay(self, end: int) -> None:
        """As Recorder.replay."""
        self.graph.update(cpu_update_input=[{"actual_seq_lengths_kv": [end]}])
        self.graph.replay()
