"""The tokens of an answer as buttons, and the alternatives of one of them to go on from."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import ipywidgets as widgets

from neoxlib.errors import show_controls
from neoxlib.inference.printer import Chosen
from neoxlib.inference.tables import DARKEST, strip_html, visible
from neoxlib.inference.text import TOP
from neoxlib.languages import said

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GoOn = Callable[[int, int, float], None]  # place of the token, the id to put there, its log-prob.
PLACE = "go on from token"
# The buttons of a ToggleButtons as running text; each has the background of its probability.
LOOK = """
.{name} button.jupyter-button {{height:auto; line-height:1.9; width:auto; max-width:100%;
 padding:0 .15em; margin:1px; border:0; box-shadow:none; white-space:pre; font-size:inherit}}
.{name} button:hover, .{name} button:focus-visible {{outline:1px dashed}}
"""
SHADE = ".{name} button:nth-child({n}) {{background:rgba(0,114,178,{share:.2f})}}\n"
CHOSEN = ".{name} button:nth-child({n}) {{outline:2px solid}}\n"
REPLACED = ".{name} button:nth-child({n}) {{text-decoration:underline; font-weight:bold}}\n"


class Chooser:
    """An answer's tokens: one is chosen by a click, or by its number, and replaced by a button.

    `go_on(place, id, log-probability)` is called then.
    """

    def __init__(self, go_on: GoOn) -> None:
        self.go_on = go_on
        self.tokens: Sequence[Chosen] = ()
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.replaced: int | None = None
        self.offered: list[tuple[int, float]] = []
        self.name = f"neoxlib-{uuid4().hex}"
        self.look = widgets.HTML(layout={"display": "none"})
        self.running = widgets.HTML()
        self.strip = widgets.ToggleButtons(options=[], layout={"display": "none"})
        self.strip.add_class(self.name)
        whole = {"style": {"description_width": "initial"}, "layout": {"width": "14em"}}
        number = {"value": 1, "min": 1, "max": 1, "disabled": True, "continuous_update": True}
        self.place = widgets.BoundedIntText(description=said(PLACE), **number, **whole)
        self.others = [self._button(number) for number in range(TOP + 1)]
        row = {"flex_flow": "row wrap", "min_height": "2.6em"}
        self.row = widgets.HBox([self.place, *self.others], layout=row)
        self.text = widgets.VBox([self.look, self.running, self.strip])
        self.strip.observe(lambda change: self._choose(change["new"]), "index")
        self.place.observe(lambda change: self._choose(change["new"] - 1), "value")

    def _button(self, number: int) -> widgets.Button:
        small = {"visibility": "hidden", "width": "auto", "max_width": "14em"}
        button = widgets.Button(layout=small)
        button.on_click(lambda _: self._go_on(number))
        return button

    def run(self, tokens: Sequence[Chosen], tokenizer: "PreTrainedTokenizerBase | None") -> None:
        """Show tokens that still come: nothing can be chosen."""
        self.place.disabled = True
        self._offer([])
        self.running.value = strip_html(tokens, tokenizer) if tokens else ""
        self._swap(self.running, self.strip)

    def show(
        self,
        tokens: Sequence[Chosen],
        tokenizer: "PreTrainedTokenizerBase",
        replaced: int | None = None,
    ) -> None:
        """Show a finished answer; `replaced` is the place of the token that was put there."""
        self.tokens, self.tokenizer, self.replaced = tokens, tokenizer, replaced
        if not tokens:
            self.run((), None)
            return
        self.strip.index = None
        self.strip.tooltips = [self._title(*token) for token in tokens]
        self.strip.options = [(self._label(token), n) for n, (token, _, _) in enumerate(tokens)]
        self.place.max = len(tokens)
        self.place.disabled = False
        unsure = min(range(len(tokens)), key=lambda n: tokens[n][1])
        self._choose(unsure if replaced is None else replaced)
        self._swap(self.strip, self.running)

    def _choose(self, place: int | None) -> None:
        """Offer the alternatives of the token at `place`, from 0."""
        if place is None or place >= len(self.tokens):
            return
        self.place.value = place + 1
        self.strip.index = place
        self.look.value = f"<style>{self._style(place)}</style>"
        token, logprob, top = self.tokens[place]
        missing = [] if token in dict(top) else [(token, logprob)]
        self._offer([*missing, *top])

    def _offer(self, offered: Sequence[tuple[int, float]]) -> None:
        self.offered = list(offered)[: len(self.others)]
        for number, button in enumerate(self.others):
            there = number < len(self.offered)
            button.layout.visibility = "visible" if there else "hidden"
            button.disabled = not there
            if there:
                token, logprob = self.offered[number]
                own = token == self.tokens[self.place.value - 1][0]
                button.description = f"{self._label(token)} {math.exp(logprob):.1%}"
                button.button_style = "info" if own else ""
                told = "Go on from this token anew" if own else "Put this token there"
                button.tooltip = said(told)

    def _go_on(self, number: int) -> None:
        if number < len(self.offered) and not self.place.disabled:
            self.go_on(self.place.value - 1, *self.offered[number])

    def _style(self, place: int) -> str:
        rules = [LOOK.format(name=self.name)]
        for n, (_, logprob, _) in enumerate(self.tokens, start=1):
            rules.append(SHADE.format(name=self.name, n=n, share=DARKEST * math.exp(logprob)))
        if self.replaced is not None:
            rules.append(REPLACED.format(name=self.name, n=self.replaced + 1))
        return "".join((*rules, CHOSEN.format(name=self.name, n=place + 1)))

    def _title(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> str:
        others = [f"{self._label(n)} {math.exp(v):.1%}" for n, v in top if n != token]
        return "; instead: ".join([f"{math.exp(logprob):.1%}", *filter(None, [" · ".join(others)])])

    def _label(self, token: int) -> str:
        return show_controls(visible(self.tokenizer, token))

    @staticmethod
    def _swap(shown: widgets.Widget, hidden: widgets.Widget) -> None:
        shown.layout.display, hidden.layout.display = None, "none"
