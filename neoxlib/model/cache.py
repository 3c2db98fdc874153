"""The KV cache, and the positions and mask of new tokens after those it holds."""

import copy
import math

import torch
from torch import Tensor

from neoxlib.errors import SettingsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.group import SOLO, Group
from neoxlib.model.layers import rotary_tables


class KVCache:
    """Keys and values of this rank's heads in `max_seq_len` slots, and which slots are real.

    `layers` holds a tensor per layer, [2, B, heads here, max_seq_len, head_dim]: keys, then values;
    `k` and `v` are their halves. `real` [B, max_seq_len] bool; `length` slots are filled. `padded`
    is False while all of them are known to be real without asking the device. Raises SettingsError
    if this machine has no memory for them.
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
        shape = (batch, heads_here, max_seq_len, config.head_dim)
        self.layers = _allocate(config.num_hidden_layers, shape, dtype, torch.device(device))
        self.k, self.v = ([layer[part] for layer in self.layers] for part in range(2))
        self.real = torch.zeros(batch, max_seq_len, dtype=torch.bool, device=device)
        self.length = 0
        self.padded = False
        self.decoding: object = None  # what an executor keeps from token to token
        tables = rotary_tables(max_seq_len, config.rotary_dim, config.rotary_emb_base)
        # [max_seq_len, rotary], cast last
        self.cos, self.sin = (table.to(device, dtype) for table in tables)

    def again(self) -> "KVCache":
        """An empty cache in the memory of this one, which must not be used any more."""
        other = copy.copy(self)
        other.length = 0
        other.padded = False
        other.decoding = None
        other.real.zero_()
        return other

    @property
    def capacity(self) -> int:
        """Slots of a row."""
        return self.real.shape[1]

    def reserve(self, count: int) -> int:
        """Reserve slots for `count` tokens a row, without a word on which are real.

        Returns the slot of the first.
        """
        start = self.length
        self.length = self.length + count
        assert self.length <= self.capacity, f"{self.length} tokens in a cache of {self.capacity}"
        return start

    def append(self, count: int, mask: Tensor | None = None) -> int:
        """Reserve slots for `count` tokens a row, real where `mask` [B, count] is True.

        Returns the slot of the first.
        """
        start = self.reserve(count)
        self.real[:, start : self.length] = True if mask is None else mask
        self.padded = self.padded or mask is not None
        return start

    def positions(self, start: int) -> Tensor:
        """Positions [B, S] of the tokens from slot `start` on: padding does not count."""
        counts = self.real[:, : self.length].cumsum(-1)
        return (counts - 1).clamp(min=0)[:, start:]

    def seen(self, start: int, device: torch.device) -> Tensor:
        """What each token from slot `start` on sees, [B, 1, S, length]: True is seen.

        A padding token sees itself: a fully masked row gives NaN, and the NPU's attention refuses
        it.
        """
        index = torch.arange(self.length, device=device)
        rows = index[start:, None]
        return ((index <= rows) & self.real[:, None, None, : self.length]) | (index == rows)

    def extend(self, count: int, mask: Tensor | None = None) -> "StepContext":
        """Reserve slots as `append` does; return their context."""
        start = self.append(count, mask)
        positions = self.positions(start)
        cos, sin = (table[positions][:, None] for table in (self.cos, self.sin))
        # Where the mask is, so that one left on another device fails here.
        seen = self.seen(start, (self.real if mask is None else mask).device)
        return StepContext(start, self.length, seen, cos, sin)


def _allocate(
    depth: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """A tensor [2, *shape] per layer.

    On a CPU they are views of one block, keys of all layers before the values, as forward.cpp reads
    it, and no slot is read before it is written. Operators of other devices may read whole blocks
    of slots. There each layer has memory of its own: torch_npu prepares an operator anew for each
    offset into a storage, and once for all layers where the offsets are alike (op-plugin 517f2e7d,
    op_api_common.cpp:232, the key of its cache).
    """
    if device.type == "cpu":
        try:
            return list(torch.empty(2, depth, *shape, dtype=dtype).unbind(1))
        except RuntimeError as error:  # it says how many bytes, but not of what
            raise _too_large(depth, shape, dtype) from error
    return [torch.zeros(2, *shape, dtype=dtype, device=device) for _ in range(depth)]


def _too_large(depth: int, shape: tuple[int, ...], dtype: torch.dtype) -> SettingsError:
    """The error in the same words on every rank: what is free differs from one to the next."""
    batch, _, max_seq_len, _ = shape
    gib = 2 * depth * math.prod(shape) * dtype.itemsize / 2**30
    return SettingsError(
        f"the KV cache of {batch} row(s) with max_seq_len {max_seq_len} takes {gib:,.1f} GiB on a "
        "rank, which this machine does not give; give a smaller max_seq_len or fewer rows"
    )


class StepContext:
    """S new tokens: cache slots [start, end), what each sees, the angles of its position."""

    def __init__(self, start: int, end: int, mask: Tensor, cos: Tensor, sin: Tensor) -> None:
        self.start = start
        self.end = end
        self.mask = mask  # [B, 1, S, end], True is seen
        self.cos = cos
        self.sin = sin  # cos, sin [B, 1, S, rotary]
