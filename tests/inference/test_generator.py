"""`generate` has one signature, and what is asked of it reaches the engine or the ranks."""

from dataclasses import fields
from inspect import signature
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
