"""Progress and the time left, by the clock and not by the speed of the machine."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import nbformat
import pytest

from neoxlib.workbook import headless, progress
from neoxlib.workbook.progress import MARK, Meter, Progress
from tests.support import small_notebooks


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_the_time_left_goes_by_the_sizes_done_and_left(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    clock = Clock(monkeypatch)
    work = Progress(40, 3, "cases")
    work.begin("first", 10)
    assert work.line() == "progress: 0 of 3 cases; now first"
    clock.now += 20
    work.done()
    work.begin("second", 10)
    assert work.left() == 60
    clock.now += 15
    assert work.line() == "progress: 1 of 3 cases, about 45 s left; now second"
    clock.now += 500
    assert work.left() == 0
    work.begin("\x1b]0;x\x07\u202e", 10)
    assert work.line().endswith("now ⟨U+001B⟩]0;x⟨U+0007⟩⟨U+202E⟩")


def test_lines_come_while_a_part_is_going_on_and_one_at_the_end(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    said = threading.Semaphore(0)
    say = progress.say
    monkeypatch.setattr(progress, "say", lambda *line: (say(*line), said.release()))
    with Progress(1, 1, "cases", every=0.01) as work:
        work.begin("long one", 1)
        for _ in range(2):
            assert said.acquire(timeout=60)
        work.done()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2 and lines[0] == "progress: 0 of 1 cases; now long one"
    assert lines[-1].startswith("progress: 1 of 1 cases, ") and all(
        line.startswith(MARK) for line in lines
    )
    assert not work.ticker.is_alive()


def test_a_part_that_fails_ends_the_lines_without_a_last_word(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    try:
        with Progress(1, 1, "cases", every=60):
            raise KeyError
    except KeyError:
        pass
    assert capsys.readouterr().out == ""


class Shown:
    """What a cell displays: its first bundle, and those that replace it."""

    def __init__(self, monkeypatch) -> None:
        self.bundles: list[dict] = []
        monkeypatch.setenv("JPY_SESSION_NAME", "04_profile.ipynb")
        monkeypatch.setattr(progress, "in_notebook", lambda: True)
        monkeypatch.setattr("IPython.display.display", self.first)

    def first(self, bundle: dict, **_) -> "Shown":
        self.bundles.append(bundle)
        return self

    def update(self, bundle: dict, raw: bool) -> None:
        self.bundles.append(bundle)


WIDGET = "application/vnd.jupyter.widget-view+json"


def test_jupyterlab_gets_a_bar_and_words_for_where_there_are_no_widgets(monkeypatch, capsys):
    shown = Shown(monkeypatch)
    with Progress(40, 3, "cases", every=0.01) as work:
        work.skip(10)
        work.begin("a", 30)
        work.done()
        bar = work.bar
    left, _, right = bar.container.children
    assert (bar.total, bar.n, left.value) == (30, 30, "cases:\u2007100%") and "a" in right.value
    assert bar.container.children[1].max == 30 and "left" in right.value
    assert [WIDGET in bundle for bundle in shown.bundles] == [True, True]
    assert shown.bundles[-1]["text/plain"].startswith("11 of 3 cases, ")
    assert capsys.readouterr().out == ""


def test_a_meter_in_jupyterlab_is_a_bar_with_its_speed_and_the_time_left(monkeypatch, capsys):
    shown = Shown(monkeypatch)
    with Meter("copy", 2 * 10**9) as meter:
        meter.add(10**9)
        meter.bar.refresh()
        assert "1.00G of\u20072.00G".replace(" ", "\u2007") in meter.bar.container.children[2].value
        assert "left" in meter.bar.container.children[2].value
        meter.add(10**9)
    assert shown.bundles[-1]["text/plain"].startswith("copy: 100 % of 2.00GB, ")
    assert WIDGET in shown.bundles[-1] and capsys.readouterr() == ("", "")


def test_work_that_is_over_before_a_line_was_due_has_none(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with Progress(1, 1, "cases", every=60) as work:
        work.begin("a", 1)
        work.done()
    assert capsys.readouterr().out == ""


def test_a_meter_says_how_long_the_rest_should_take(monkeypatch, capsys):
    clock = SimpleNamespace(perf_counter=lambda: clock.now, now=100.0)
    monkeypatch.setattr(progress, "time", clock)
    with Meter("copy", 4 * 10**9) as meter:
        clock.now += 3
        meter.add(10**9)
        clock.now += 3
        meter.add(10**9 // 100)
        clock.now += 6
        meter.add(10**9 // 100)
    assert capsys.readouterr().err.splitlines() == [
        "copy: 25 % of 4.00GB, 0.33 GB/s, about 9 s left",
        "copy: 25 % of 4.00GB, 0.09 GB/s, about 35 s left",
    ]


def test_a_speed_is_said_in_a_unit_that_has_digits():
    assert progress.speed(2.345e9) == "2.35 GB/s" and progress.speed(5.5e6) == "5.50MB/s"


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("B", r"copy: 100 % of 2\.00kB, [\d.]+[kM ]?G?B/s\n"),
        ("requests", r"copy: 100 % of 2,000 requests, [\d.,e+]+ requests/s\n"),
    ],
)
def test_a_meter_counts_what_it_is_told_to_in_lines_of_a_log(unit, line, capsys):
    with Meter("copy", 2000, unit=unit) as meter:
        meter.add(1500)
        meter.add(500)
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(line, err)


def test_a_meter_that_is_not_shown_says_nothing_and_counts(capsys):
    with Meter("copy", 2, show=False, unit="requests") as meter:
        meter.add(2)
    assert meter.done == 2 and capsys.readouterr() == ("", "")


def test_a_meter_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Meter("copy", 2000, unit="requests") as meter:
        meter.add(2000)
    said = capsys.readouterr().err
    assert "copy: 100%" in said and "2000/2000" in said and " requests/s" in said


NOISE = """import logging, sys, warnings
from tqdm import tqdm
warnings.warn("a warning")
logging.getLogger("neoxlib").warning("a log line")
other.warning("another library")
print("to stderr", file=sys.stderr)
for _ in tqdm(range(2), desc="a bar"): pass"""
METER = """from neoxlib.workbook import progress
with progress.Meter("copy", 2000) as meter:
    for _ in range(20):
        meter.said -= 2
        meter.add(100)"""
LIBRARY = """import logging
other = logging.getLogger("other")
other.addHandler(logging.StreamHandler())"""


def test_a_notebook_shows_nothing_on_stderr_and_the_last_line_of_a_meter(tmp_path):
    names = ("seed = 0", LIBRARY, small_notebooks.start("some"), NOISE, METER)
    path = small_notebooks.write(tmp_path, "some", *names, "run.finish()")
    assert headless.report([path], [], [], outputs=tmp_path / "runs", say=print) == 0
    (made,) = (tmp_path / "runs").glob("some/*/notebook.ipynb")
    cells = nbformat.read(made, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    said = "".join(output.get("text", "") for output in outputs)
    lines = ("a warning", "a log line", "another library", "to stderr", "a bar: 100%")
    assert [line for line in lines if line not in said] == []
    (line,) = cells[4].outputs
    assert line.text.startswith("progress: copy: 100 % of 2.00kB, ") and line.text.count("\n") == 1


def test_stderr_on_stdout_has_lines_of_its_own():
    stdout = io.StringIO()
    out = SimpleNamespace(write=stdout.write, flush=stdout.flush)
    stderr = progress.OnStdout(out)
    for stream, text in (
        *((out, "text"), (stderr, "\r10 %"), (stderr, "\r100 %"), (out, "more\n")),
        *((stderr, "a warning\n"), (out, "end"), (out, ""), (out, ".")),
    ):
        assert stream.write(text) == len(text)
    assert stdout.getvalue() == "text\n\r10 %\r100 %\nmore\na warning\nend."


def test_seconds_are_said_as_people_do():
    assert [progress.words(s) for s in (0.4, 99, 100, 5940, 6000, 36000)] == [
        "0 s",
        "99 s",
        "2 min",
        "99 min",
        "1 h 40 min",
        "10 h 0 min",
    ]
