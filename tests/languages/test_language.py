"""Which language a reader gets."""

import click
import pytest
from click.testing import CliRunner

from neoxlib.errors import ParameterError
from neoxlib.languages import chosen, current, language_option, of_run, said, speaking


def test_a_language_is_that_of_the_option_else_of_the_run_else_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
):
    assert (chosen(), of_run({}), of_run({"lang": "zh"})) == ("en", "en", "zh")
    monkeypatch.setenv("NEOXLIB_LANG", "zh")
    assert (chosen(), of_run({"lang": "auto"}), of_run({"lang": "en"})) == ("zh", "zh", "en")
    with speaking("en", asked=True):
        assert (of_run({"lang": "zh"}), current()) == ("en", "en")
    assert of_run({"lang": ["odd"]}) == "zh"  # of another program


def test_an_unknown_language_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ParameterError, match="no language 'fr'; choose one of auto, en, zh"):
        chosen("fr")
    monkeypatch.setenv("NEOXLIB_LANG", "fr")
    with pytest.raises(ParameterError, match="NEOXLIB_LANG: no language 'fr'; choose one of en"):
        chosen()


def test_an_option_speaks_up_to_the_end_of_a_command():
    @click.command()
    @language_option()
    def command() -> None:
        click.echo(said("nothing to compare with"))
        click.echo(said("no change"))

    assert CliRunner().invoke(command, ["--lang", "zh"]).output.splitlines()[1] == "没有变化"
    assert CliRunner().invoke(command, []).output.splitlines()[1] == "no change"
    assert current() == "en"
