"""GPT-NeoX as the model `neoxlib` of lm-evaluation-harness (the extra `eval`): token ids and settings out, answers in.

lm-eval 0.4.13 looks for models in its own table only and asks no installed package, so that this module has to be
imported first: `python -m neoxlib lm-eval …` is lm-eval's command line with that done, and a script that imports this
module may call `lm_eval.simple_evaluate(model="neoxlib", …)`.
"""

import logging
import operator
import sys
from collections.abc import Sequence
from typing import Any

import lm_eval.models  # noqa: F401  the table is filled only as long as nobody else has put a model into it
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
from tqdm import tqdm

from neoxlib.errors import SettingsError
from neoxlib.inference.engine import Engine, load
from neoxlib.ranks.session import Session

log = logging.getLogger("neoxlib")

Pair = tuple[list[int], list[int]]  # ids of a context and of its continuation
MAX_GEN_TOKS = 256  # where a task says nothing; the same as in lm-eval's model `hf`
CHUNK = 2048  # requests between two visits to lm-eval's cache: what a broken-off run has to compute again
AUTO_ROWS = 8  # prompts continued together under `--batch_size auto`
OPTIONS = (
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
)  # of generation_kwargs, as `generate` has them
NOTHING = {
    "do_sample": (True, False),
    "num_beams": (1,),
}  # values that say no more than the temperature does


def main(arguments: Sequence[str]) -> None:
    """lm-eval's own command line."""
    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()


@register_model("neoxlib")
class NeoXLM(TemplateLM):
    """What lm-eval asks of a model, over `neoxlib.load` or, at a `world_size` of more than one, over a Session.

    Model arguments have the meaning they have there; `pretrained` is the model folder and
    `max_length` the window. `batch_size` is for generation alone, since requests to score are put
    together by their tokens. Answers are those of lm-eval's `hf`: probabilities are over every row
    of the vocabulary, padding too, and what is longer than the window loses its beginning. Text is
    what `hf` writes for a request alone: in a batch it writes on after a row's end until all have
    ended, and where a special token ended it, that text stays.
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
            known = "pretrained, world_size, dtype, device, quant, max_length, batch_size, max_batch_size"
            raise SettingsError(
                f"model_args has {', '.join(unknown)}, which neoxlib does not know; it knows {known}"
            )
        device = (
            "auto" if device.startswith("cuda") else device
        )  # "cuda:0" is lm-eval's word where nobody said any
        settings = {"dtype": dtype, "device": device, "quant": quant, "max_seq_len": max_length}
        self.model: Engine | Session = (
            load(pretrained, **settings)
            if world_size == 1
            else Session(pretrained, world_size, **settings)
        )
        self.tokenizer = self.model.tokenizer
        self.max_length = self.model.max_seq_len
        self.rows = (
            (max_batch_size or AUTO_ROWS) if str(batch_size).startswith("auto") else int(batch_size)
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "NeoXLM":
        """As lm-eval's command line makes it; what --model_args says wins over --device and --batch_size."""
        return cls(
            **{k: v for k, v in (additional_config or {}).items() if v is not None} | arg_dict
        )

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text that has nothing before it."""
        return (
            self.eot_token_id
            if self.tokenizer.bos_token_id is None
            else self.tokenizer.bos_token_id
        )

    def get_model_info(self) -> dict[str, Any]:
        """What is loaded, where and how, for lm-eval's results."""
        return self.model.describe()

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of `string`; by default with the tokens that the tokenizer adds by itself, unless it starts with one."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text: every token once, in windows that follow each other."""
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
        """(log-probability, is greedy) of each (texts or None, context ids, continuation ids), in the order given."""
        pairs = [self._cut(*request) for request in requests]
        self._warn_of_loss(
            [context for context, _ in pairs], [context for _, context, _ in requests]
        )
        order = sorted(
            range(len(pairs)), key=lambda n: pairs[n][0] + pairs[n][1]
        )  # like beginnings share a chunk
        answers: dict[int, tuple[float, bool]] = {}
        with tqdm(
            total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests"
        ) as bar:
            for start in range(0, len(order), CHUNK):
                chunk = order[start : start + CHUNK]
                scores = self.model.score_ids(
                    [pairs[n] for n in chunk],
                    lambda done, _, start=start: bar.update(start + done - bar.n),
                    real_ids=self.model.config.vocab_size,
                )
                for n, score in zip(chunk, scores, strict=True):
                    answers[n] = score.logprob, score.greedy
                    if requests[n][0] is not None:  # a window of a longer text is nothing to keep
                        self.cache_hook.add_partial("loglikelihood", requests[n][0], answers[n])
        return [answers[n] for n in range(len(pairs))]

    def _cut(
        self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]
    ) -> Pair:
        """What the window holds of a request: its beginning is lost, at most all of the context but one token."""
        if not 1 <= len(continuation) <= self.max_length:
            what = f"{texts[1]!r:.40} after {texts[0][-20:]!r}" if texts else "a text"
            raise SettingsError(
                f"{what} is {len(continuation)} tokens; 1 to {self.max_length} can be scored"
            )
        excess = (
            len(context) + len(continuation) - (self.max_length + 1)
        )  # the last token is only ever a target
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
        """What follows each context, up to the first of its `until`; requests of like settings are put together."""
        order = Collator(
            [request.args for request in requests],
            group_by="gen_kwargs",
            group_fn=lambda args: args[1],
            sort_fn=lambda args: (-len(self.tok_encode(args[0])), args[0]),
        )
        texts: list[str] = []
        with tqdm(
            total=len(requests), disable=disable_tqdm, desc="Running generate_until requests"
        ) as bar:
            for batch in order.get_batched(n=self.rows):
                contexts, settings = zip(*batch, strict=True)
                texts += self._continue(contexts, settings[0])
                for args, text in zip(batch, texts[-len(batch) :], strict=True):
                    self.cache_hook.add_partial("generate_until", args, text)
                bar.update(len(batch))
        return order.get_original(texts)

    def _continue(self, contexts: Sequence[str], asked: dict[str, Any]) -> list[str]:
        """One batch. A context too long for the window and the new tokens together loses its beginning."""
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
        # Where `hf` ends a text, which is transformers' `generate`, an id that neoxlib itself
        # leaves out counts, too.
        stop = [text for text in until if text]
        ids = self.model.describe()["not_end_of_text"]
        answers = self.model.generate(
            prompts, new, stop=stop, stop_token_ids=ids, **sampling(settings)
        )
        texts = [
            self.tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in answers
        ]
        return [postprocess_generated_text(text, until, None) for text in texts]


def sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of `generate` for lm-eval's normalized generation_kwargs. Raises SettingsError naming those not offered.

    The seed is drawn from torch's generator, which lm-eval seeds: a run can be repeated.
    """
    other = {k: v for k, v in settings.items() if k not in OPTIONS and v not in NOTHING.get(k, ())}
    if other:
        raise SettingsError(
            f"generation_kwargs {other} are not offered; until, max_gen_toks, do_sample, {OPTIONS} are"
        )
    given = {key: settings[key] for key in OPTIONS if key in settings}
    return given | {"seed": int(torch.randint(2**31, ())) if settings["do_sample"] else None}
