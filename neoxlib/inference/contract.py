"""The questions that a loaded model answers, in this process or over ranks."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from neoxlib.inference.rows import Answered
from neoxlib.inference.score import Score
from neoxlib.inference.text import Completion
from neoxlib.model.config import ModelConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from neoxlib.inference.timing import Case

Prompt = str | Sequence[int]


class Inference(Protocol):
    """The methods that Engine and Session share; both give the same answers.

    In a group every rank's engine is asked alike, and rank 0 has the answers.
    """

    @property
    def config(self) -> ModelConfig:
        """The model's config."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The checkpoint's tokenizer. Raises ConfigError when the folder has none."""

    @property
    def max_seq_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""

    @property
    def groups(self) -> "Sequence[Inference]":
        """The independent copies of the model, this one first: each can be called by a thread."""

    @property
    def first_answers(self) -> list[Answered]:
        """The first answers, as they were given."""

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
        """Continue `prompts`, all in one batch."""

    def logits(self, input_ids: Any, attention_mask: Any = None) -> "Tensor | None":
        """Logits [B, S, vocab] float32 on the CPU for `input_ids` [B, S]."""

    def activations(
        self, prompts: Sequence[Prompt], names: Sequence[str]
    ) -> "list[dict[str, np.ndarray]]":
        """What the steps `names` compute for each prompt: arrays [tokens, ...] float32."""

    def score(
        self, prompts: Sequence[Prompt], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probability of each choice after each prompt."""

    def score_ids(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        stream: Callable[[int, int], None] | None = None,
        tokenizer_size: int | None = None,
    ) -> list[Score]:
        """(log-probability, is greedy) of each (context ids, continuation ids)."""

    def profile(self, case: "Case") -> list[dict[str, list[float]]]:
        """Milliseconds of each step by part, a dict of lists per repeat of `case`."""

    def trace(self, case: "Case", folder: str | os.PathLike[str]) -> str:
        """Run the first steps of `case` under the profiler; `folder` gets each rank's trace."""

    def memory(self) -> list[dict[str, float]]:
        """MB of each rank."""

    def wait_until_resident(self) -> None:
        """Wait for the background work after a load."""

    def describe(self) -> dict[str, Any]:
        """Describe which model is loaded, where and how."""

    @property
    def graph_use(self) -> dict[str, Any]:
        """What was captured of decode and replayed; empty if it runs eagerly."""

    def close(self) -> None:
        """End the processes or the group that serve the model."""
