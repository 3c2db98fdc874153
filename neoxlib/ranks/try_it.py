"""Try a model by hand: a prompt box and sliders in JupyterLab, one answer as a strip elsewhere."""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from neoxlib.errors import RankError, show_controls
from neoxlib.inference.printer import Chosen
from neoxlib.inference.tables import chosen, strip_html
from neoxlib.ranks.monitor import Monitor
from neoxlib.ranks.session import Session
from neoxlib.workbook import markup
from neoxlib.workbook.progress import in_lab

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neoxlib.inference.contract import Inference
    from neoxlib.inference.text import Completion

NOTE = "In JupyterLab this is a prompt box with sliders. Over each token stand its alternatives."
MOST_TOKENS = 512  # of the slider
SECONDS = 0.05  # between two drawings
WIDE = {"width": "100%"}
WHOLE = {"style": {"description_width": "initial"}}  # a long name is not cut
ENDED = "Run the cells under Load again, and this one."


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
        return f"{markup.paragraph(self.prompt)}{answer}{markup.paragraph(NOTE)}"

    def __repr__(self) -> str:
        return show_controls(self.prompt + (self.answer.text if self.answer else ""))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if not in_lab():
            return bundle
        return Panel(self.session, self.prompt, self.settings).box._repr_mimebundle_() | bundle


class Halted(Exception):
    """Stop was pressed: raised in the stream, it ends the call and not the session."""


class Panel:
    """The widgets. An answer is made in a thread, so that the kernel hears Stop meanwhile."""

    def __init__(
        self, session: "Inference", prompt: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.session = session
        self.fixed = dict(settings or {})
        self.prompt = widgets.Textarea(value=prompt, rows=3, layout=WIDE)
        self.sliders = _sliders(self.fixed, session.max_seq_len)
        self.generate = widgets.Button(description="Generate", button_style="primary")
        self.stop = widgets.Button(description="Stop", disabled=True)
        self.answer = widgets.HTML()
        self.state = widgets.HTML()
        self.halt = threading.Event()
        self.tokens: list[Chosen] = []
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.drawn = 0.0
        self.worker: threading.Thread | None = None
        self.generate.on_click(lambda _: self._begin())
        self.stop.on_click(lambda _: self.halt.set())
        buttons = widgets.HBox([self.generate, self.stop, self.state])
        settings_box = widgets.HBox([*self.sliders.values()], layout={"flex_flow": "row wrap"})
        parts = [self.prompt, settings_box, buttons, self.answer, *_folded_monitor(session)]
        self.box = widgets.VBox(parts)

    def _begin(self) -> None:
        self.halt.clear()
        self.tokens = []
        self._busy(True)
        self._say("Reading the prompt …")
        asked = self.fixed | {name: slider.value for name, slider in self.sliders.items()}
        work = (self.prompt.value, asked)
        self.worker = threading.Thread(target=self._work, args=work, name="try it", daemon=True)
        self.worker.start()

    def _work(self, prompt: str, asked: dict[str, Any]) -> None:
        try:
            self.tokenizer = self.session.tokenizer  # it may be the ranks': not while they work
            answer = self.session.generate([prompt], **asked, stream=self._hear)[0]
            self.tokens = chosen(answer)
            self._say(f"{len(self.tokens)} tokens, ended by {answer.finish_reason}: ", answer)
        except Halted:
            self._say(f"Stopped after {len(self.tokens)} tokens; the text so far is kept.")
        except Exception as error:  # shown where the user looks: no cell is running
            more = f" {ENDED}" if isinstance(error, RankError) else ""
            self._say(f"{type(error).__name__}: {error}{more}")
        finally:
            self._draw()
            self._busy(False)

    def _hear(self, row: int, piece: str) -> None:
        if self.halt.is_set():
            raise Halted
        self.tokens += getattr(piece, "tokens", ())
        if time.monotonic() > self.drawn + SECONDS:
            self._draw()
            self._say(f"{len(self.tokens)} tokens …")

    def _draw(self) -> None:
        self.answer.value = strip_html(self.tokens, self.tokenizer) if self.tokens else ""
        self.drawn = time.monotonic()

    def _say(self, text: str, answer: "Completion | None" = None) -> None:
        times = repr(answer.timings) if answer else ""
        self.state.value = markup.paragraph(f"{text}{times}")

    def _busy(self, busy: bool) -> None:
        self.generate.disabled = busy
        self.stop.disabled = not busy


def _sliders(settings: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Return a widget for each setting that can be changed, by its name in `generate`."""
    most = max(1, min(MOST_TOKENS, room - 1))
    length = {"value": min(settings.get("max_new_tokens") or 32, most), "min": 1, "max": most}
    share = {"value": settings.get("top_p") or 1.0, "min": 0.05, "max": 1.0, "step": 0.05}
    heat = {"value": settings.get("temperature") or 0.0, "min": 0.0, "max": 2.0, "step": 0.05}
    seed = {"value": settings.get("seed") or 0, "min": 0, "max": 2**31 - 1}
    return {
        "temperature": widgets.FloatSlider(description="temperature", **heat, **WHOLE),
        "top_p": widgets.FloatSlider(description="top-p", **share, **WHOLE),
        "max_new_tokens": widgets.IntSlider(description="tokens", **length, **WHOLE),
        "seed": widgets.BoundedIntText(description="seed", **seed, **WHOLE),
    }


def _folded_monitor(session: "Inference") -> list[widgets.Widget]:
    """Return a closed box with the monitor of the session's ranks; nothing of an engine."""
    if not isinstance(session, Session):
        return []
    return [widgets.Accordion([Monitor(session).panel()], titles=("ranks",), selected_index=None)]
