"""The command generate: text as it comes, refusals before it, and Ctrl-C in the middle."""

import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

import neoxlib
from neoxlib.__main__ import cli
from neoxlib.demo import MODEL_DIR

PROMPT = "The moon is"
COMMAND = [sys.executable, "-m", "neoxlib", "generate", "shipped", PROMPT]


@pytest.fixture(scope="module")
def engine():
    return neoxlib.load(MODEL_DIR)


def run(*args, **kwargs):
    return CliRunner().invoke(cli, ["generate", *map(str, args)], catch_exceptions=False, **kwargs)


def test_the_text_is_the_engines_and_standard_output_holds_nothing_else(engine):
    settings = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 9, "top_p": 0.9, "seed": 4}
    given = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    given = [part.replace("_", "-") for part in given]
    said = run(MODEL_DIR, PROMPT, *given)
    assert said.exit_code == 0
    assert said.stdout == engine.generate([PROMPT], **settings)[0].text + "\n"


def test_two_ranks_give_the_text_of_one(engine):
    said = run("shipped", PROMPT, "--world-size", 2, "--max-new-tokens", 8)
    assert said.stdout == engine.generate([PROMPT], max_new_tokens=8)[0].text + "\n"


def test_a_prompt_on_standard_input_is_read_to_its_end_and_stops_are_heard(engine):
    said = run("shipped", "-", "--stop", "planet", "--stop", "Mars", input="天\nThe moon is\n")
    (answer,) = engine.generate(["天\nThe moon is"], stop=["planet", "Mars"], max_new_tokens=128)
    assert said.stdout == answer.text + "\n" and answer.finish_reason == "stop"
    assert run("shipped", "-", input=b"\xff").exit_code == 2


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (["shipped", PROMPT, "--temperature", -1], 2, "temperature is -1.0"),
        (["shipped", PROMPT, "--max-new-tokens", 100000], 2, "max_seq_len is 1024"),
        (["shipped", ""], 2, "has no tokens"),
        (["shipped", PROMPT, "--dtype", "float12"], 2, "float12"),
        (["nowhere", PROMPT], 1, "'nowhere' does not exist"),
        (["shipped", PROMPT, "--world-size", 3], 1, "may be 1, 2, 4, 8"),
    ],
)
def test_what_cannot_be_generated_is_told_and_prints_no_line(given, code, told):
    said = run(*given)
    assert said.exit_code == code and said.stdout == "" and told in said.stderr


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_ctrl_c_keeps_the_text_ends_its_line_and_is_130(engine, ranks):
    settings = ["--max-new-tokens", "1000", "--world-size", ranks]
    asked = subprocess.Popen(
        [*COMMAND, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate reads the pipe itself: read(1) may take no more than one byte
        # a shell's background job ignores Ctrl-C, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    first = asked.stdout.read(1)
    asked.send_signal(signal.SIGINT)
    rest, told = asked.communicate(timeout=120)
    text = (first + rest).decode()
    whole = engine.generate([PROMPT], max_new_tokens=1000)[0].text
    assert asked.returncode == 130 and told == b"Broken off by Ctrl-C.\n", told
    assert text.endswith("\n") and whole.startswith(text.removesuffix("\n"))
    assert len(text) < len(whole)


def test_control_characters_reach_a_file_and_not_a_terminal(monkeypatch, capsys):
    from neoxlib.ranks import commands

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    line = commands.Line()
    line.write(0, "a\x1b[2J")
    line.end()
    assert capsys.readouterr().out == "a⟨U+001B⟩[2J\n"
