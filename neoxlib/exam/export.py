"""Results as files that other people's scripts parse: the Ascend SDK's, and C-Eval's submission."""

import json
from pathlib import Path

import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.exam.data.subjects import CLASSES
from neoxlib.exam.results import choices

NO_ANSWER = "-1"  # what the SDK writes where no letter came
FOLDER = "test_result"

# Names that the SDK gives its files: with the rank in the guide's release, without in the newer one, whose table of
# questions is another, too. Written once, as by rank 0: every rank would write the same.
SDK_FILES = {
    "guide": {
        "log": "device0.log",
        "table": "cache0.csv",
        "classes": "result_0_classes_acc.json",
        "subjects": "result_0_subject_acc.json",
    },
    "newer": {
        "log": "device.log",
        "table": "cache.txt",
        "classes": "result_classes_acc.json",
        "subjects": "result_subject_acc.json",
    },
}


def write_files(run_dir: str | Path, results: pd.DataFrame, sdk: str = "guide") -> list[str]:
    """Write the vendor's files, or the submission of a split without answers; gives their names in the run folder.

    Raises SettingsError for an `sdk` that is not one of SDK_FILES.
    """
    unlabelled = (results["expected"] == "").any()
    texts = (
        {"submission.json": json.dumps(submission(results), indent=4)}
        if unlabelled
        else vendor_files(results, sdk)
    )
    for name, text in texts.items():
        path = Path(run_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


def vendor_files(results: pd.DataFrame, sdk: str = "guide") -> dict[str, str]:
    """`test_result/` as the Ascend SDK lays it out: {name: text}.

    cache0.csv                 subject,id,expected,predicted; no header, ids of the data file, -1 for no answer
    cache.txt (newer)          id,subject,expected,predicted; no header, subjects by name, ids counted through all
    result_0_classes_acc.json  {"STEM": …, "Social Science": …, "Humanities": …, "Other": …, "Avg": …, "Avg(Hard)": …}
    result_0_subject_acc.json  {"accountant": 0.53, …} in the order of the questions
    device0.log                each prompt, answer and verdict

    Expected is in column C and predicted in column D of both tables.
    """
    if sdk not in SDK_FILES:
        raise SettingsError(
            f"the vendor's files are named as by {sdk!r}; expected one of {', '.join(SDK_FILES)}"
        )
    newer = sdk == "newer"
    asked = results.sort_values("subject", kind="stable", ignore_index=True) if newer else results
    texts = {
        "table": _table(asked.assign(number=range(len(asked))), ["number", "subject"])
        if newer
        else _table(asked, ["subject", "id"]),
        "classes": json.dumps(class_accuracy(asked)),
        "subjects": json.dumps(asked.groupby("subject", sort=False)["correct"].mean().to_dict()),
        "log": "".join(_log_lines(asked)),
    }
    return {f"{FOLDER}/{SDK_FILES[sdk][what]}": text for what, text in texts.items()}


def class_accuracy(results: pd.DataFrame) -> dict[str, float | None]:
    """The SDK's keys in the SDK's order, as fractions; with classes of its own, an exam's that were asked.

    Avg weighs questions alike (micro). Avg(Hard) is over the hard questions; newer SDKs divide by all questions, which
    is not copied. A class or subset without questions is null.
    """
    asked = results["class"].unique()
    usual = set(asked) <= set(CLASSES)
    names = (
        CLASSES if usual else [name for name in dict.fromkeys((*CLASSES, *asked)) if name in asked]
    )
    parts = {name: results[results["class"] == name] for name in names}
    parts |= {"Avg": results, "Avg(Hard)": results[results["hard"]]}
    return {
        name: float(part["correct"].mean()) if len(part) else None for name, part in parts.items()
    }


def submission(results: pd.DataFrame) -> dict[str, dict[str, str]]:
    """{subject: {id: letter}} as cevalbenchmark.com takes it; a question without an answer says the first choice."""
    table = results.assign(predicted=results["predicted"].replace("", choices(results)[0]))
    return {
        s: dict(zip(p["id"], p["predicted"], strict=True))
        for s, p in table.groupby("subject", sort=False)
    }


def _table(results: pd.DataFrame, named_by: list[str]) -> str:
    table = results[[*named_by, "expected"]].assign(
        predicted=results["predicted"].replace("", NO_ANSWER)
    )
    return table.to_csv(header=False, index=False, lineterminator="\n")


def _log_lines(results: pd.DataFrame) -> list[str]:
    return [
        f"[+] prompt length: {row.prompt_tokens}\n"
        f"========== prompt start ==========\n{row.prompt}\n========== prompt end ==========\n"
        + (
            f"========== answer start ==========\n{text}\n========== answer end ==========\n"
            if text
            else ""
        )
        + f"[{'Correct' if row.correct else 'Wrong'}] predict: {row.predicted or NO_ANSWER}, label: {row.expected}\n"
        for row, text in zip(
            results.itertuples(), results.get("answer_text", [""] * len(results)), strict=True
        )
    ]
