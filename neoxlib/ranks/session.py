"""A model over several ranks, used from one process: all ranks carry out Engine's methods."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.checkpoint.preflight import preflight
from neoxlib.inference.generator import TextGenerator, listed
from neoxlib.inference.printer import Stream
from neoxlib.machine.devices import npu_answers
from neoxlib.machine.runtime import import_torch
from neoxlib.process import at_end
from neoxlib.ranks import worker
from neoxlib.ranks.cluster import Ranks
from neoxlib.ranks.hanging import HANG_SECONDS, check_timeout
from neoxlib.ranks.launch import check_here
from neoxlib.ranks.loading import Loading
from neoxlib.ranks.outcome import whole
from neoxlib.ranks.placement import part, pick
from neoxlib.ranks.surroundings import Variables, open_log_dir, variables_of
from neoxlib.ranks.tables import rank_table
from neoxlib.redact import shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from neoxlib.inference.contract import Prompt
    from neoxlib.inference.rows import Answered
    from neoxlib.inference.score import Score
    from neoxlib.inference.text import Completion
    from neoxlib.inference.timing import Case
    from neoxlib.model.config import ModelConfig

log = logging.getLogger("neoxlib")
# Parameters of `load` that every rank is given.
LOADED = ("model_dir", "dtype", "device", "quant", "max_seq_len", "compile", "graph")


class Session(TextGenerator):
    """A model over `world_size` ranks that load once and serve many calls.

    It has the methods and answers of Engine: see `inference.contract`. This process never starts a
    device. `device="auto"` is the NPU if one can be used. `cluster_profile` names an ipyparallel
    profile, of `neoxlib cluster` or with launchers of your own; without it the ranks are local
    processes. `quant`, `compile` and `graph` are those of `neoxlib.load`; `deterministic` adds the
    NPUs' switches for repeatable all-reduces. `replicas` is the number of copies of the model, each
    with its own ranks: `groups` are their sessions, this one first. This one answers all calls, or
    once its ranks are lost another one; `exam.evaluate` distributes an exam over all. Each rank
    writes to `log_dir`/rank{r}.log, by default in a temporary folder that is kept when something
    fails. A notebook shows how far the load is, elsewhere only `progress=True` does; `loading` is
    what it took. A process that is stopped or frozen for `hang_timeout` seconds of a call, or stuck
    in the kernel for four times as long, is a RankError that names it; None waits forever.

    Raises the errors of `neoxlib.load`, before a rank is started if no weight has to be read for
    that, and RankError when a rank dies. After an error that all ranks raised alike (SettingsError,
    for example) the session goes on; after a RankError it has ended and left no process.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        world_size: int = 2,
        dtype: str = "auto",
        device: str = "auto",
        quant: str | None = None,
        max_seq_len: int | None = None,
        cluster_profile: str | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        compile: bool = True,
        deterministic: bool = False,
        replicas: int = 1,
        graph: str = "auto",
        hang_timeout: float | None = HANG_SECONDS,
        *,
        progress: bool | None = None,
        _group: int = 0,
    ) -> None:
        check_timeout(hang_timeout)
        profile_dir = check_here(world_size, cluster_profile)
        elsewhere = profile_dir is not None
        preflight(model_dir, world_size, dtype, device, quant, max_seq_len, elsewhere)
        device = device if elsewhere else pick(device, graph, compile)  # there the ranks pick it
        share = part(_group, replicas, world_size, device, cluster_profile)
        self.log_dir = open_log_dir(log_dir)
        self._variables = variables_of(elsewhere, world_size, device, deterministic, share)
        added = self._variables.added
        self._own = Ranks(world_size, added, self.log_dir, profile_dir, hang_timeout)
        self._end = at_end(self, _end, self._own, self.log_dir if log_dir is None else None)
        self._others: list[Session] = []
        self.loading = Loading(world_size, progress, f"group {_group}" if replicas > 1 else "")
        given = str(Path(model_dir).absolute()), dtype, device, quant, max_seq_len, compile, graph
        more = {"deterministic": deterministic, "replicas": replicas, "progress": progress}
        more |= {"hang_timeout": hang_timeout, "cluster_profile": cluster_profile}
        self._start(given, more, 1 if _group else replicas)
        self._own.alone = replicas == 1

    def _start(self, given: tuple[Any, ...], more: dict[str, Any], groups: int) -> None:
        """Start the ranks, load the model, and open the sessions of all `groups`.

        `given` are the values of LOADED, and `more` is what the sessions are given besides.
        """
        settings = dict(zip(LOADED, given, strict=True))
        shared = settings | more | {"world_size": self._own.size}
        self._asked = shared
        try:
            with self.loading:
                self._about = self._load(settings, more["deterministic"])
            for group in range(1, groups):
                place = self.log_dir / f"group{group}"
                self._others.append(Session(**shared, log_dir=place, _group=group))
        except BaseException:
            self._fail("it could not be started")
            raise

    def _load(self, settings: dict[str, Any], deterministic: bool) -> list[dict[str, Any]]:
        """Start the ranks and load the model on them; returns Engine.describe() of each."""
        self._ranks.start()
        hosts = [member["host"] for member in self._ranks.members]
        self._equip(hosts, settings["device"], deterministic)
        self.loading.phase = "opening the model"
        place = self._ranks.begin(worker.open_store, hosts)[0]
        return self._ranks.begin(worker.join, hosts, place, settings, hear=self.loading.hear)

    def _equip(self, hosts: list[str], device: str, deterministic: bool) -> None:
        """Hand local ranks what the NPUs answered; let those of a cluster ask and add their own."""
        answers = npu_answers() if self._ranks.local and device == "npu" else None
        if answers or not self._ranks.local:
            own = self._ranks.begin(worker.equip, hosts, device, deterministic, answers)[0]
            added = self._variables.added | own.added
            self._variables = Variables(added, self._variables.kept | own.kept)

    def _generate(
        self, stream: Stream | None, prompts: Sequence["Prompt"], *settings: Any, **more: Any
    ) -> "list[Completion]":
        return whole(self._call("generate", prompts, *settings, listen=stream, **more))

    def logits(self, input_ids: Any, attention_mask: Any = None) -> "Tensor":
        """Logits [B, S, vocab] float32 on the CPU for `input_ids` [B, S], as Engine.logits."""
        return import_torch().tensor(self._call("logits", input_ids, attention_mask), device="cpu")

    def activations(
        self, prompts: Sequence["Prompt"], names: Sequence[str]
    ) -> "list[dict[str, np.ndarray]]":
        """What the steps `names` compute for each prompt, as Engine.activations."""
        return self._call("activations", prompts, names)

    def score(
        self, prompts: Sequence["Prompt"], choices: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probability of each choice after each prompt, as Engine.score."""
        return self._call("score", prompts, choices)

    def score_ids(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        stream: Callable[[int, int], None] | None = None,
        tokenizer_size: int | None = None,
    ) -> "list[Score]":
        """(log-probability, is greedy) of each request, as Engine.score_ids."""
        return self._call("score_ids", requests, listen=stream, tokenizer_size=tokenizer_size)

    def profile(self, case: "Case") -> list[dict[str, list[float]]]:
        """Time `case` on all ranks: a dict of lists per repeat, as `timing.profile`."""
        return self._call("profile", case)

    def trace(self, case: "Case", folder: str | os.PathLike[str]) -> str:
        """Run the first steps of `case` under the profiler, as Engine.trace."""
        return self._call("trace", case, str(Path(folder).absolute()))

    def memory(self) -> list[dict[str, float]]:
        """MB of each rank, as Engine.memory."""
        return self._call("memory")

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function(engine, *args)` on every rank; return rank 0's answer.

        Every rank must be able to import the function.
        """
        return self._ranks.call(worker.apply, function, args)

    def wait_until_resident(self) -> None:
        """As Engine.wait_until_resident, on every rank."""
        self._call("wait_until_resident")

    settle = wait_until_resident  # its former name

    def describe(self) -> dict[str, Any]:
        """Describe the model as Engine.describe, and the variables that ranks were started with.

        `launch_environment` holds those that were added (in a cluster rank 0's), and
        `kept_variables` the user's own, which stand in place of the recipe's.
        """
        added, kept = map(shown, (self._variables.added, self._variables.kept))
        return self._about[0] | {"launch_environment": added, "kept_variables": kept}

    @property
    def graph_use(self) -> dict[str, Any]:
        """As Engine.graph_use, on rank 0; all ranks capture and replay alike."""
        return self._ranks.call(worker.look, "graph_use")

    @cached_property
    def config(self) -> "ModelConfig":
        """The model's config."""
        return self._ranks.call(worker.look, "config")

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The checkpoint's tokenizer. Raises ConfigError when the folder has none."""
        return self._ranks.call(worker.look, "tokenizer")

    @property
    def first_answers(self) -> "list[Answered]":
        """The first answers of this session as they were given, for `parity`."""
        return self._ranks.call(worker.look, "first_answers")

    @property
    def max_seq_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._about[0]["max_seq_len"]

    @property
    def ranks(self) -> "pd.DataFrame":
        """The ranks of all groups: see `tables.rank_table`."""
        import pandas as pd

        table = rank_table(self._ranks, self._about)
        if not self._others:
            return table
        tables = [table, *(other.ranks for other in self._others)]
        return pd.concat(tables, keys=range(len(tables)), names=["group", "rank"])

    @property
    def groups(self) -> "list[Session]":
        """This session and its replicas: each can be called while the others work."""
        return [self, *self._others]

    @property
    def ended(self) -> bool:
        """Whether no ranks answer any more."""
        return bool(self._ranks.ended)

    def again(self) -> "Session":
        """Open a session of its own with the settings of this one, which may have ended."""
        return Session(**self._asked | {"progress": False})

    @property
    def _ranks(self) -> Ranks:
        """The ranks that answer: this session's own, or those of a replica that still runs."""
        return next((one._own for one in self.groups if not one._own.ended), self._own)

    def close(self) -> None:
        """End all processes of the session. May be called again."""
        for other in self._others:
            other.close()
            if other._ranks.ended != Ranks.CLOSED:
                self._own.end(other._ranks.ended)  # so that the logs are kept
        self._end()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure:
            self._fail(f"it was left by a {failure.__name__}")
        self.close()

    def _fail(self, why: str) -> None:
        for session in self.groups:
            session._own.end(why)

    def __repr__(self) -> str:
        about = self._about[0]
        state = "ended" if self._ranks.ended else "ready"
        groups = f"{len(self.groups)} groups of " if self._others else ""
        place = f"{about['dtype']} on {about['device'].partition(':')[0]}"
        ranks = f"{groups}{self._ranks.size} ranks"
        return f"Session({Path(about['model_dir']).name}, {place}, {ranks}, {state})"

    def _call(
        self,
        method: str,
        *args: Any,
        listen: Callable[[int, str], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        given = tuple(map(listed, args))
        streams = listen is not None
        return self._ranks.call(worker.call, method, given, kwargs, streams, listen=listen)


def _end(ranks: Ranks, temporary: Path | None) -> None:
    """End the ranks; delete their temporary logs if nothing went wrong."""
    ranks.end()
    if temporary and ranks.ended == ranks.CLOSED:
        shutil.rmtree(temporary, ignore_errors=True)
