"""The panel in which a model is tried by hand: what it asks, and that Stop keeps the text."""

import threading

import pytest

import neoxlib
from neoxlib.errors import UNSEEN, SettingsError
from neoxlib.inference.printer import Piece
from neoxlib.inference.text import Completion, Timings
from neoxlib.ranks.try_it import Panel, TryIt
from tests.support.dangers import dangers, text_of
from tests.support.sessions import open_session

HOSTILE = "<img src=x onerror=x()>\u202e"
TOKENS = [(n, -0.1, [(n, -0.1), (n + 1, -2.0)]) for n in range(4)]


def answer_of(tokens: list) -> Completion:
    ids, logprobs, top = map(list, zip(*tokens, strict=True))
    times = Timings(*[[1.0] * len(tokens)] * 4)
    return Completion("text", ids, "length", times, logprobs, top)


class Tokenizer:
    """A letter is a token, and each token is markup."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [100 + ord(letter) for letter in text]}

    def decode(self, ids: list[int]) -> str:
        return f"{HOSTILE}{ids[0]}"


class Model:
    """A model that streams a token at each `step`, and keeps what it was asked."""

    max_seq_len = 64
    tokenizer = Tokenizer()

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
            stream(0, Piece.of(f"{HOSTILE}{number}", [token], [(1.0, 2.0, 3.0, 4.0)]))
            self.shown.release()
        return [answer_of(TOKENS)]


def press(panel: Panel) -> None:
    panel.generate.click()
    panel.worker.join(60)


def words(panel: Panel) -> list[str]:
    return [label for label, _ in panel.chooser.strip.options]


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
    assert panel.chooser.strip.tooltips[0].startswith("90.5%; instead: <img␣src=x")
    made = panel.chooser
    assert [made.running.layout.display, made.strip.layout.display] == ["none", None]
    assert dangers(made.running.value + panel.state.value + panel.bars.value) == []
    seen = [made.look.value, *(b.description + b.tooltip for b in made.others if b.tooltip)]
    assert not UNSEEN.search("".join((*seen, *words(panel), *made.strip.tooltips)))
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
        def tokenizer(self) -> Tokenizer:
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


def choose(panel: Panel, place: int, alternative: int) -> None:
    """Move to a token as a keyboard does, and press the button of one of its alternatives."""
    panel.chooser.place.value = place + 1
    panel.chooser.others[alternative].click()
    panel.worker.join(60)


def ids(panel: Panel) -> list[int]:
    return [token for token, _, _ in panel.now.tokens]


def test_a_chosen_alternative_is_kept_and_the_rest_is_asked_for_anew():
    model = Model()
    panel = Panel(model, "ab", {"max_new_tokens": 9}, answer_of(TOKENS))
    assert ids(panel) == [0, 1, 2, 3] and model.asked == []
    choose(panel, 2, 1)
    (((asked,), settings),) = model.asked
    assert asked == [197, 198, 0, 1, 3] and settings["max_new_tokens"] == 9
    assert ids(panel) == [0, 1, 3, 0, 1, 2, 3] and panel.chooser.place.value == 3
    assert panel.now.tokens[2] == (3, -2.0, TOKENS[2][2])
    assert "nth-child(3) {text-decoration:underline" in panel.chooser.look.value
    assert "4 tokens, ended by length" in panel.state.value


def test_back_shows_the_answers_before_one_after_the_other():
    panel = Panel(Model(), "a", answer=answer_of(TOKENS))
    assert panel.back.disabled
    choose(panel, 2, 1)
    choose(panel, 0, 1)
    assert ids(panel) == [1, 0, 1, 2, 3]
    panel.back.click()
    assert ids(panel) == [0, 1, 3, 0, 1, 2, 3] and len(words(panel)) == 7
    panel.back.click()
    assert ids(panel) == [0, 1, 2, 3] and panel.back.disabled
    assert "The answer before: 4 tokens." in panel.state.value


def test_a_click_on_a_token_offers_its_alternatives_and_so_does_its_number():
    panel = Panel(Model(), "a", answer=answer_of(TOKENS))
    made = panel.chooser
    made.strip.index = 3
    assert made.place.value == 4 and "nth-child(4) {outline:2px" in made.look.value
    assert [token for token, _ in made.offered] == [3, 4]
    assert [b.button_style for b in made.others[:2]] == ["info", ""]
    assert [b.layout.visibility for b in made.others] == ["visible"] * 2 + ["hidden"] * 4
    made.place.value = 1
    assert made.strip.index == 0 and [token for token, _ in made.offered] == [0, 1]


def test_a_token_that_is_not_among_its_alternatives_is_offered_too():
    drawn = [(9, -4.0, [(n, -1.0) for n in range(5)])]
    panel = Panel(Model(), "a", answer=answer_of(drawn))
    assert [token for token, _ in panel.chooser.offered] == [9, 0, 1, 2, 3, 4]


def test_what_follows_is_as_long_as_the_window_lets_it_be():
    model = Model()
    panel = Panel(model, "a" * 58, {"max_new_tokens": 60}, answer_of(TOKENS))
    choose(panel, 3, 1)
    assert model.asked[0][1]["max_new_tokens"] == 2
    full = Panel(model, "a" * 60, answer=answer_of(TOKENS))
    choose(full, 3, 1)
    assert len(model.asked) == 1 and "the text has 64 tokens, and max_seq_len is 64" in (
        text_of(full.state.value)
    )
    full.back.click()
    assert ids(full) == [0, 1, 2, 3]


def test_while_an_answer_is_made_nothing_can_be_chosen_and_its_times_are_shown():
    model = Model(wait=True)
    panel = Panel(model, "a", answer=answer_of(TOKENS))
    panel.drawn = -1e9
    panel.generate.click()
    model.step.release()
    assert model.shown.acquire(timeout=60)
    panel.drawn = -1e9
    model.step.release()
    assert model.shown.acquire(timeout=60)
    panel.chooser.others[1].click()
    panel.back.click()
    assert panel.chooser.place.disabled and panel.back.disabled and len(model.asked) == 1
    assert "first token" in panel.bars.value and "10.0 ms" in panel.bars.value
    for _ in TOKENS:
        model.step.release()
    panel.worker.join(60)


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


def goes_on_exactly(panel: Panel, engine: neoxlib.Engine) -> None:
    """What follows a chosen token equals a generation whose prompt ends in these ids."""
    before = ids(panel)
    choose(panel, 5, 2)
    chosen = panel.chooser.offered[2][0]
    begun = [*engine.tokenizer("A rank is")["input_ids"], *before[:5], chosen]
    follows = engine.generate([begun], max_new_tokens=40)[0].token_ids
    assert ids(panel) == [*before[:5], chosen, *follows]
    other = Panel(engine, "A rank is", {"max_new_tokens": 40})
    press(other)
    choose(other, 5, 2)
    assert ids(other) == ids(panel)


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
        stopped = list(panel.now.tokens)
        press(panel)
        engine = neoxlib.load(checkpoint)
        expected = engine.generate(["A rank is"], max_new_tokens=40)[0]
        assert ids(panel) == expected.token_ids
        assert [token for token, _, _ in stopped] == expected.token_ids[: len(stopped)]
        goes_on_exactly(panel, engine)
        session.close()
        loads_again(panel, expected.token_ids)


def loads_again(panel: Panel, expected: list[int]) -> None:
    """After its session was closed, as at a notebook's end: by ranks of its own."""
    before = panel.session
    press(panel)
    with panel.session as session:
        assert session is not before and before.ended and not session.ended
        assert ids(panel) == expected and "ended by" in panel.state.value
        assert set(session.ranks["pid"]).isdisjoint(before.ranks["pid"])
        (folded,) = [part for part in panel.box.children if hasattr(part, "titles")]
        assert folded.titles == ("ranks",) and "its log" in folded.children[0].value
        same = "model_dir", "dtype", "device", "world_size", "max_seq_len", "compile"
        assert [session.describe().get(n) for n in same] == [before.describe().get(n) for n in same]
