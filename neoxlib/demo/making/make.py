"""Make the shipped model, its tokenizer and its exam.

`python -m neoxlib.demo.making.make [--out DIR]`
"""

import argparse
import json
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path

import tokenizers
import torch
import transformers

from neoxlib.demo.making.exam import write_exam
from neoxlib.demo.making.measure import measure
from neoxlib.demo.making.tokenizer import save_tokenizer, train_tokenizer
from neoxlib.demo.making.train import train_in_processes

HERE = Path(__file__).resolve().parents[1]  # neoxlib/demo
MADE = ("model", "ceval")
SEED = 1
PROCESSES = 2


def make(steps: int, seed: int, folder: Path) -> dict:
    """Everything into `folder`/model and `folder`/ceval; returns what training.json says."""
    model_dir = folder / "model"
    exam_dir = folder / "ceval"
    model_dir.mkdir(parents=True)
    write_exam(exam_dir)
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, model_dir)
    facts = train_in_processes(model_dir, tokenizer, steps, seed, PROCESSES)
    facts |= {"seed": seed, "accuracy": measure(model_dir), "versions": versions()}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (model_dir / "training.json").write_text(text, encoding="utf-8")
    return facts


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def put_in_place(made: Path, out: Path) -> None:
    """Rename each finished folder into `out`, so that nobody sees one half written."""
    for name in MADE:
        old = out / f".{name}.old"
        if (out / name).exists():
            os.rename(out / name, old)
        os.rename(made / name, out / name)
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="gets model/ and ceval/")
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--seed", type=int, default=SEED)
    settings = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(PROCESSES)
    taken = [name for name in MADE if (settings.out / name).exists()]
    if taken and settings.out.resolve() != HERE:
        names = " and ".join(taken)
        parser.error(f"{settings.out} has {names} already, which would be lost; choose another")
    settings.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.out, prefix=".making-") as made:
        facts = make(settings.steps, settings.seed, Path(made))
        put_in_place(Path(made), settings.out)
    print(json.dumps(facts, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
