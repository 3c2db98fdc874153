"""The lines of a headless run on the terminal."""

from neoxlib.workbook import cell_lines


def test_a_headless_run_hands_these_lines_and_no_others_to_the_terminal():
    said = []
    shown = cell_lines.CellLines(said.append)
    shown.write("progress: 3 of 9 cases\nan answer\n")
    shown.flush()
    assert said == ["  progress: 3 of 9 cases"]
