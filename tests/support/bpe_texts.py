"""Texts of many scripts, a tokenizer that cuts their characters, and an oracle for stop strings."""

from functools import cache

from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
PAD = "<|padding|>"
TEXTS = [
    "The cat sat on the mat, and then - it did not.",
    "今天天气很好，我们去公园。",
    "naïve café 😀👩‍👩‍👧 🇨🇳 x̂  two  spaces\n\ttab",
    "Iñtërnâtiônàlizætiøn � ﷽ \u200d end ",
    "",
]
steady = settings(deadline=None, derandomize=True)


@cache
def tokenizer_for() -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges: most characters beyond ASCII are cut into several tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator(TEXTS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|endoftext|>", pad_token="<|padding|>"
    )


def cut(text: str, stop: list[str]) -> str:
    """The oracle: read by character until a stop string ends here; cut the longest such."""
    for end in range(len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text
