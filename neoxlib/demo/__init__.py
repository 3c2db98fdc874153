"""The shipped model, its exam, prompts that it can answer, and texts that it has not seen.

All of it is data; `neoxlib.demo.making` made it and is not in the wheel.
"""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
EXAM_DIR = Path(__file__).parent / "ceval"
UNSEEN = Path(__file__).parent / "unseen.txt"
UNSEEN_SEED = 990_001  # of the corpus; no training run of the shipped model began from it
DOCUMENTS = 60  # in `UNSEEN`
BETWEEN = "\n----\n"  # between two documents in `UNSEEN`
SHIPPED = "shipped"  # stands for `MODEL_DIR` on the command line

PROMPTS = {
    "en": ["The panda is", "Mars is the", "The doctor works at", "After Monday comes"],
    "zh": [
        "关于职业：\n医生在",
        "关于星空：\n火星",
        "关于反义词：\n“大”的反义词是",
        "关于水果与蔬菜：\n柠檬",
    ],
}


def model_folder(model: str | Path) -> Path:
    """Return a model's folder: the shipped one for the word shipped, if no folder is so named."""
    return MODEL_DIR if str(model) == SHIPPED and not Path(model).exists() else Path(model)


def unseen_texts() -> list[str]:
    """Return documents like the shipped model's training data that it was not trained on."""
    return UNSEEN.read_text(encoding="utf-8").removesuffix("\n").split(BETWEEN)
