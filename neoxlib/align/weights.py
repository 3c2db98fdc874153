"""The reference's weights: read from the checkpoint one part of the model at a time."""

import os

import torch
from torch import Tensor

from neoxlib.inference.reference import float_readers
from neoxlib.model.steps import LOGITS

Weights = dict[str, Tensor]  # float64, by the name within the part


class ReferenceWeights:
    """Whole tensors as float64, as a model of `dtype` holds them: rounded to it once.

    Packed weights are the floats that they stand for. Raises WeightsError as `open_checkpoint`.
    """

    def __init__(
        self, model_dir: str | os.PathLike[str], dtype: str = "float32", quant: str | None = None
    ) -> None:
        self.config, self.readers, self.packed = float_readers(model_dir, quant)
        self.dtype = getattr(torch, dtype)

    def layer(self, number: int) -> Weights:
        """The parameters of one layer."""
        prefix = f"gpt_neox.layers.{number}."
        names = [name for name in self.readers if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._read(name) for name in names}

    def beginning(self) -> Weights:
        """The embedding."""
        return {"gpt_neox.embed_in": self._read("gpt_neox.embed_in.weight")}

    def end(self) -> Weights:
        """The final norm and the head, which is the embedding if they are tied."""
        tied = self.config.tie_word_embeddings
        head = "gpt_neox.embed_in.weight" if tied else "embed_out.weight"
        norm = "gpt_neox.final_layer_norm"
        found = {f"{norm}.{part}": self._read(f"{norm}.{part}") for part in ("weight", "bias")}
        return found | {LOGITS: self._read(head)}

    def _read(self, name: str) -> Tensor:
        read = self.readers[name]()
        return (read if name in self.packed else read.to(self.dtype)).double()
