"""`generate` has one signature, and what is asked of it reaches the engine or the ranks."""

from dataclasses import fields
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest

import neoxlib
from neoxlib.inference.engine import Engine
from neoxlib.inference.generator import TextGenerator
from neoxlib.inference.sampling import Sampling


class Asked(TextGenerator):
    """Answers with the sampling that it was asked for, after two pieces of text."""

    def _generate(self, stream: Any, prompts: list[str], *settings: Any, **more: Any) -> Sampling:
        for piece in ("a ", "b") if stream else ():
            stream(len(prompts) - 1, piece)
        return Sampling(*settings, **more)


@pytest.mark.parametrize("kind", [Engine, neoxlib.Session])
def test_help_shows_every_setting_of_sampling_with_its_default(kind: type):
    shown = dict(signature(kind.generate).parameters)
    assert not {"self", "prompts", "stream"} - set(shown)
    settings = {name: shown[name].default for name in shown if name in Sampling.__annotations__}
    assert len(settings) == len(shown) - 3 == len(fields(Sampling))
    assert Sampling(**settings) == Sampling()


def test_every_setting_is_handed_on_as_what_it_is():
    places = 40, 0.5, 7, 0.9, 1.1, ["x"], 3
    names = {"stop_token_ids": 5, "skip_special_tokens": False}
    assert Asked().generate(["p"], *places, **names) == Sampling(*places, **names)
    given = dict(zip((field.name for field in fields(Sampling)), places, strict=False)) | names
    assert Asked().generate(prompts=["p"], **given) == Sampling(**given)


def test_a_stream_is_a_function_or_is_printed(capsys: pytest.CaptureFixture):
    heard = []
    for stream in (None, False, lambda row, piece: heard.append((row, piece))):
        Asked().generate(["p", "q"], stream=stream)
    assert heard == [(1, "a "), (1, "b")] and capsys.readouterr().out == ""
    Asked().generate(["p"], stream=True)
    assert capsys.readouterr().out == "a b\n"


class Interrupted(TextGenerator):
    """Is interrupted after a piece of text, with an answer so far."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    def _generate(self, stream: Any, prompts: list[str], *settings: Any, **more: Any) -> Any:
        if stream:
            stream(0, "a ")
        stop = KeyboardInterrupt()
        stop.answers = self.answers
        raise stop


def test_an_interrupted_stream_in_jupyterlab_is_the_answer_so_far_and_a_line(monkeypatch, capsys):
    monkeypatch.setattr("neoxlib.inference.generator.in_lab", lambda: True)
    monkeypatch.setattr("neoxlib.inference.generator.in_notebook", lambda: True)
    answers = [SimpleNamespace(token_ids=[5, 6])]
    assert Interrupted(answers).generate(["p"], stream=True) is answers
    line = "Interrupted after 2 tokens: this is the answer so far."
    assert capsys.readouterr().out == f"a \n{line}\n"
    for stream, so_far in ((False, answers), (True, None), (True, [])):
        with pytest.raises(KeyboardInterrupt):
            Interrupted(so_far).generate(["p"], stream=stream)


def test_an_interrupt_of_a_script_or_a_report_ends_it():
    with pytest.raises(KeyboardInterrupt):
        Interrupted([SimpleNamespace(token_ids=[5, 6])]).generate(["p"], stream=True)
