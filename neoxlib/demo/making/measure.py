"""Accuracy of the written checkpoint on its exam, by transformers in float32."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, GPTNeoXForCausalLM, PreTrainedTokenizerBase

from neoxlib.demo.making.corpus import FRAMES, LETTERS, Question
from neoxlib.demo.making.exam import questions
from neoxlib.demo.making.facts import SUBJECTS, Subject


def prompt(subject: Subject, shots: list[Question], question: Question) -> str:
    """C-Eval's own few-shot prompt, ending where the letter comes."""
    header, _, cue = FRAMES["official"]
    shown = [shot.text(cue) + shot.answer + "\n\n" for shot in shots]
    return header.format(chinese=subject.chinese) + "".join(shown) + question.text(cue)


@torch.inference_mode()
def predict(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> list[str]:
    """Return the most likely letter after each prompt.

    Rows are padded on the right, where causal attention cannot look.
    """
    letters = [tokenizer.encode(letter)[-1] for letter in LETTERS]
    rows = [torch.tensor(tokenizer.encode(text)) for text in prompts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    logits = model(ids).logits  # [B, S, vocab]
    last = logits[torch.arange(len(rows)), [len(row) - 1 for row in rows]]
    return [LETTERS[i] for i in last[:, letters].argmax(-1).tolist()]


def measure(model_dir: Path, shots: tuple[int, ...] = (0, 5)) -> dict[str, dict[str, float]]:
    """Accuracy on val by subject, and over all questions, for each number of shots."""
    model = GPTNeoXForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return {f"{count}-shot": by_subject(model, tokenizer, count) for count in shots}


def by_subject(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerBase, shots: int
) -> dict[str, float]:
    """Accuracy of each subject and, under "all", of all questions together."""
    right = 0
    total = 0
    table = {}
    for subject in SUBJECTS:
        splits = questions(subject.key)
        texts = [prompt(subject, splits["dev"][:shots], question) for question in splits["val"]]
        answers = [question.answer for question in splits["val"]]
        hits = sum(p == a for p, a in zip(predict(model, tokenizer, texts), answers, strict=True))
        table[subject.key] = round(hits / len(answers), 3)
        right = right + hits
        total = total + len(answers)
    return table | {"all": round(right / total, 3)}
