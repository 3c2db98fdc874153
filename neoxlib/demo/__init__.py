"""The model that ships with the package, its exam, and prompts it has something to say to. Made by `make`."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
EXAM_DIR = Path(__file__).parent / "ceval"

PROMPTS = {
    "en": ["The panda is", "Mars is", "The doctor works at", "After Monday comes"],
    "zh": ["熊猫住在", "火星是", "医生在", "“大”的反义词是"],
}
