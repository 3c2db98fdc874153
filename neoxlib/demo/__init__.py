"""The model that ships with the package, its exam, and prompts it has something to say to. Made by `make`."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
EXAM_DIR = Path(__file__).parent / "ceval"

PROMPTS = {
    "en": ["The panda is", "Mars is the", "The doctor works at", "After Monday comes"],
    "zh": [
        "关于职业：\n医生在",
        "关于星空：\n火星",
        "关于反义词：\n“大”的反义词是",
        "关于水果与蔬菜：\n柠檬",
    ],
}
