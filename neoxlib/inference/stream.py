"""Tokens to text as they come, in pieces that are never taken back, and stop strings in it."""

import json
import re
from collections import deque
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from neoxlib.errors import panics_told
from neoxlib.inference.printer import Chosen, Times

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a token of one byte, to a decoder with a byte fallback
# Decoders that only append: the text of some tokens is a prefix of the text of these and more,
# except for runs of a byte fallback.
APPENDING = {"none", "ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}


class Pieces:
    """Tokens in, text out as soon as no later token can change it.

    All pieces and the `rest` together are what the tokenizer decodes from all tokens. Held back are
    incomplete characters, and byte tokens (<0x0A>) while more may follow: a decoder with a byte
    fallback replaces a whole run of them if it is not valid text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", skip_special_tokens: bool) -> None:
        self.tokenizer = tokenizer.backend_tokenizer
        self.decoder = DecodeStream(skip_special_tokens=False)
        added = self.tokenizer.get_added_tokens_decoder() if skip_special_tokens else {}
        self.hidden = {number for number, token in added.items() if token.special}
        self.unsettled = _unsettled(self.tokenizer)
        self.tokens: list[int] = []
        self.waiting: list[int] = []
        self.count = 0  # characters given out

    @panics_told()
    def push(self, token: int) -> str:
        """Take a token; return the text that it makes final."""
        if token in self.hidden:
            return ""
        self.tokens.append(token)
        self.waiting.append(token)
        if token in self.unsettled:
            return ""
        piece = self.decoder.step(self.tokenizer, self.waiting) or ""
        self.waiting = []
        self.count += len(piece)
        return piece

    @panics_told()
    def rest(self) -> str:
        """Return the text held back, as it reads if no token follows."""
        return self.tokenizer.decode(self.tokens, skip_special_tokens=False)[self.count :]


@lru_cache(maxsize=8)
def _unsettled(tokenizer: Tokenizer) -> Container[int]:
    """Ids whose text depends on what follows: all, unless the decoder is known to only append."""
    state = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {"type": "none"}
    steps = state.get("decoders", [state])
    kinds = {step["type"] for step in steps}
    if not kinds <= APPENDING or any(step.get("stop") for step in steps):
        return range(2**31)
    if "ByteFallback" not in kinds:
        return ()
    return {number for token, number in tokenizer.get_vocab().items() if BYTE.fullmatch(token)}


class TextStream:
    """Tokens in, final text out: `push` each token, then `take` the text.

    Stop strings are searched in the text with its special tokens, as transformers' `stop_strings`
    are, even if the text is given out without them. Stop strings that begin in the prompt do not
    count.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stop: Sequence[str] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self.shown = Pieces(tokenizer, skip_special_tokens)
        self.whole = Pieces(tokenizer, False) if stop and skip_special_tokens else self.shown
        self.gate = HoldBack(stop)
        self.text = ""  # without special tokens, if they are skipped
        self.taken = ""  # the part of `text` that was given out
        self.chosen: list[Chosen] = []  # tokens since then, if there is a stream
        self.clocks: list[Times] = []  # of their steps
        self.read = self.free = 0  # characters of the whole text: received, and free to show
        # Ends of the tokens that are not free yet, in the whole text and in `text`.
        self.marks: deque[tuple[int, int]] = deque()
        self.passed = 0  # characters of `text` up to the end of the last free token

    def push(self, token: int, show: bool = True) -> bool:
        """Take a token, which is text only if `show`; True when a stop string is complete."""
        piece = self.shown.push(token) if show else ""
        self._read(piece if self.whole is self.shown else self.whole.push(token), piece)
        if self.whole.waiting and self.gate.finds(self.whole.rest().rstrip("\ufffd")):
            self._read(self.whole.rest(), self.shown.rest())
        return self.gate.stopped

    def take(self, ended: bool = False) -> str:
        """Return the text that became final since the last call; all of the rest if `ended`.

        All pieces joined are what the tokenizer decodes from all tokens, cut before the stop
        string; an unfinished character at the very end shows as U+FFFD.
        """
        if ended and not self.gate.stopped:
            self._read(self.whole.rest(), self.shown.rest())
            self.free += len(self.gate.flush())
        piece = self.text[len(self.taken) : self._certain()]
        self.taken += piece
        return piece

    def _read(self, whole: str, shown: str) -> None:
        self.text += shown
        self.read += len(whole)
        self.free += len(self.gate.push(whole))
        self.marks.append((self.read, len(self.text)))

    def _certain(self) -> int:
        """Count the characters of `text` that the first `free` of the whole text make up."""
        while self.marks and self.marks[0][0] <= self.free:
            self.passed = self.marks.popleft()[1]
        end, length = self.marks[0] if self.marks else (self.free, self.passed)
        # The maximum, because a special token may have no text.
        return max(self.passed, length - (end - self.free))


class NoText(TextStream):
    """The text stream without a tokenizer: always empty."""

    def __init__(self) -> None:
        self.gate = HoldBack(())
        self.taken = ""
        self.chosen = []
        self.clocks = []

    def push(self, token: int, show: bool = True) -> bool:
        """Ignore a token."""
        return False

    def take(self, ended: bool = False) -> str:
        """Return no text."""
        return ""


class HoldBack:
    """Text in pieces in, text out up to the first stop string; a possible start of one is held.

    The stop string that is complete first wins, the longer one of two that end together. How the
    text was cut into pieces does not matter.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take more text; return the text that can no longer be part of a stop string."""
        if self.stopped:
            return ""
        self.held += piece
        ends = [
            (start + len(stop), start) for stop in self.stop if (start := self.held.find(stop)) >= 0
        ]
        if ends:
            self.stopped = True
            return self._release(min(ends)[1])
        return self._release(len(self.held) - self._undecided())

    def finds(self, more: str) -> bool:
        """Tell whether `more` would complete a stop string."""
        return not self.stopped and any(stop in self.held + more for stop in self.stop)

    def flush(self) -> str:
        """Return the held text: nothing follows that could complete a stop string."""
        return "" if self.stopped else self._release(len(self.held))

    def _release(self, count: int) -> str:
        free = self.held[:count]
        self.held = self.held[count:]
        return free

    def _undecided(self) -> int:
        """Length of the longest suffix of the held text that is a prefix of a stop string."""
        sizes = (
            size
            for stop in self.stop
            for size in range(1, len(stop))
            if self.held.endswith(stop[:size])
        )
        return max(sizes, default=0)
