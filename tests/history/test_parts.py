"""Subjects and cases over time: paired by name, adjusted for their number, damage left out."""

import pandas as pd
import pytest

from neoxlib import history
from neoxlib.history.parts import CASE, parts
from tests.support.past_runs import STEADY, write


def subjects(folder, **accuracies):
    rows = [{"name": name, "accuracy": value} for name, value in accuracies.items()]
    pd.DataFrame(rows, columns=["name", "accuracy"]).to_csv(folder / "subjects.csv")


def cases(folder, *times, noise=""):
    rows = [
        dict(zip(CASE, (1, 0, 8 * n, 4), strict=True))
        | {"first_token_ms": 5.0, "next_token_ms": time, "noise": noise}
        for n, time in enumerate(times, start=1)
    ]
    pd.DataFrame(rows).to_csv(folder / "latency.csv", index=False)


def newest(tmp_path, notebook):
    (found,) = history.histories(tmp_path, notebook)
    return found


def test_a_subject_that_changed_is_told_from_those_that_did_not(tmp_path):
    for number, value in enumerate([*STEADY, 9.0]):
        folder = write(tmp_path, number, {"accuracy": 0.5}, "03_ceval")
        subjects(folder, Law=value / 20, Logic=0.75, Art=(15 - STEADY[number % 10]) / 20)
    found = {one.part: one for one in parts(newest(tmp_path, "03"))}
    assert {name: one.verdict for name, one in found.items()} == {
        "Law": "changed",
        "Logic": "no change",
        "Art": "no change",
    }
    assert next(iter(found)) == "Law", "the surest change comes first"
    p = [found[name].p for name in ("Law", "Logic", "Art")]
    assert [found[name].q for name in ("Law", "Logic", "Art")] == pytest.approx(history.adjust(p))


def test_a_case_is_paired_by_its_lengths_and_noisy_times_are_left_out(tmp_path):
    for number in range(8):
        folder = write(tmp_path, number, {"next_token_ms": 1.0})
        cases(folder, STEADY[number], *[3.0] * (number > 1), noise="load" * (number == 4))
    found = {one.part: one for one in parts(newest(tmp_path, "04"))}
    assert set(found) == {
        f"batch 1, {inputs} in, 4 out: {token} token"
        for inputs in (8, 16)
        for token in ("first", "next")
    }
    assert len(found["batch 1, 8 in, 4 out: next token"].values) == 7
    assert len(found["batch 1, 16 in, 4 out: next token"].values) == 5


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"a,b\n1,2\n", b"name,accuracy\nLaw,x\n"])
def test_tables_that_cannot_be_read_are_no_parts(tmp_path, damage):
    for number in range(6):
        folder = write(tmp_path, number, {"accuracy": 0.5}, "03_ceval")
        (folder / "subjects.csv").write_bytes(damage)
    assert parts(newest(tmp_path, "03")) == []
