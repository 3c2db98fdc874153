"""The section of 05 about many runs: what is drawn, shown, saved and said."""

import pandas as pd
import pytest

from neoxlib import history
from neoxlib.history import figures
from neoxlib.history.section import answer, over_time, parts_over_time
from neoxlib.workbook.run import Run
from neoxlib.workbook.table import NotAsked, Note
from tests.support.past_runs import STEADY, write


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.delenv("NEOXLIB_RUN_DIR", raising=False)
    return Run.start("some", {"seed": 0})


@pytest.fixture
def past(tmp_path):
    """Ten steady runs and one that is slower, with a steady figure and an interval."""
    for number, value in enumerate([*STEADY, 12.0]):
        times = {"next_token_ms": value, "next_token_ms_low": 1.0, "next_token_ms_high": 20.0}
        folder = write(tmp_path / "runs", number, times | {"first_token_ms": 20 - value % 1})
    write(tmp_path / "runs", 30, {"next_token_ms": 1.0}, status="noisy")
    return history.until(folder)


def test_the_change_is_shown_with_its_limits_and_what_could_be_seen(run, past):
    shown = over_time(run, past)
    rows = shown.rows.set_index("figure")
    assert rows["verdict"].to_dict() == {"next token": "changed", "first token": "no change"}
    row = rows.loc["next token"]
    assert row["newest"] == "12.0 ms" and row["change"] == "+20.0%"
    assert row["control limits"].endswith(" ms") and row["detectable"].endswith("%")
    assert shown.note == "Run b and the 10 comparable runs before it."
    assert (run.folder / "figures" / "over_time.svg").is_file()
    saved = pd.read_csv(run.folder / "over_time.csv").set_index("metric")
    assert saved.loc["next_token_ms", "newest"] == 12.0 and saved["runs"].tolist() == [11, 11]


def test_the_answer_names_what_changed_and_is_silent_where_nothing_is_judged(past):
    said = "Of run b, held against the 10 comparable runs before it, 1 of its 2 figures changed:"
    assert answer(past) == f"{said} next token."
    assert answer(Note("none")) == ""
    few = past._replace(trends=[history.trend("next_token_ms", [1.0, 2.0])])
    assert answer(few) == ""
    steady = history.adjusted([history.trend("next_token_ms", STEADY)])
    assert answer(past._replace(trends=steady)).endswith("none of its 1 figures changed.")


def test_only_runs_up_to_the_one_in_question_count_and_a_noisy_one_is_not_judged(tmp_path, past):
    root = tmp_path / "runs" / "04_profile"
    folders = sorted(root.iterdir())
    assert len(history.until(folders[3]).runs) == 4
    assert history.until(folders[-1]) is None


def test_without_comparable_runs_or_parts_nothing_is_asked(run, past):
    note = NotAsked("No comparable run.")
    assert over_time(run, note) is note
    assert isinstance(parts_over_time(run, note), NotAsked)
    assert isinstance(parts_over_time(run, past), NotAsked)


def test_a_chart_has_a_band_a_median_and_a_ring_around_what_lies_outside(past):
    drawn = figures.control_charts(past.trends[:1]).axes[0]
    values = [*STEADY, 12.0]
    lines = [list(line.get_ydata()) for line in drawn.lines]
    assert values in lines and [past.trends[0].median] * 2 in lines
    rings = [line for line in drawn.lines if line.get_fillstyle() == "none"]
    assert [list(ring.get_ydata()) for ring in rings] == [[12.0]] and len(drawn.patches) == 1
    assert drawn.get_title(loc="left") == "next token (ms)"
    few = figures.control_charts([history.trend("x", [1.0, 2.0])]).axes[0]
    assert not few.patches and len(few.lines) == 2
