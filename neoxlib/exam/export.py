"""Write results as files that other scripts parse: the Ascend SDK's, and C-Eval's submission."""

import json
from pathlib import Path

import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.exam.data.subjects import CLASSES
from neoxlib.exam.results import KEY, choices
from neoxlib.files import replace

NO_ANSWER = "-1"  # in the SDK's files, if no letter was found
FOLDER = "test_result"

# Names of the SDK's files: with the rank in the guide's release, without it in the newer one, whose
# table of questions differs, too. Written once, as by rank 0: every rank would write the same.
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
    """Write the vendor's files, or the submission of a split without answers.

    Returns their names in the run folder. Raises SettingsError for an `sdk` not in SDK_FILES.
    """
    if (results["expected"] == "").any():
        texts = {"submission.json": json.dumps(submission(results), indent=4)}
    else:
        texts = vendor_files(results, sdk)
    for name, text in texts.items():
        path = Path(run_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, text.encode(), ".part")
    return list(texts)


def vendor_files(results: pd.DataFrame, sdk: str = "guide") -> dict[str, str]:
    """`test_result/` as the Ascend SDK lays it out: {name: text}.

    cache0.csv                 subject,id,expected,predicted; no header, ids of the data file, -1
                               for no answer
    cache.txt (newer)          id,subject,expected,predicted; no header, sorted by subject, ids
                               counted through all
    result_0_classes_acc.json  {"STEM": …, "Social Science": …, "Humanities": …, "Other": …,
                               "Avg": …, "Avg(Hard)": …}
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
    numbered = asked.assign(number=range(len(asked)))
    texts = {
        "table": _table(numbered, ("number", "subject") if newer else KEY),
        "classes": json.dumps(class_accuracy(asked)),
        "subjects": json.dumps(asked.groupby("subject", sort=False)["correct"].mean().to_dict()),
        "log": "".join(_log_entry(row) for row in asked.to_dict("records")),
    }
    return {f"{FOLDER}/{SDK_FILES[sdk][what]}": text for what, text in texts.items()}


def class_accuracy(results: pd.DataFrame) -> dict[str, float | None]:
    """Accuracies as fractions, under the SDK's keys in the SDK's order.

    An exam with classes of its own has those that were asked. Avg weights questions equally
    (micro). Avg(Hard) is over the hard questions; newer SDKs divide by all questions, which is not
    copied. A class or subset without questions is null.
    """
    names = CLASSES
    asked = results["class"].unique()
    if not set(asked) <= set(CLASSES):
        names = [name for name in dict.fromkeys((*CLASSES, *asked)) if name in asked]
    parts = {name: results[results["class"] == name] for name in names}
    parts |= {"Avg": results, "Avg(Hard)": results[results["hard"]]}
    return {
        name: float(part["correct"].mean()) if len(part) else None for name, part in parts.items()
    }


def submission(results: pd.DataFrame) -> dict[str, dict[str, str]]:
    """{subject: {id: letter}} as cevalbenchmark.com takes it; no answer is the first choice."""
    table = results.assign(predicted=results["predicted"].replace("", choices(results)[0]))
    return {
        subject: dict(zip(part["id"], part["predicted"], strict=True))
        for subject, part in table.groupby("subject", sort=False)
    }


def _table(results: pd.DataFrame, named_by: tuple[str, ...]) -> str:
    predicted = results["predicted"].replace("", NO_ANSWER)
    table = results[[*named_by, "expected"]].assign(predicted=predicted)
    return table.to_csv(header=False, index=False, lineterminator="\n")


def _log_entry(row: dict) -> str:
    """A question in the SDK's log: its prompt, the text that the model wrote, the verdict."""
    text = row.get("answer_text", "")
    verdict = "Correct" if row["correct"] else "Wrong"
    parts = [
        f"[+] prompt length: {row['prompt_tokens']}\n",
        _framed("prompt", row["prompt"]),
        _framed("answer", text) if text else "",
        f"[{verdict}] predict: {row['predicted'] or NO_ANSWER}, label: {row['expected']}\n",
    ]
    return "".join(parts)


def _framed(what: str, text: str) -> str:
    return f"========== {what} start ==========\n{text}\n========== {what} end ==========\n"
