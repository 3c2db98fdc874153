"""Bytes that one rank holds and reads, by the layers' own shard rules.

Knows no chip and opens no weights.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from neoxlib.model.config import ModelConfig
from neoxlib.model.layers import ParameterSpec
from neoxlib.model.parameters import full_parameters
from neoxlib.model.quant import SCHEMES

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PARTS = {
    "embedding": "embed_in",
    "attention": ".attention.",
    "mlp": ".mlp.",
    "norms": "norm",
    "head": "embed_out",
}


@dataclass(frozen=True)
class Budget:
    """Bytes of one request: `batch` rows of `seq_len` positions, prompt and answer together.

    `packed` names the schemes whose weights the device multiplies as they are; weights of other
    schemes are unpacked at each use.
    """

    config: ModelConfig
    world_size: int
    batch: int
    seq_len: int
    dtype: str
    quant: str | None = None
    packed: tuple[str, ...] = tuple(SCHEMES)

    @cached_property
    def ranks(self) -> list[dict[str, int]]:
        """Bytes of weights by class of tensor, rank by rank.

        They differ if the vocabulary does not divide evenly.
        """
        ranks = [dict.fromkeys(PARTS, 0) for _ in range(self.world_size)]
        for name, full in full_parameters(self.config, self.quant).items():
            part = next(part for part, mark in PARTS.items() if mark in name)
            for rank, sums in enumerate(ranks):
                sums[part] += self._bytes(full, rank)
        return ranks

    def _bytes(self, full: ParameterSpec, rank: int) -> int:
        """Bytes of one parameter on a rank."""
        itemsize = full.dtype.itemsize if full.dtype else BYTES[self.dtype]
        return prod(full.rule.shape(full.shape, rank, self.world_size)) * itemsize

    @property
    def weights(self) -> dict[str, int]:
        """Weights of the fullest rank by class of tensor."""
        return max(self.ranks, key=lambda parts: sum(parts.values()))

    @property
    def weights_read(self) -> int:
        """Bytes of weights that one step reads: all except embed_in, of which it takes one row.

        A tied embedding is the head as well and is read whole. A weight that is unpacked is written
        once and read once more, in the dtype of the run.
        """
        weights = self.weights
        read = sum(weights.values()) - (
            0 if self.config.tie_word_embeddings else weights["embedding"]
        )
        return read + 2 * BYTES[self.dtype] * sum(self.unpacked)

    @cached_property
    def unpacked(self) -> list[int]:
        """Elements of each weight that the device unpacks at each use, on the fullest rank."""
        stored = full_parameters(self.config, self.quant)
        plain = full_parameters(self.config)
        stays = {None, *(SCHEMES[name].tensors(32, 32)["weight"][1] for name in self.packed)}
        names = [name for name in plain if stored[name].dtype not in stays]
        last = self.world_size - 1  # the fullest share of what does not divide
        return [
            prod(plain[name].rule.shape(plain[name].shape, last, self.world_size)) for name in names
        ]

    @property
    def kv_cache(self) -> int:
        """Bytes of keys and values of this rank's heads."""
        heads_here = self.config.num_attention_heads // self.world_size
        position = (
            2
            * self.config.num_hidden_layers
            * heads_here
            * self.config.head_dim
            * BYTES[self.dtype]
        )
        return self.batch * self.seq_len * position

    @property
    def workspace(self) -> int:
        """Estimate of the temporary bytes of a forward pass over all positions, fused attention.

        Four whole hidden states; the larger of the attention's tensors for the heads here (q, k, v,
        rotated q and k, output) and the MLP before and after its activation; the mask of all pairs
        of positions, as bytes and as numbers (PyTorch converts one to the other); one row of
        logits, in float32 as well; `unpacking`.
        """
        config = self.config
        size = BYTES[self.dtype]
        here = max(6 * config.hidden_size, 2 * config.intermediate_size) / self.world_size
        tokens = self.batch * self.seq_len * (4 * config.hidden_size + here) * size
        mask = self.seq_len**2 * (1 + size)
        logits = config.vocab_size * (4 + size)
        return int(tokens) + self.batch * (mask + logits) + self.unpacking

    @property
    def unpacking(self) -> int:
        """Bytes of the largest weight that is unpacked, in float32 and rounded, for any batch.

        Part of the workspace.
        """
        return max(self.unpacked, default=0) * (4 + BYTES[self.dtype])

    @property
    def staging(self) -> int:
        """Bytes of host memory that loading takes on all ranks, besides Python, torch and weights.

        Each rank holds its largest tensor twice: as it was read, and in its own dtype.
        """
        largest = max(
            self._bytes(full, 0) for full in full_parameters(self.config, self.quant).values()
        )
        return 2 * largest * self.world_size

    @property
    def disk(self) -> int:
        """Bytes that a cut for this world size writes, all ranks together."""
        return sum(sum(parts.values()) for parts in self.ranks)

    def operations(self, tokens: int) -> float:
        """Multiplications and additions of the linear layers for `tokens` tokens, on this rank.

        Those of attention itself are left out.
        """
        unpacked = replace(self, quant=None).weights_read / BYTES[self.dtype]
        return 2 * unpacked * tokens

    def forward(self, new: int, before: int) -> tuple[float, float]:
        """Bytes and operations of a pass on this rank that adds `new` tokens to `before` of a row.

        Weights are read once, and keys and values of all positions. There are two operations per
        weight and token (the head's for a row's last token only), and four per element of a query
        and position that it sees.
        """
        config = self.config
        head = "embedding" if config.tie_word_embeddings else "head"
        last = 2 * replace(self, quant=None).weights[head] / BYTES[self.dtype]
        seen = new * before + new * (new + 1) / 2  # pairs of query and position, a row
        attention = 4 * config.num_hidden_layers * config.hidden_size / self.world_size * seen
        linear = self.operations(new) - last * (new - 1)
        size = self.weights_read + replace(self, seq_len=before + new).kv_cache
        return size, self.batch * (linear + attention)
