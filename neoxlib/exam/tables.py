"""Tables about an exam and its rules, for people.

Texts are in full, Chinese as Chinese, markup in the data as text.
"""

from dataclasses import asdict

import pandas as pd

from neoxlib.demo import EXAM_DIR
from neoxlib.exam.data.benchmarks import BENCHMARKS
from neoxlib.exam.data.load import Task
from neoxlib.exam.profiles import Profile
from neoxlib.exam.results import TOO_LONG, marks
from neoxlib.workbook.table import TextTable

# Source and licence of each benchmark's data, as its pages say.
DATA = {
    "ceval": (
        "C-Eval, Huang et al., NeurIPS 2023, github.com/hkust-nlp/ceval",
        "CC BY-NC-SA 4.0: name the authors, no commercial use, share alike",
    ),
    "mmlu": ("MMLU, Hendrycks et al., ICLR 2021, github.com/hendrycks/test", "MIT"),
    "cmmlu": (
        "CMMLU, Li et al., 2023, arXiv 2306.09212, github.com/haonan-li/CMMLU",
        "CC BY-NC-SA 4.0: name the authors, no commercial use, share alike",
    ),
    "boolq": (
        "BoolQ, Clark et al., NAACL 2019, github.com/google-research-datasets/boolean-questions",
        "CC BY-SA 3.0: name the authors, share alike",
    ),
}
OWN = "none: subjects of its own, in the layout and under the rules of {}"


def exam_table(task: Task) -> TextTable:
    """The exam's size, and the source and licence of its data."""
    known = set(task.subjects) <= set(BENCHMARKS[task.name].subjects)
    source, licence = DATA[task.name] if known else (OWN.format(task.title), "its owner's to say")
    subjects = f"{len(task.subjects)} subject{'s' if len(task.subjects) > 1 else ''}"
    size = f"{len(task.questions):,} questions of {subjects}"
    facts = {"exam": f"{task.title}, split {task.split}, {size}"}
    if task.absent:
        facts["not in this folder"] = f"{len(task.absent)} subjects: {', '.join(task.absent)}"
    if task.root == EXAM_DIR:
        shipped = "the exam shipped with neoxlib"
        facts |= {
            "data": f"{shipped}: {task.title}'s layout, and none of its questions",
            "licence of the data": "Apache-2.0, as the package",
        }
    else:
        facts |= {"benchmark": source, "licence of the benchmark's data": licence}
        if names := sorted(path.name for path in task.root.glob("LICEN*")):
            facts["licence files in the folder"] = ", ".join(names)
    return TextTable(pd.DataFrame(facts.items(), columns=["", "what"]))


def rules_table(profile: Profile) -> TextTable:
    """Every rule of a profile that is set, faults last.

    Templates are quoted, so that blanks and line breaks show.
    """
    notes = {"bugs": "BUG, kept", "departs": "departs from the original"}
    plain = ("name", "task", "average", "source", "mode", "scoring", "extraction")
    facts = asdict(profile)
    values = {name: value for name, value in facts.items() if value and name not in notes}
    rows = [(name, value if name in plain else repr(value)) for name, value in values.items()]
    rows += [(title, text) for name, title in notes.items() for text in facts[name]]
    return TextTable(
        pd.DataFrame(rows, columns=["rule", "value"]),
        "Scores under other rules cannot be compared with these. "
        "The average is the one that published scores give.",
    )


def best_and_worst(subjects: pd.DataFrame, most: int = 5) -> TextTable:
    """The subjects with the highest and the lowest accuracy, at most `most` of each, none twice.

    `subjects` is a table of `by_subject`.
    """
    scored = subjects.dropna(subset="accuracy")
    scored = scored.sort_values("accuracy", ascending=False, kind="stable")
    each = min(most, len(scored) // 2)
    if not each:
        return TextTable(
            pd.DataFrame(), "Fewer than two subjects were scored: none is the hardest."
        )
    ends = (("easiest", scored.head(each)), ("hardest", scored.tail(each).iloc[::-1]))
    rows = [_extreme(kind, row) for kind, part in ends for row in part.to_dict("records")]
    note = f"Of {len(scored)} subjects; where intervals overlap, the order may be luck."
    return TextTable(pd.DataFrame(rows), note)


def _extreme(kind: str, row: dict) -> dict[str, str]:
    return {
        "": kind,
        "subject": row["name"],
        "class": row["class"],
        "right": f"{row['correct']} of {row['questions']}",
        "accuracy": f"{row['accuracy']:.1%}",
        "95 % interval": f"{100 * row['low']:.1f} – {100 * row['high']:.1f} %",
    }


def shortened_prompts(results: pd.DataFrame, task: Task, most: int = 40) -> TextTable:
    """At most `most` questions that were asked without some examples or not at all, worst first."""
    rows = results.to_dict("records")
    lost = pd.Series([_offered(task, row) - row["shots_used"] for row in rows], results.index)
    cut = (lost > 0) | results["too_long"]
    if not cut.any():
        note = f"All {len(results):,} questions were asked with all their examples."
        return TextTable(pd.DataFrame(), note)
    note = f"{cut.sum():,} of {len(results):,} questions were not asked in full"
    if cut.sum() > most:
        note += f"; the {most} that lack most are shown, all are in questions.csv"
    return TextTable(_shortened(results[cut], lost[cut]).head(most), f"{note}.")


def _shortened(results: pd.DataFrame, lost: pd.Series) -> pd.DataFrame:
    """One row per question, those too long first, then by the number of `lost` examples."""
    too_long = marks(results) == TOO_LONG
    what = ("without " + lost.astype(str) + " of the examples").mask(
        too_long, "too long even alone: wrong"
    )
    order = lost.mask(too_long, len(results)).sort_values(ascending=False, kind="stable")
    columns = {
        "name": "subject",
        "id": "id",
        "prompt_tokens": "prompt, tokens",
        "shots_used": "examples",
    }
    table = results[[*columns]].rename(columns=columns).assign(what=what)
    return table.loc[order.index]


def _offered(task: Task, row: dict) -> int:
    """Examples that the question could have: not its own row, if dev itself is asked."""
    return sum(
        task.split != "dev" or example["id"] != row["id"]
        for example in task.examples[row["subject"]]
    )


def rescore_table(rescored: pd.DataFrame) -> TextTable:
    """The findings of `rescore`: the largest difference, and every answer that flipped."""
    largest = rescored["difference"].max()
    flipped = rescored[rescored["flipped"]]
    note = f"{len(rescored)} questions asked again, each in a batch of its own: "
    note += f"{len(flipped)} answer{'s' * (len(flipped) != 1)} flipped"
    if not pd.isna(largest):
        note += f"; the largest difference of a log-probability is {largest:.2g}"
    return TextTable(flipped.drop(columns="flipped"), f"{note}.")
