"""Try a model by hand: a prompt box and sliders in JupyterLab, one answer as a strip elsewhere."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from neoxlib.errors import SettingsError, show_controls
from neoxlib.inference.printer import Chosen, Times
from neoxlib.inference.tables import chosen, strip_html
from neoxlib.inference.text import encode
from neoxlib.languages import label, page, said, settled
from neoxlib.ranks.chooser import Chooser
from neoxlib.ranks.monitor import Monitor
from neoxlib.ranks.session import Session
from neoxlib.ranks.time_bars import TimeBars
from neoxlib.workbook import markup
from neoxlib.workbook.progress import in_lab

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neoxlib.inference.contract import Inference, Prompt
    from neoxlib.inference.text import Completion

NOTE = (
    "In JupyterLab this is a prompt box with sliders, where any token can be replaced by another."
)
MOST_TOKENS = 512  # of the slider
SECONDS = 0.05  # between two drawings
WIDE = {"width": "100%"}
WHOLE = {"style": {"description_width": "initial"}}  # a long name is not cut


class TryIt:
    """A prompt with an answer, shown as a strip; in JupyterLab a panel to ask for others.

    `settings` are the keyword arguments of `generate` to begin with; those without a slider stay.
    """

    def __init__(
        self,
        session: "Inference",
        prompt: str,
        answer: "Completion | None" = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.session = session
        self.prompt = prompt
        self.answer = answer
        self.settings = dict(settings or {})

    def _repr_html_(self) -> str:
        tokens = chosen(self.answer) if self.answer else []
        answer = strip_html(tokens, self.session.tokenizer)
        bars = TimeBars.of(self.answer)._repr_html_() if self.answer else ""
        return f"{markup.paragraph(self.prompt)}{answer}{bars}{markup.paragraph(NOTE)}"

    def __repr__(self) -> str:
        return show_controls(self.prompt + (self.answer.text if self.answer else ""))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if not in_lab():
            return bundle
        with settled():
            panel = Panel(self.session, self.prompt, self.settings, self.answer)
        return panel.box._repr_mimebundle_() | bundle


class Halted(Exception):
    """Stop was pressed: raised in the stream, it ends the call and not the session."""


@dataclass(frozen=True)
class Written:
    """An answer as the panel shows it: the tokens after `prompt`, and the times of the last call.

    `replaced` is the place of the token that was put there by hand: the last call began after it.
    """

    prompt: "Prompt" = ""
    tokens: tuple[Chosen, ...] = ()
    clocks: tuple[Times, ...] = ()
    replaced: int | None = None

    @property
    def kept(self) -> int:
        """The tokens that were there before the last call."""
        return 0 if self.replaced is None else self.replaced + 1

    def asked(self, tokenizer: "PreTrainedTokenizerBase") -> "Prompt":
        """What the last call continues: the prompt, with the tokens that were kept."""
        if self.replaced is None:
            return self.prompt
        return encode(tokenizer, [self.prompt])[0] + [n for n, _, _ in self.tokens[: self.kept]]


class Panel:
    """The widgets. An answer is made in a thread, so that the kernel hears Stop meanwhile."""

    def __init__(
        self,
        session: "Inference",
        prompt: str,
        settings: Mapping[str, Any] | None = None,
        answer: "Completion | None" = None,
    ) -> None:
        self.session = session
        self.fixed = dict(settings or {})
        self.prompt = widgets.Textarea(value=prompt, rows=3, description="prompt", layout=WIDE)
        self.sliders = _sliders(self.fixed, session.max_seq_len)
        self.generate = widgets.Button(description=label("label: Generate"), button_style="primary")
        self.stop = widgets.Button(description=label("label: Stop"), disabled=True)
        self.back = widgets.Button(description=said("Back"), icon="arrow-left", disabled=True)
        self.back.tooltip = said("Show the answer before this one")
        self.state = widgets.HTML(layout={"min_height": "2.6em"})
        self.bars = widgets.HTML(layout={"min_height": "4em"})
        self.chooser = Chooser(self._go_on)
        self.halt = threading.Event()
        self.now = Written(prompt)
        self.before: list[Written] = []
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.drawn = 0.0
        self.worker: threading.Thread | None = None
        self.generate.on_click(lambda _: self._ask(Written(self.prompt.value)))
        self.stop.on_click(lambda _: self.halt.set())
        self.back.on_click(lambda _: self._go_back())
        self.box = widgets.VBox(self._parts())
        if answer:
            self._show_given(prompt, answer)

    def _parts(self) -> list[widgets.Widget]:
        settings = widgets.HBox([*self.sliders.values()], layout={"flex_flow": "row wrap"})
        buttons = widgets.HBox([self.generate, self.stop, self.back])
        # Rows of their own height, and what grows is last: nothing moves while an answer is made.
        answer = [self.state, self.bars, self.chooser.row, self.chooser.text]
        return [self.prompt, settings, buttons, *answer, *_folded_monitor(self.session)]

    def _show_given(self, prompt: str, answer: "Completion") -> None:
        self.tokenizer = self.session.tokenizer
        self.now = Written(prompt, tuple(chosen(answer)), tuple(TimeBars.of(answer).clocks))
        self._busy(False)

    def _go_on(self, place: int, token: int, logprob: float) -> None:
        """Put `token` at `place`, leave out what follows, and go on from there."""
        tokens = self.now.tokens
        put = (token, logprob, tokens[place][2])
        self._ask(Written(self.now.prompt, (*tokens[:place], put), replaced=place))

    def _go_back(self) -> None:
        if self.before and self.back.disabled is False:
            self.now = self.before.pop()
            self._say(f"The answer before: {len(self.now.tokens)} tokens.")
            self._busy(False)

    def _ask(self, begun: Written) -> None:
        if self.generate.disabled:
            return
        if self.now.tokens:
            self.before.append(self.now)
        self.halt.clear()
        self.now = begun
        self._busy(True)
        self._say("Reading the prompt …")
        settings = self.fixed | {name: slider.value for name, slider in self.sliders.items()}
        self.worker = threading.Thread(
            target=self._work, args=(begun, settings), name="try it", daemon=True
        )
        self.worker.start()

    def _work(self, begun: Written, settings: dict[str, Any]) -> None:
        try:
            self._open_again()
            self.tokenizer = self.session.tokenizer  # it may be the ranks': not while they work
            prompt = begun.asked(self.tokenizer)
            if begun.replaced is not None:
                settings["max_new_tokens"] = self._room(prompt, settings["max_new_tokens"])
            answer = self.session.generate([prompt], **settings, stream=self._hear)[0]
            tokens = (*begun.tokens, *chosen(answer))
            self.now = replace(begun, tokens=tokens, clocks=tuple(TimeBars.of(answer).clocks))
            self._say(f"{self._new()}, ended by {answer.finish_reason}: {answer.timings!r}")
        except Halted:
            self._say(f"Stopped after {self._new()}; the text so far is kept.")
        except Exception as error:  # shown where the user looks: no cell is running
            self._say(f"{type(error).__name__}: {error}")
        finally:
            self._busy(False)

    def _open_again(self) -> None:
        """Open the session anew if it has ended, as at the end of a notebook."""
        if isinstance(self.session, Session) and self.session.ended:
            self._say("Loading the model again …")
            self.session = self.session.again()
            self.box.children = (*self.box.children[:-1], *_folded_monitor(self.session))

    def _room(self, ids: Sequence[int], wanted: int) -> int:
        """Return how many tokens may follow `ids`. Raises SettingsError for none."""
        most = self.session.max_seq_len
        if len(ids) >= most:
            what = f"the text has {len(ids)} tokens, and max_seq_len is {most}"
            raise SettingsError(f"{what}: nothing can follow; choose an earlier token")
        return min(wanted, most - len(ids))

    def _hear(self, row: int, piece: str) -> None:
        if self.halt.is_set():
            raise Halted
        tokens = (*self.now.tokens, *getattr(piece, "tokens", ()))
        clocks = (*self.now.clocks, *getattr(piece, "clocks", ()))
        self.now = replace(self.now, tokens=tokens, clocks=clocks)
        if time.monotonic() > self.drawn + SECONDS:
            self._draw()
            self._say(f"{self._new()} …")

    def _new(self) -> str:
        count = len(self.now.tokens) - self.now.kept
        return f"{count} token{'s' * (count != 1)}"

    def _draw(self) -> None:
        """Show what there is while more comes."""
        self.chooser.run(self.now.tokens, self.tokenizer)
        self.bars.value = page(TimeBars(self.now.clocks)._repr_html_())
        self.drawn = time.monotonic()

    def _say(self, text: str) -> None:
        self.state.value = page(markup.paragraph(text))

    def _busy(self, busy: bool) -> None:
        """Show the answer, and let it be changed unless it is being made."""
        self._draw()
        if not busy and self.tokenizer is not None:
            self.chooser.show(self.now.tokens, self.tokenizer, self.now.replaced)
        self.generate.disabled = busy
        self.stop.disabled = not busy
        self.back.disabled = busy or not self.before


def _sliders(settings: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Return a widget for each setting that can be changed, by its name in `generate`."""
    most = max(1, min(MOST_TOKENS, room - 1))
    length = {"value": min(settings.get("max_new_tokens") or 32, most), "min": 1, "max": most}
    share = {"value": settings.get("top_p") or 1.0, "min": 0.05, "max": 1.0, "step": 0.05}
    heat = {"value": settings.get("temperature") or 0.0, "min": 0.0, "max": 2.0, "step": 0.05}
    seed = {"value": settings.get("seed") or 0, "min": 0, "max": 2**31 - 1}
    return {
        "temperature": widgets.FloatSlider(
            description=label("label: temperature"), **heat, **WHOLE
        ),
        "top_p": widgets.FloatSlider(description="top-p", **share, **WHOLE),
        "max_new_tokens": widgets.IntSlider(description=said("tokens"), **length, **WHOLE),
        "seed": widgets.BoundedIntText(description=label("label: seed"), **seed, **WHOLE),
    }


def _folded_monitor(session: "Inference") -> list[widgets.Widget]:
    """Return a closed box with the monitor of the session's ranks; nothing of an engine."""
    if not isinstance(session, Session):
        return []
    panel = Monitor(session).panel()
    return [widgets.Accordion([panel], titles=(label("label: ranks"),), selected_index=None)]
