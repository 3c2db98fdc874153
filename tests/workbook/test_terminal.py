"""The lines of a headless run: headings and cells as they are reached, reasons, the end."""

import errno
import io
import re
import time

from nbformat import v4

from neoxlib.workbook import results as workbook_results
from neoxlib.workbook import terminal

OK = {"content": {"status": "ok"}}


def lines_of(live=None):
    said = []
    return said, terminal.CellLines(terminal.Terminal(said.append, live=live), "notebook 1 of 2: a")


def run(cells):
    """A cell that runs well, one after a heading."""
    cells.reach(v4.new_markdown_cell("text\n\n## The \x1bplan ##\n\nmore"), 0)
    cells.total = 1
    code = v4.new_code_cell("work()")
    cells.reach(code, 1)
    cells.start(code, 1)
    cells.write("progress: 3 of 9 cases\nan answer\n")
    cells.flush()
    cells.done(code, 1, OK)


def test_a_log_has_headings_cells_and_their_progress_as_plain_lines():
    said, cells = lines_of()
    with cells.ticking():
        run(cells)
    assert said[:2] == ["  The ⟨U+001B⟩plan", "  progress: 3 of 9 cases"]
    assert re.fullmatch(r"  \[1/1\] work\(\) … 0\.\d s", said[2]) and len(said) == 3


def test_a_terminal_has_one_line_that_changes_and_is_gone_at_the_end(monkeypatch):
    monkeypatch.setattr(terminal, "TICK", 0.01)
    live = io.StringIO()
    said, cells = lines_of(live)
    with cells.ticking():
        run(cells)
        while "3 of 9 cases" not in live.getvalue():
            time.sleep(0.01)
    assert len(said) == 1, "the heading stays, the cell does not"
    shown = live.getvalue().split("\r\x1b[2K")
    assert "notebook 1 of 2: a · [1/1] 0 s · 3 of 9 cases · work()" in shown
    assert shown[-1] == "" and "\n" not in live.getvalue()


def test_a_cell_that_stops_stays_on_a_terminal():
    said, cells = lines_of(io.StringIO())
    cells.start(v4.new_code_cell("boom()"), 0)
    cells.done(cells.cell, 0, {"content": {"status": "error"}})
    assert said[0].endswith(" s  stopped")


def test_reasons_are_the_error_the_checks_and_the_last_words_of_the_rank_that_died(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "report.html").touch()
    for rank in (0, 1):
        words = "".join(f"rank {rank} line {n}\n" for n in range(40))
        (tmp_path / "logs" / f"rank{rank}.log").write_text(words)
    error = {"type": "RankError", "message": "rank 1 of 2 died\nrank 1 line 39", "cell": 3}
    checks = [
        {"name": "parity", "passed": False, "detail": "0.5 > 0.1"},
        {"name": "speed", "passed": None, "detail": "load 3"},
        {"name": "fits", "passed": True, "detail": ""},
    ]
    results = workbook_results.NO_RUN | {"status": "failed", "error": error, "checks": checks}
    told = terminal.reasons(results, tmp_path)
    assert told[:2] == ["RankError in cell 3: rank 1 of 2 died", "  rank 1 line 39"]
    assert told[2:4] == ["CheckFailed: parity: 0.5 > 0.1", "NotJudged: speed: load 3"]
    assert told[4:15] == [f"  rank 1 line {n}" for n in range(28, 39)], "each line once"
    assert [line.split(":")[0] for line in told[15:]] == ["log", "log", "report"]


def test_the_end_of_a_run_without_a_page_names_its_folder_or_its_notebook(tmp_path):
    folder = tmp_path / "04_profile" / "r1"
    results = workbook_results.NO_RUN | {"notebook": "04_profile", "status": "failed"}
    assert terminal.closing(results, folder) == [f"{'failed':<14}04_profile"]
    folder.mkdir(parents=True)
    assert terminal.closing(results, folder) == [f"{'failed':<14}{folder}"]
    assert terminal.reasons(results, folder) == []
    (folder / "report.html").touch()
    assert terminal.closing(results, folder) == [f"{'failed':<14}{folder / 'report.html'}"]


def test_a_reader_who_goes_away_gets_no_more_and_the_rest_is_still_said():
    tried, warned = [], []

    class Gone(io.StringIO):
        def write(self, text):
            tried.append(text)
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    gone = Gone()
    cells = terminal.CellLines(terminal.Terminal(gone.write, warned.append, gone))
    with cells.ticking():
        run(cells)
        cells.broke()
    cells.terminal.warn("why")
    assert len(tried) == 2, "once as the line that changes, once as a line that stays"
    assert warned == ["why"]
