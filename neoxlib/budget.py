"""How many bytes one rank holds and reads: sums over the layers' own shard rules. Knows no chip, opens no weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from neoxlib.config import ModelConfig
from neoxlib.layers import Full
from neoxlib.model import full_parameters

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PARTS = {"embedding": "embed_in", "attention": ".attention.", "mlp": ".mlp.", "norms": "norm", "head": "embed_out"}


@dataclass(frozen=True)
class Budget:
    """Bytes of one request: `batch` rows of `seq_len` positions, prompt and answer together, over all ranks."""

    config: ModelConfig
    world_size: int
    batch: int
    seq_len: int
    dtype: str
    quant: str | None = None

    @cached_property
    def ranks(self) -> list[dict[str, int]]:
        """Weights by class of tensor, rank by rank: the shares of a vocabulary that does not divide differ."""
        ranks = [dict.fromkeys(PARTS, 0) for _ in range(self.world_size)]
        for name, full in full_parameters(self.config, self.quant).items():
            part = next(part for part, mark in PARTS.items() if mark in name)
            for rank, sums in enumerate(ranks):
                sums[part] += self._bytes(full, rank)
        return ranks

    def _bytes(self, full: Full, rank: int) -> int:
        """A parameter's on a rank."""
        itemsize = full.dtype.itemsize if full.dtype else BYTES[self.dtype]
        return prod(full.rule.shape(full.shape, rank, self.world_size)) * itemsize

    @property
    def weights(self) -> dict[str, int]:
        """Weights of the fullest rank by class of tensor."""
        return max(self.ranks, key=lambda parts: sum(parts.values()))

    @property
    def weights_read(self) -> int:
        """Weights that one step reads: all but embed_in, of which it takes a row; a tied embedding is the head too."""
        weights = self.weights
        return sum(weights.values()) - (0 if self.config.tie_word_embeddings else weights["embedding"])

    @property
    def kv_cache(self) -> int:
        """Keys and values of this rank's heads."""
        heads_here = self.config.num_attention_heads // self.world_size
        position = 2 * self.config.num_hidden_layers * heads_here * self.config.head_dim * BYTES[self.dtype]
        return self.batch * self.seq_len * position

    @property
    def workspace(self) -> int:
        """Estimate of what a forward over all positions holds besides, with fused attention.

        Four hidden states whole; the larger of q, k, v, q and k rotated and the attention's sum for the heads here, and
        the MLP before and after its activation; the mask of all pairs of positions, as bytes and as numbers (PyTorch
        turns one into the other); one row of logits, in float32 as well.
        """
        config, size = self.config, BYTES[self.dtype]
        here = max(6 * config.hidden_size, 2 * config.intermediate_size) / self.world_size
        tokens = self.batch * self.seq_len * (4 * config.hidden_size + here) * size
        return int(tokens) + self.batch * (self.seq_len**2 * (1 + size) + config.vocab_size * (4 + size))

    @property
    def staging(self) -> int:
        """Host memory that all ranks together need to load, besides Python, torch and weights that stay on the host:
        each holds its largest tensor twice, as it was read and in its own dtype."""
        largest = max(self._bytes(full, 0) for full in full_parameters(self.config, self.quant).values())
        return 2 * largest * self.world_size

    @property
    def disk(self) -> int:
        """What a cut for this world size writes: all ranks together."""
        return sum(sum(parts.values()) for parts in self.ranks)

    def operations(self, tokens: int) -> float:
        """Multiplications and additions of the linears for so many tokens, on this rank; attention's own left out."""
        return 2 * replace(self, quant=None).weights_read / BYTES[self.dtype] * tokens  # packed weights are unpacked
