"""GPT-NeoX as the model `neoxlib` of lm-evaluation-harness (the extra `eval`).

lm-eval 0.4.13 finds models in its own table only, not in installed packages, so this module must
be imported first: `python -m neoxlib lm-eval …` does that and runs lm-eval's command line, and a
script that imports this module may call `lm_eval.simple_evaluate(model="neoxlib", …)`.
"""

import logging
import operator
import sys
from collections.abc import Sequence
from typing import Any

import lm_eval.models  # noqa: F401  fills the table of models, which is done only while it is empty
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    Collator,
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from neoxlib.errors import SettingsError, panics_told
from neoxlib.inference.engine import Engine
from neoxlib.inference.load import load
from neoxlib.ranks.session import Session
from neoxlib.workbook.progress import Meter

log = logging.getLogger("neoxlib")

Encoded = tuple[list[int], list[int]]  # ids of a context and of its continuation
MAX_GEN_TOKS = 256  # default for a task, as in lm-eval's model `hf`
CHUNK = 2048  # requests between two writes to lm-eval's cache, lost if a run is interrupted
AUTO_ROWS = 8  # prompts continued together under `--batch_size auto`
OPTIONS = ("temperature", "top_k", "top_p", "repetition_penalty")  # of generation_kwargs
NOTHING = {"do_sample": (True, False), "num_beams": (1,)}  # values that the temperature implies


def main(arguments: Sequence[str]) -> None:
    """Run lm-eval's own command line."""
    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()


