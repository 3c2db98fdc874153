"""lm-evaluation-harness's own tasks, as installed, over rows that a test has in place of a data set
from the hub.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lm_eval.models
import lm_eval.tasks
from datasets import Dataset, DatasetDict
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model
from lm_eval.evaluator import evaluate

FOLDER = Path(lm_eval.tasks.__file__).parent
WANTED = (
    "ceval",
    "cmmlu",
    "mmlu/default",
    "super_glue/boolq",
    "wikitext",
    "gsm8k",
)  # all would take seconds to index

Splits = Mapping[str, Sequence[dict[str, Any]]]  # split -> rows


def run(
    model: LM, rows: Mapping[str, Splits], shots: int = 0, generation: dict[str, Any] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Task -> its samples with requests, answers and metrics: `--num_fewshot shots --gen_kwargs …
    --log_samples`.
    """
    manager = lm_eval.tasks.TaskManager(
        include_defaults=False, include_path=[FOLDER / name for name in WANTED]
    )
    tasks = {}
    for name, splits in rows.items():
        local = DatasetDict(
            {split: Dataset.from_list(list(several)) for split, several in splits.items()}
        )
        with patch("datasets.load_dataset", return_value=local):
            task = tasks[name] = manager.load([name])["tasks"][name]
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(1234)
        if generation:
            task.set_config("generation_kwargs", generation, update=True)
    return evaluate(model, {"tasks": tasks}, bootstrap_iters=0)["samples"]


def transformers_model(folder: Path, batch_size: int = 3) -> LM:
    """lm-eval's own model of a checkpoint: `--model hf` in float32."""
    return get_model("hf")(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size
    )


def ask(kind: str, *requests: tuple) -> list[Instance]:
    """Requests of one kind, as lm-evaluation-harness makes them."""
    return [Instance(kind, {}, arguments, n) for n, arguments in enumerate(requests)]
