"""What a stream prints: whole lines of their rows, and no commands for the terminal."""

import pickle

from neoxlib.inference.printer import Piece, Printer

TIMES = (0.1, 2.0, 0.5, 0.2)


def test_text_of_one_prompt_is_printed_as_it_comes(capsys):
    show = Printer(1)
    show(0, "The moon")
    assert capsys.readouterr().out == "The moon"
    show(0, " is\nup")
    show.close()
    assert capsys.readouterr().out == " is\nup\n"


def test_lines_of_several_prompts_are_printed_whole_with_their_row(capsys):
    show = Printer(2)
    for row, piece in [(0, "a"), (1, "x\ny"), (0, "b\n")]:
        show(row, piece)
    show.close()
    assert capsys.readouterr().out.splitlines() == ["[1] x", "[0] ab", "[0] ", "[1] y"]


def test_the_text_of_a_model_commands_no_terminal(capsys):
    for rows in (1, 2):
        show = Printer(rows)
        show(0, "\x1b[2Jgone\rover\n")
        show.close()
        assert "⟨U+001B⟩[2Jgone⟨U+000D⟩over" in capsys.readouterr().out


def test_a_piece_is_its_text_and_keeps_its_tokens_on_the_way_from_a_rank():
    piece = pickle.loads(pickle.dumps(Piece.of("a", [(5, -0.1, [(5, -0.1), (6, -2.0)])], [TIMES])))
    assert (
        piece.clocks == (TIMES,)
        and piece == "a"
        and piece.tokens == ((5, -0.1, [(5, -0.1), (6, -2.0)]),)
    )
    assert Piece("a").tokens == Piece("a").clocks == ()