@register_model("neoxlib")
class NeoXLM(TemplateLM):
    """lm-eval's model, over `neoxlib.load` or, for a `world_size` above one, over a Session.

    Model arguments have the meaning they have there; `pretrained` is the model folder and
    `max_length` the window. `batch_size` is for generation only: requests to score are batched by
    their tokens. Answers equal those of lm-eval's `hf`: probabilities are over every row of the
    vocabulary, padding included, and a text longer than the window loses its beginning. Text equals
    that of `hf` for a single request. In a batch, `hf` continues a row after its end until all rows
    have ended, and if a special token ended the row, that text stays.
    """

    def __init__(
        self,
        pretrained: str,
        world_size: int = 1,
        dtype: str = "auto",
        device: str = "auto",
        quant: str | None = None,
        max_length: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise SettingsError(
                f"model_args has {', '.join(unknown)}, which neoxlib does not know; "
                "it knows pretrained, world_size, dtype, device, quant, max_length, batch_size, "
                "max_batch_size"
            )
        device = "auto" if device.startswith("cuda") else device  # lm-eval's default is "cuda:0"
        settings = {"dtype": dtype, "device": device, "quant": quant, "max_seq_len": max_length}
        self.model: Engine | Session
        if world_size == 1:
            self.model = load(pretrained, **settings)
        else:
            self.model = Session(pretrained, world_size, **settings)
        self.tokenizer = self.model.tokenizer
        self.max_length = self.model.max_seq_len
        auto = str(batch_size).startswith("auto")
        self.rows = (max_batch_size or AUTO_ROWS) if auto else int(batch_size)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "NeoXLM":
        """Make the model for lm-eval; --model_args replaces --device and --batch_size."""
        others = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**others | arg_dict)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id put before a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    def get_model_info(self) -> dict[str, Any]:
        """Describe the loaded model for lm-eval's results."""
        return self.model.describe()

    @panics_told()
    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the ids of `string`.

        By default the tokenizer adds its own tokens, unless the string has the prefix token.
        """
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text: every token once, in consecutive windows."""
        windows = [
            (number, make_disjoint_window(window))
            for number, request in enumerate(requests)
            for window in get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                self.prefix_token_id,
                self.max_length,
                context_len=1,
            )
        ]
        sums = [0.0] * len(requests)
        answers = self._loglikelihood_tokens(
            [(None, *window) for _, window in windows], disable_tqdm
        )
        for (number, _), (logprob, _) in zip(windows, answers, strict=True):
            sums[number] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Return (log-probability, is greedy) of each request, in the given order.

        A request is (texts or None, context ids, continuation ids).
        """
        pairs = [self._cut(*request) for request in requests]
        contexts = [context for _, context, _ in requests]
        self._warn_of_loss([context for context, _ in pairs], contexts)
        # Texts with a shared prefix go into one chunk.
        order = sorted(range(len(pairs)), key=lambda n: pairs[n][0] + pairs[n][1])
        answers: dict[int, tuple[float, bool]] = {}
        with _meter("loglikelihood", len(pairs), disable_tqdm) as meter:
            for start in range(0, len(order), CHUNK):
                chunk = order[start : start + CHUNK]
                answers |= self._score({n: pairs[n] for n in chunk}, start, meter)
                for n in chunk:
                    if requests[n][0] is not None:  # windows of a longer text are not cached
                        self.cache_hook.add_partial("loglikelihood", requests[n][0], answers[n])
        return [answers[n] for n in range(len(pairs))]

    def _score(
        self, pairs: dict[int, Encoded], start: int, meter: Meter
    ) -> dict[int, tuple[float, bool]]:
        """Score one chunk; `start` requests were done before it."""
        scores = self.model.score_ids(
            list(pairs.values()),
            lambda done, _: meter.add(start + done - meter.done),
            tokenizer_size=self.model.config.vocab_size,
        )
        scored = zip(pairs, scores, strict=True)
        return {n: (score.logprob, score.greedy) for n, score in scored}

    def _cut(
        self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]
    ) -> Encoded:
        """Cut a request to the window from its beginning; at least one context token stays."""
        if not 1 <= len(continuation) <= self.max_length:
            what = f"{texts[1]!r:.40} after {texts[0][-20:]!r}" if texts else "a text"
            raise SettingsError(
                f"{what} is {len(continuation)} tokens; 1 to {self.max_length} can be scored"
            )
        # The last token is a target only, so it takes no place in the window.
        excess = len(context) + len(continuation) - (self.max_length + 1)
        return context[max(excess, 0) :], continuation

    def _warn_of_loss(self, kept: Sequence[list[int]], whole: Sequence[list[int]]) -> None:
        if lost := sum(map(operator.ne, kept, whole)):
            log.warning(
                "%d of %d requests lost their beginning: the window has %d",
                lost,
                len(whole),
                self.max_length,
            )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to the first of its `until`; equal settings share a batch."""
        order = Collator(
            [request.args for request in requests],
            group_by="gen_kwargs",
            group_fn=lambda args: args[1],
            sort_fn=lambda args: (-len(self.tok_encode(args[0])), args[0]),
        )
        texts: list[str] = []
        with _meter("generate_until", len(requests), disable_tqdm) as meter:
            for batch in order.get_batched(n=self.rows):
                contexts, settings = zip(*batch, strict=True)
                texts += self._continue(contexts, settings[0])
                for args, text in zip(batch, texts[-len(batch) :], strict=True):
                    self.cache_hook.add_partial("generate_until", args, text)
                meter.add(len(batch))
        return order.get_original(texts)

    @panics_told()
    def _continue(self, contexts: Sequence[str], asked: dict[str, Any]) -> list[str]:
        """Continue one batch; a context without room for the new tokens loses its beginning."""
        settings = normalize_gen_kwargs(asked, MAX_GEN_TOKS)
        until = handle_stop_sequences(
            settings.pop("until"), self.tokenizer.decode(self.eot_token_id)
        )
        new = settings.pop("max_gen_toks")
        if new >= self.max_length:
            raise SettingsError(
                f"max_gen_toks is {new}; the window has {self.max_length} tokens, prompt and all"
            )
        whole = [self.tok_encode(text) or [self.prefix_token_id] for text in contexts]
        prompts = [ids[new - self.max_length :] for ids in whole]
        self._warn_of_loss(prompts, whole)
        # transformers' `generate`, which is behind `hf`, also ends a text at ids that neoxlib does
        # not take for an end of text.
        stop = [text for text in until if text]
        ids = self.model.describe()["not_end_of_text"]
        answers = self.model.generate(
            prompts, new, stop=stop, stop_token_ids=ids, **sampling(settings)
        )
        texts = [
            self.tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in answers
        ]
        return [postprocess_generated_text(text, until, None) for text in texts]


def _meter(kind: str, total: int, disable_tqdm: bool) -> Meter:
    """A meter of requests; `disable_tqdm` is lm-eval's name for not showing it."""
    title = f"Running {kind} requests"
    return Meter(title, total, show=not disable_tqdm, unit="requests")


def sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of `generate` for lm-eval's normalized generation_kwargs.

    The seed is drawn from torch's generator, which lm-eval seeds, so a run can be repeated.
    Raises SettingsError with the settings that are not offered.
    """
    other = {k: v for k, v in settings.items() if k not in OPTIONS and v not in NOTHING.get(k, ())}
    if other:
        offered = f"until, max_gen_toks, do_sample, {OPTIONS}"
        raise SettingsError(f"generation_kwargs {other} are not offered; {offered} are")
    given = {key: settings[key] for key in OPTIONS if key in settings}
    return given | {"seed": int(torch.randint(2**31, ())) if settings["do_sample"] else None}
