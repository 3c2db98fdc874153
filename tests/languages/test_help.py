"""The command line's help in another language."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from neoxlib.__main__ import cli
from neoxlib.languages import width
from neoxlib.languages.sentences import is_left


def names(command: click.Command, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """A command and the commands below it, as they are typed."""
    yield before
    for name, inner in getattr(command, "commands", {}).items():
        yield from names(inner, (*before, name))


def shown(*words: str, **variables: str) -> str:
    done = CliRunner(env=variables).invoke(cli, [*words, "--help"], terminal_width=80)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("words", [*names(cli)], ids=" ".join)
def test_no_english_sentence_is_left_in_a_chinese_help(words):
    if words and words[0] in ("lm-eval", "align"):  # handed to a program, or read by one of ours
        return
    lines = shown(*words, NEOXLIB_LANG="zh").splitlines()
    assert lines[0].startswith("用法：") and not [line for line in lines if is_left(line)]
    assert max(map(width, lines)) <= 80


def test_help_has_the_same_options_and_commands_in_both_languages():
    for words in ((), ("report",), ("cluster",)):
        english, chinese = shown(*words), shown(*words, NEOXLIB_LANG="zh")
        for line in english.splitlines():
            name = line.split("  ")[1] if line.startswith("  ") and not line[2:3].isspace() else ""
            if name.startswith("-") or name in cli.commands:
                assert name.split()[0] in chinese, name


def test_the_option_speaks_before_the_variable_and_a_bad_variable_harms_no_help():
    assert shown(NEOXLIB_LANG="fr").startswith("Usage:")
    done = CliRunner(env={"NEOXLIB_LANG": "en"}).invoke(cli, ["plan", "--lang", "zh", "--help"])
    assert done.output.startswith("用法：") and "[默认" in done.output
