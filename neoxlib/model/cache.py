"""The KV cache, and how new tokens sit among those that it holds."""

from types import ModuleType

import torch
from torch import Tensor

from neoxlib.kernels import plain
from neoxlib.kernels.npu import NpuOps
from neoxlib.model.config import ModelConfig
from neoxlib.model.group import SOLO, Group
from neoxlib.model.layers import rotary_tables

Ops = ModuleType | NpuOps  # torch_ops, the form people read, or what stands in for it on an NPU


class KVCache:
    """Keys and values of this rank's heads for `max_seq_len` positions, and which positions hold a real token.

    k, v [layers, B, heads here, max_seq_len, head_dim]; real [B, max_seq_len] bool; `length` positions are filled.
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
        # On a CPU no slot is read before it is written; another device's operators may take whole blocks of slots.
        make = torch.empty if torch.device(device).type == "cpu" else torch.zeros
        self.k, self.v = (make(shape, dtype=dtype, device=device) for _ in range(2))
        self.real = torch.zeros(batch, max_seq_len, dtype=torch.bool, device=device)
        self.length = 0
        tables = rotary_tables(max_seq_len, config.rotary_dim, config.rotary_emb_base)
        self.cos, self.sin = (
            table.to(device, dtype) for table in tables
        )  # [max_seq_len, rotary], cast last

    def append(self, count: int, mask: Tensor | None = None) -> int:
        """Take in `count` tokens a row, real where `mask` [B, count] is True; says in which slot the first belongs."""
        start = self.length
        self.length = self.length + count
        assert self.length <= self.real.shape[1], (
            f"{self.length} tokens in a cache of {self.real.shape[1]}"
        )
        self.real[:, start : self.length] = True if mask is None else mask
        return start

    def extend(self, mask: Tensor, ops: Ops = plain) -> "Step":
        """Take in `mask` [B, S], and say how its tokens sit among those already here, in the form that `ops` takes."""
        start = self.append(mask.shape[1], mask)
        end = self.length
        positions = (self.real[:, :end].cumsum(-1) - 1).clamp(min=0)[
            :, start:
        ]  # [B, S]: padding does not count
        index = torch.arange(end, device=mask.device)
        rows = index[start:, None]
        seen = (index <= rows) & self.real[:, None, None, :end]  # [B, 1, S, end]
        # A padding row sees itself, so that no row is masked in full (NaN, and refused by the NPU's attention).
        angles = ops.angles(
            self.cos[positions][:, None], self.sin[positions][:, None], self.k.shape[-1]
        )
        return Step(start, end, ops.mask(seen | (index == rows), self.k.shape[-2]), *angles)


class Step:
    """Where S new tokens go: cache slots [start, end), what each sees, and the angles of its position."""

    def __init__(self, start: int, end: int, mask: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.start = start
        self.end = end
        self.mask = mask  # [B, 1, S, end], or what `ops.mask` makes of it
        self.cos = cos
        self.sin = sin  # [B, 1, S, rotary], or what `ops.angles` makes of them
