"""The panel in which a model is tried by hand: what it asks, and that Stop keeps the text."""

import threading
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

import neoxlib
from neoxlib.errors import UNSEEN, SettingsError
from neoxlib.inference.printer import Piece
from neoxlib.inference.text import Completion, Timings
from neoxlib.ranks.try_it import ENDED, Panel, TryIt
from tests.support.dangers import dangers, text_of
from tests.support.sessions import open_session

HOSTILE = "<img src=x onerror=x()>\u202e"
TOKENS = [(n, -0.1, [(n, -0.1), (n + 1, -2.0)]) for n in range(4)]


def answer_of(tokens: list) -> Completion:
    ids, logprobs, top = map(list, zip(*tokens, strict=True))
    times = Timings(*[[1.0] * len(tokens)] * 4)
    return Completion("text", ids, "length", times, logprobs, top)


class Model:
    """A model that streams a token at each `step`, and keeps what it was asked."""

    max_seq_len = 64
    tokenizer = SimpleNamespace(decode=lambda ids: f"{HOSTILE}{ids[0]}")

    def __init__(self, wait: bool = False, error: Exception | None = None) -> None:
        self.step = threading.Semaphore(0) if wait else None
        self.shown = threading.Semaphore(0)
        self.error = error
        self.asked: list = []

    def generate(self, prompts: list[str], stream, **settings) -> list[Completion]:
        self.asked.append((prompts, settings))
        if self.error:
            raise self.error
        for number, token in enumerate(TOKENS):
            assert self.step is None or self.step.acquire(timeout=60)
            stream(0, Piece.of(f"{HOSTILE}{number}", [token]))
            self.shown.release()
        return [answer_of(TOKENS)]


def press(panel: Panel) -> None:
    panel.generate.click()
    panel.worker.join(60)


def words(panel: Panel) -> list[str]:
    return [span.text for span in BeautifulSoup(panel.answer.value, "html.parser").select("span")]


def test_the_panel_asks_for_what_its_widgets_say_and_keeps_the_other_settings():
    model = Model()
    panel = Panel(model, "a", {"top_k": 3, "temperature": 0.5, "seed": 7, "max_new_tokens": 900})
    panel.prompt.value = "b"
    panel.sliders["top_p"].value = 0.9
    press(panel)
    expected = {"top_k": 3, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 63, "seed": 7}
    assert model.asked == [(["b"], expected)]


def test_the_tokens_come_with_their_alternatives_and_nothing_in_them_runs():
    panel = Panel(Model(), "a")
    press(panel)
    assert words(panel) == [f"<img␣src=x␣onerror=x()>⟨U+202E⟩{n}" for n in range(4)]
    titles = [span["title"] for span in BeautifulSoup(panel.answer.value, "html.parser")("span")]
    assert titles[0].startswith("90.5%; instead: <img␣src=x")
    assert dangers(panel.answer.value + panel.state.value) == []
    assert "4 tokens, ended by length" in text_of(panel.state.value)
    assert panel.stop.disabled and not panel.generate.disabled


def test_stop_keeps_the_text_and_the_panel_goes_on():
    model = Model(wait=True)
    panel = Panel(model, "a")
    panel.generate.click()
    assert panel.generate.disabled and not panel.stop.disabled
    for _ in range(2):
        model.step.release()
        assert model.shown.acquire(timeout=60)
    panel.stop.click()
    model.step.release()
    panel.worker.join(60)
    assert len(words(panel)) == 2 and "Stopped after 2 tokens" in panel.state.value
    for _ in TOKENS:
        model.step.release()
    press(panel)
    assert len(words(panel)) == 4


def test_the_ranks_are_not_asked_for_the_tokenizer_while_they_work():
    """They would answer when they are done, and the text would come all at once."""

    class Busy(Model):
        working = False

        @property
        def tokenizer(self) -> SimpleNamespace:
            assert not self.working
            return Model.tokenizer

        def generate(self, prompts: list[str], stream, **settings) -> list[Completion]:
            self.working = True
            answers = super().generate(prompts, stream, **settings)
            self.working = False
            return answers

    panel = Panel(Busy(), "a")
    press(panel)
    assert len(words(panel)) == 4 and "AssertionError" not in panel.state.value


def test_an_error_is_shown_in_the_panel_as_text():
    panel = Panel(Model(error=SettingsError(f"too long: {HOSTILE}")), "a")
    press(panel)
    assert "SettingsError: too long: <img src=x onerror=x()>⟨U+202E⟩" in text_of(panel.state.value)
    assert dangers(panel.state.value) == [] and not panel.generate.disabled


def test_without_jupyterlab_it_is_a_strip_of_the_answer(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    shown = TryIt(Model(), HOSTILE, answer_of(TOKENS))._repr_mimebundle_()
    assert set(shown) == {"text/html", "text/plain"} and dangers(shown["text/html"]) == []
    assert not UNSEEN.search("".join(shown.values()))
    assert text_of(shown["text/html"]).count("onerror") == 1 + len(TOKENS)


def test_in_jupyterlab_it_is_a_widget_with_the_strip_beside_it(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "02_inference.ipynb")
    shown = TryIt(Model(), "a", answer_of(TOKENS))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown and "<span" in shown["text/html"]


@pytest.mark.usefixtures("plain_environment")
def test_a_session_is_stopped_and_answers_again(checkpoint, tmp_path):
    """The panel's answer is the session's own, token for token."""
    with open_session(checkpoint, tmp_path) as session:
        panel = Panel(session, "A rank is", {"max_new_tokens": 40})
        first = threading.Event()
        draw = panel._draw
        panel._draw = lambda: (draw(), first.set())
        panel.generate.click()
        assert first.wait(60)
        panel.stop.click()
        panel.worker.join(60)
        stopped = list(panel.tokens)
        press(panel)
        expected = neoxlib.load(checkpoint).generate(["A rank is"], max_new_tokens=40)[0]
        assert [token for token, _, _ in panel.tokens] == expected.token_ids
        assert [token for token, _, _ in stopped] == expected.token_ids[: len(stopped)]
        session.close()
        press(panel)
        assert "RankError: this session has ended: it was closed." in panel.state.value
        assert panel.state.value.endswith(f" {ENDED}</p></div>")
        (folded,) = [part for part in panel.box.children if hasattr(part, "titles")]
        assert folded.titles == ("ranks",) and "its log" in folded.children[0].value
