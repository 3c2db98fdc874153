"""The method `generate` of Engine and of Session: one signature, and the printing of a stream."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from neoxlib.inference.printer import Printer, Stream
from neoxlib.workbook.progress import in_lab, in_notebook

if TYPE_CHECKING:  # Session, which inherits from it, is imported without torch
    from neoxlib.inference.contract import Prompt
    from neoxlib.inference.text import Completion


def listed(items: Any) -> Any:
    """Return an iterator as a list, since it can be read only once; anything else as it is."""
    return list(items) if isinstance(items, Iterator) else items


class TextGenerator:
    """Base of Engine and Session: `generate` is the same, and only `_generate` is their own."""

    def generate(
        self,
        prompts: "Sequence[Prompt]",
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        stream: bool | Stream = False,
        *,
        stop_token_ids: int | Sequence[int] | None = None,
        skip_special_tokens: bool = True,
    ) -> "list[Completion]":
        """Continue `prompts` (texts, or lists of token ids), all in one batch.

        A row ends at the end of text (see `tokenizer.end_ids`), at one of `stop_token_ids`, or
        before a string of `stop`, which is searched in the new text with its special tokens. The
        answer's text is without them unless `skip_special_tokens` is False. `stream=True` prints
        the text as it comes, or pass a function of (row, piece): both in the caller's process. A
        folder without a tokenizer takes only token ids, and `text` is then empty. Interrupting the
        cell stops a Session's ranks at the next token, and the session goes on; in JupyterLab a
        call with `stream=True` then returns what there is, with "interrupted" as finish_reason.
        Raises SettingsError, before any work, for bad settings, empty or too long prompts.
        """
        settings = max_new_tokens, temperature, top_k, top_p, repetition_penalty, stop, seed
        more = {"stop_token_ids": stop_token_ids, "skip_special_tokens": skip_special_tokens}
        return self._shown(stream, listed(prompts), *settings, **more)

    def _shown(
        self, stream: bool | Stream, prompts: "Sequence[Prompt]", *settings: Any, **more: Any
    ) -> "list[Completion]":
        """Answer with `_generate`, and print the pieces if `stream` is True."""
        if stream is not True:
            return self._generate(stream or None, prompts, *settings, **more)
        printer = Printer(len(prompts))
        try:
            answers = self._generate(printer, prompts, *settings, **more)
        except KeyboardInterrupt as stop:
            answers = getattr(stop, "answers", None)
            if not answers or not (in_lab() and in_notebook()):
                raise
            printer.close()
            count = max(len(one.token_ids) for one in answers)
            print(f"Interrupted after {count} tokens: this is the answer so far.")
            return answers
        printer.close()
        return answers

    def _generate(
        self, stream: Stream | None, prompts: "Sequence[Prompt]", *settings: Any, **more: Any
    ) -> "list[Completion]":
        """Continue `prompts` by the settings of `generate`; `stream` is called with the pieces."""
        raise NotImplementedError
