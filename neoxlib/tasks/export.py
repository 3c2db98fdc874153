"""Results as files that other people's scripts parse: the Ascend SDK's, and C-Eval's submission."""

import json
from pathlib import Path

import pandas as pd

from neoxlib.tasks.subjects import CLASSES

NO_ANSWER = "-1"  # what the SDK writes where no letter came


def write_files(run_dir: str | Path, results: pd.DataFrame) -> list[str]:
    """Write the vendor's files, or the submission of a split without answers; gives their names in the run folder."""
    unlabelled = (results["expected"] == "").any()
    texts = {"submission.json": json.dumps(submission(results), indent=4)} if unlabelled else vendor_files(results)
    for name, text in texts.items():
        path = Path(run_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


def vendor_files(results: pd.DataFrame) -> dict[str, str]:
    """`test_result/` as the Ascend SDK of the guide's release lays it out, said once, as by rank 0: {name: text}.

    cache0.csv                 subject,id,expected,predicted; no header, ids of the data file, -1 for no answer
    result_0_classes_acc.json  {"STEM": …, "Social Science": …, "Humanities": …, "Other": …, "Avg": …, "Avg(Hard)": …}
    result_0_subject_acc.json  {"accountant": 0.53, …} in the exam's order
    device0.log                each prompt, answer and verdict

    Avg weighs questions alike (micro). Avg(Hard) is over the hard questions; newer SDKs divide by all questions, which
    is not copied. A class or subset without questions is null.
    """
    by_subject = results.groupby("subject", sort=False)["correct"].mean().to_dict()
    return {
        "test_result/cache0.csv": _cache(results),
        "test_result/result_0_classes_acc.json": json.dumps(class_accuracy(results)),
        "test_result/result_0_subject_acc.json": json.dumps(by_subject),
        "test_result/device0.log": "".join(_log_lines(results)),
    }


def class_accuracy(results: pd.DataFrame) -> dict[str, float | None]:
    """The SDK's six keys in the SDK's order, as fractions."""
    parts = {name: results[results["class"] == name] for name in CLASSES}
    parts |= {"Avg": results, "Avg(Hard)": results[results["hard"]]}
    return {name: float(part["correct"].mean()) if len(part) else None for name, part in parts.items()}


def submission(results: pd.DataFrame) -> dict[str, dict[str, str]]:
    """{subject: {id: letter}} as cevalbenchmark.com takes it; a question that was too long to ask says "A"."""
    table = results.assign(predicted=results["predicted"].replace("", "A"))
    return {s: dict(zip(p["id"], p["predicted"], strict=True)) for s, p in table.groupby("subject", sort=False)}


def _cache(results: pd.DataFrame) -> str:
    table = results[["subject", "id", "expected"]].assign(predicted=results["predicted"].replace("", NO_ANSWER))
    return table.to_csv(header=False, index=False, lineterminator="\n")


def _log_lines(results: pd.DataFrame) -> list[str]:
    return [
        f"[+] prompt length: {row.prompt_tokens}\n"
        f"========== prompt start ==========\n{row.prompt}\n========== prompt end ==========\n"
        f"[{'Correct' if row.correct else 'Wrong'}] predict: {row.predicted or NO_ANSWER}, label: {row.expected}\n"
        for row in results.itertuples()
    ]
