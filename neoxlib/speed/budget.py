"""How many bytes one rank holds and reads: sums over the layers' own shard rules. Knows no chip, opens no weights."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from neoxlib.model.config import ModelConfig
from neoxlib.model.layers import Full
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
    """Bytes of one request: `batch` rows of `seq_len` positions, prompt and answer together, over all ranks.

    `packed` names the schemes whose weights the device multiplies as they are; others are unpacked at each use.
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
        """Weights that one step reads: all but embed_in, of which it takes a row; a tied embedding is the head too.

        A weight that is unpacked is written once and read once more, in the dtype of the run.
        """
        weights = self.weights
        read = sum(weights.values()) - (
            0 if self.config.tie_word_embeddings else weights["embedding"]
        )
        return read + 2 * BYTES[self.dtype] * sum(self.unpacked)

    @cached_property
    def unpacked(self) -> list[int]:
        """Numbers in each weight that this device unpacks at each use, on the rank that has most of it."""
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
        """Keys and values of this rank's heads."""
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
        """Estimate of what a forward over all positions holds besides, with fused attention.

        Four hidden states whole; the larger of q, k, v, q and k rotated and the attention's sum for the heads here, and
        the MLP before and after its activation; the mask of all pairs of positions, as bytes and as numbers (PyTorch
        turns one into the other); one row of logits, in float32 as well. To it comes `unpacking`.
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
        """The largest weight that is unpacked, in float32 and rounded: part of the workspace, whatever the batch."""
        return max(self.unpacked, default=0) * (4 + BYTES[self.dtype])

    @property
    def staging(self) -> int:
        """Host memory that all ranks together need to load, besides Python, torch and weights that stay on the host:
        each holds its largest tensor twice, as it was read and in its own dtype."""
        largest = max(
            self._bytes(full, 0) for full in full_parameters(self.config, self.quant).values()
        )
        return 2 * largest * self.world_size

    @property
    def disk(self) -> int:
        """What a cut for this world size writes: all ranks together."""
        return sum(sum(parts.values()) for parts in self.ranks)

    def operations(self, tokens: int) -> float:
        """Multiplications and additions of the linears for so many tokens, on this rank; attention's own left out."""
        return (
            2 * replace(self, quant=None).weights_read / BYTES[self.dtype] * tokens
        )  # packed weights are unpacked

    def forward(self, new: int, before: int) -> tuple[float, float]:
        """Bytes and operations of a pass that adds `new` tokens to each row's `before`, on this rank.

        Weights are read once, and keys and values of all positions. Operations are two for each weight and token, those
        of the head for a row's last token alone, and four for each number of a query and each position that it sees.
        """
        config = self.config
        head = "embedding" if config.tie_word_embeddings else "head"
        last = 2 * replace(self, quant=None).weights[head] / BYTES[self.dtype]
        seen = new * before + new * (new + 1) / 2  # pairs of query and position, a row
        attention = 4 * config.num_hidden_layers * config.hidden_size / self.world_size * seen
        linear = self.operations(new) - last * (new - 1)
        return self.weights_read + replace(self, seq_len=before + new).kv_cache, self.batch * (
            linear + attention
        )
