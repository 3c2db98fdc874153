"""The KV cache, and the positions and mask of new tokens after those it holds."""

from types import ModuleType

import torch
from torch import Tensor

from neoxlib.kernels import plain
from neoxlib.kernels.npu import NpuOps
from neoxlib.model.config import ModelConfig
from neoxlib.model.group import SOLO, Group
from neoxlib.model.layers import rotary_tables

Ops = ModuleType | NpuOps  # kernels.plain, or its replacement on an NPU


class KVCache:
    """Keys and values of this rank's heads in `max_seq_len` slots, and which slots are real.

    k, v [layers, B, heads here, max_seq_len, head_dim]; real [B, max_seq_len] bool; `length` slots
    are filled. `padded` is False while all of them are known to be real without asking the device.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_seq_len: int,
        group: Group = SOLO,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        heads_here = config.num_attention_heads // group.size
        shape = (config.num_hidden_layers, batch, heads_here, max_seq_len, config.head_dim)
        # On a CPU no slot is read before it is written; operators of other devices may read whole
        # blocks of slots.
        make = torch.empty if torch.device(device).type == "cpu" else torch.zeros
        self.k, self.v = (make(shape, dtype=dtype, device=device) for _ in range(2))
        self.real = torch.zeros(batch, max_seq_len, dtype=torch.bool, device=device)
        self.length = 0
        self.padded = False
        tables = rotary_tables(max_seq_len, config.rotary_dim, config.rotary_emb_base)
        # [max_seq_len, rotary], cast last
        self.cos, self.sin = (table.to(device, dtype) for table in tables)

    def append(self, count: int, mask: Tensor | None = None) -> int:
        """Reserve slots for `count` tokens a row, real where `mask` [B, count] is True.

        Returns the slot of the first.
        """
        start = self.length
        self.length = self.length + count
        assert self.length <= self.real.shape[1], (
            f"{self.length} tokens in a cache of {self.real.shape[1]}"
        )
        self.real[:, start : self.length] = True if mask is None else mask
        self.padded = self.padded or mask is not None
        return start

    def extend(self, count: int, mask: Tensor | None = None, ops: Ops = plain) -> "StepContext":
        """Reserve slots as `append` does; return their context in the form of `ops`."""
        start = self.append(count, mask)
        end = self.length
        counts = self.real[:, :end].cumsum(-1)
        positions = (counts - 1).clamp(min=0)[:, start:]  # [B, S]: padding does not count
        # Where the mask is, so that one left on another device fails here.
        index = torch.arange(end, device=(self.real if mask is None else mask).device)
        rows = index[start:, None]
        seen = (index <= rows) & self.real[:, None, None, :end]  # [B, 1, S, end]
        # A padding token sees itself: a fully masked row gives NaN, and the NPU's attention refuses
        # it.
        angles = ops.angles(
            self.cos[positions][:, None], self.sin[positions][:, None], self.k.shape[-1]
        )
        mask = ops.mask(seen | (index == rows), self.k.shape[-2], self.padded)
        return StepContext(start, end, mask, *angles)


class StepContext:
    """S new tokens: cache slots [start, end), what each sees, the angles of its position."""

    def __init__(self, start: int, end: int, mask: Tensor | None, cos: Tensor, sin: Tensor) -> None:
        self.start = start
        self.end = end
        self.mask = mask  # [B, 1, S, end], in the form of `ops.mask`
        self.cos = cos
        self.sin = sin  # cos, sin [B, 1, S, rotary], in the form of `ops.angles`
