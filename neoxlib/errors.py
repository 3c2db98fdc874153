"""The errors that a user can cause. Each says what was found, what was expected and what to do."""

import difflib
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

TOOLKIT = (  # set_env.sh of CANN, the newest layout first: a host with both has an old CANN last
    "/usr/local/Ascend/cann/set_env.sh",
    "/usr/local/Ascend/cann-*/set_env.sh",
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
)
WITHOUT_NPU = "export TORCH_DEVICE_BACKEND_AUTOLOAD=0"
# What a reader cannot see, and what a terminal or the order of letters obeys: the control
# characters of ASCII and C1 but for tabs and line breaks, the format characters (Unicode's class
# Cf, but for the marks of Arabic and Egyptian writing, which have a shape), line and paragraph
# separators, and halves of surrogate pairs, which no file in UTF-8 holds.
UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e007f]|\r(?!\n)"
)


def show_controls(value: str) -> str:
    """Return a text with what cannot be seen by its number: ⟨U+001B⟩, ⟨U+202E⟩."""
    return UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", value)


class NeoXError(Exception):
    """Any error that a user of neoxlib can cause and repair."""

    def __str__(self) -> str:
        """Return the message; what a name or a text of a file in it hides, by its number."""
        return show_controls(super().__str__())


class ConfigError(NeoXError):
    """A config.json or model folder that is not a GPT-NeoX that neoxlib runs."""


class WeightsError(NeoXError):
    """Tensors that are missing, extra, misshapen, truncated or not readable."""


class ShardError(NeoXError):
    """A world size, destination folder or disk that a cut cannot use."""


class SettingsError(NeoXError):
    """A request (prompt, length, sampling setting, device, dtype) that cannot be served."""


class NotFiniteError(SettingsError):
    """NaN or infinite logits of a row `ids`: damaged weights, or a dtype that overflows."""

    ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, what: str, ids: Iterable[int]) -> "NotFiniteError":
        """Return the error for `what`; `ids` is one of its rows."""
        error = cls(
            f"the logits of {what} are not finite (NaN or infinity), so no token can be chosen or "
            "scored; the weights are damaged, or the dtype overflows: verify the model folder, or "
            "load with dtype 'float32' or 'bfloat16'"
        )
        error.ids = tuple(ids)
        return error


class RankError(NeoXError):
    """A rank died or raised; the message has its traceback or the last lines of its log."""


class Stopped(RankError):
    """The call ended between two steps, on all ranks alike, because the notebook asked for it."""


class DataError(NeoXError):
    """Evaluation data with problems; the message lists all of them as file:row."""


class ParameterError(NeoXError):
    """Parameters that are unknown, wrongly typed or out of range; the message lists all."""


class CheckFailed(NeoXError):
    """A check of a finished run (parity, accuracy, regression) that failed."""


def source_command(scripts: Sequence[str] | None = None) -> str:
    """Return the command that sources CANN: the newest of `scripts`, by default of those here.

    If there is none, the path is that of today's CANN.
    """
    if scripts is None:
        scripts = [path for pattern in TOOLKIT for path in sorted(glob.glob(pattern))]
    return f"source {(*scripts, TOOLKIT[0])[0]}"


def telling(text: str) -> list[str]:
    """Return the lines that can be quoted as a reason: not blank, and not a ruler (+---+, ====)."""
    return [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]


def unreadable_is(
    kind: type[NeoXError], done: str = "read"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that turns OSError into `kind`, with the file or folder and the reason.

    `done` is the operation that failed, such as "written to".
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except OSError as error:
                what = error.filename or "a file"
                why = error.strerror or str(error)
                do = "see `ls -ld`, and give this user the right to, or name another"
                raise kind(f"{what} cannot be {done}: {why}; {do}") from error

        return told

    return wrap


def is_panic(error: BaseException) -> bool:
    """Whether the tokenizers library, in Rust, gave up: no Exception, nor can it be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_told() -> Iterator[None]:
    """Raise ConfigError where the tokenizer panics; also a decorator."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise ConfigError(
            f"tokenizer.json has a step, such as a regex, that fails on this text ({error}); "
            "copy tokenizer.json from the checkpoint, or give a shorter text"
        ) from error


def nearest(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return at most `most` known names that resemble `name` by `cutoff` of 1, the nearest first.

    `cutoff` is compared with difflib's ratio: the share of letters that both have in this order.
    """
    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return "; did you mean …?" if known names are near, else an empty text; see `nearest`."""
    near = nearest(name, known, most, cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def torch_npu_error(error: BaseException) -> SettingsError | None:
    """Explain an `import torch` that failed while loading torch_npu; None for any other error.

    torch loads every installed backend on import, and torch_npu needs CANN's libraries.
    """
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    if "torch_npu" not in " ".join(map(str, chain)) + _files(chain):
        return None
    first = (telling(str(chain[-1])) or [type(chain[-1]).__name__])[0]
    sourced = "ASCEND_HOME_PATH" in os.environ
    cure = (
        "`python -m neoxlib doctor` names the pair that does not fit"
        if sourced
        else f"run `{source_command()}` before Python"
    )
    return SettingsError(
        "torch cannot be imported: torch_npu is installed, torch loads it, and it fails "
        f"({first}). To use NPUs {cure}; to use the CPU run `{WITHOUT_NPU}` before Python."
    )


def _files(chain: list[BaseException]) -> str:
    """List the files in the errors' tracebacks."""
    names = []
    for error in chain:
        trace = error.__traceback__
        while trace is not None:
            names.append(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
    return " ".join(names)
