"""Made-up tables of results, as `tasks.evaluate` gives them, small enough to check by eye."""

import math
from types import SimpleNamespace

import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHOICES = {"A": "一", "B": "二<b>", "C": "三", "D": "四"}
QUESTION = "甲\n<script>alert(1)</script> $x$"


def answers(labelled: bool = True) -> pd.DataFrame:
    """Two subjects, one of them hard; the last question was too long to ask."""
    rows = [
        ("college_physics", "STEM", True, "0", "A", "A"),
        ("college_physics", "STEM", True, "7", "B", "C"),
        ("logic", "Humanities", False, "0", "D", "D"),
        ("logic", "Humanities", False, "1", "D", "D"),
        ("logic", "Humanities", False, "2", "D", ""),
    ]
    table = pd.DataFrame(rows, columns=["subject", "class", "hard", "id", "expected", "predicted"])
    asked = table["predicted"] != ""
    correct = (table["predicted"] == table["expected"]) & labelled
    return table.assign(
        name=table["subject"].str.title(),
        question=QUESTION,
        **CHOICES,
        correct=correct,
        too_long=~asked,
        expected=table["expected"] if labelled else "",
        prompt="问" + table["id"] + "\n答案：",
        prompt_tokens=11,
        shots_used=asked * 2,
        **{f"p_{c}": asked.map({True: p, False: math.nan}) for c, p in SHARES.items()},
    )


SHARES = {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}


def yes_or_no() -> pd.DataFrame:
    """BoolQ: one subject, two choices that are their own text."""
    rows = [
        ("0", "no", "no", 0.75, 0.25),
        ("1", "yes", "no", 0.95, 0.05),
        ("2", "yes", "yes", 0.45, 0.55),
    ]
    table = pd.DataFrame(rows, columns=["id", "expected", "predicted", "p_no", "p_yes"])
    about = {
        "subject": "boolq",
        "name": "BoolQ",
        "class": "Reading",
        "hard": False,
        "question": "is it?",
        "shots_used": 0,
        "prompt_tokens": 9,
        "too_long": False,
        "prompt": "is it?\nAnswer:",
    }
    return table.assign(correct=table["expected"] == table["predicted"], **about)


def byte_tokenizer(merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """A token per byte of UTF-8, and one per merge."""
    pieces = [
        "<|endoftext|>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *("".join(pair) for pair in merges),
    ]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


class Fake:
    """Finds the letter most likely that `favourite` names, or writes `says`; remembers what it was
    asked.
    """

    max_seq_len = 10_000
    config = SimpleNamespace(vocab_size=271)

    def __init__(self, favourite: str = "A", value: float = 0.0, says: str = "") -> None:
        self.tokenizer = byte_tokenizer()
        self.asked = []
        self.groups = [self]
        self.value = value
        self.says = says
        self.favourite = self.tokenizer.convert_tokens_to_ids(favourite)

    def describe(self) -> dict:
        return {"fingerprint": "f", "dtype": "float32", "quant": None}

    def score_ids(
        self, requests: list, stream=None, tokenizer_size=None
    ) -> list[tuple[float, bool]]:
        self.asked.append([self.tokenizer.decode(context) for context, _ in requests[::4]])
        return [(self.value if ids == [self.favourite] else -9.0, False) for _, ids in requests]

    def generate(self, prompts: list, max_new_tokens: int, stop=None) -> list:
        self.asked.append([self.tokenizer.decode(prompt) for prompt in prompts])
        return [SimpleNamespace(text=self.says) for _ in prompts]
