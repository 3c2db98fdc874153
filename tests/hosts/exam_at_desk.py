"""What runs at the desk: one exam by two sessions on two hosts, one of which is lost on the way.

It prints lines of JSON and waits after each for a line of standard input, as `on_desk` does.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import neoxlib
from neoxlib import exam
from neoxlib.demo import EXAM_DIR
from neoxlib.exam import evaluation
from tests.hosts.on_desk import say

SUBJECTS = ("animals", "counting", "opposites")
PORTION = 8  # questions that are asked together: many portions, so that both hosts get some
LOST_AT = 3  # portion of the second host at which it is lost


def main(model_dir: str, profile: str, logs: str) -> None:
    evaluation.PORTION = PORTION
    rules = exam.get_profile("official", "ceval", shots=0)
    paper = exam.load_task("ceval", EXAM_DIR, subjects=SUBJECTS, shots=0)
    due = taken(model_dir, profile, Path(logs, "unbroken"), paper, rules)
    pause_before(LOST_AT)
    found = taken(model_dir, profile, Path(logs, "broken"), paper, rules)
    same = found.equals(due) and found.to_csv() == due.to_csv()
    say(questions=len(found), equal=same, right=int(found["correct"].sum()))


def taken(model_dir: str, profile: str, logs: Path, paper: Any, rules: Any) -> pd.DataFrame:
    given = {"cluster_profile": profile, "log_dir": logs, "replicas": 2}
    with neoxlib.Session(model_dir, 1, "float32", "cpu", **given) as session:
        say(hosts=session.ranks["host"].tolist())
        journal = logs / "journal.jsonl"
        found = exam.evaluate(session, paper, rules, None, journal)
        lines = len(journal.read_text().splitlines()) - 1
        after = session.score(["A rank is"], ["A", "B"])  # by a session that is left
        say(lines=lines, after=len(after[0]))
        return found


def pause_before(number: int) -> None:
    """Say when the second session is about to ask a portion and when it is lost, and wait."""
    ask = evaluation.Evaluation._ask
    lose = evaluation.Evaluation._lose
    counted = itertools.count(1)

    def paused(self: Any, engine: Any, portion: Any) -> Any:
        if len(engine.groups) == 1 and next(counted) == number:  # the first session has both
            say(reached=number)
        return ask(self, engine, portion)

    def lost(self: Any, group: int, error: Exception) -> None:
        lose(self, group, error)
        say(lost=group, error=str(error).splitlines()[0])

    evaluation.Evaluation._ask = paused
    evaluation.Evaluation._lose = lost


if __name__ == "__main__":
    main(*sys.argv[1:])
