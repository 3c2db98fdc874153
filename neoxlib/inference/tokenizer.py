"""A checkpoint's tokenizer: the ids that have a token, and those that end a text."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neoxlib.checkpoint.foreign import utf8_path
from neoxlib.checkpoint.manifest import read_json
from neoxlib.errors import ConfigError, is_panic, unreadable_is
from neoxlib.files import read_whole
from neoxlib.forms import parse
from neoxlib.model.config import ModelConfig, eos_problems

if TYPE_CHECKING:  # transformers takes a second to import, and a folder may have no tokenizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("neoxlib")

PAIR = ("vocab.json", "merges.txt")  # a tokenizer without tokenizer.json
READ = (  # by transformers, whole
    *("tokenizer.json", "tokenizer_config.json", *PAIR, "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json"),
)
TEMPLATES = "additional_chat_templates/*.jinja"  # read, too
MOST_BYTES = 1 << 27  # of all together; the largest that is known has 40 MB
OTHER_FILES = "fast_tokenizer_files"  # in tokenizer_config.json: what is read for tokenizer.json
# The steps that a text passes on its way to ids, and ids on their way to a text.
WAYS = (("normalizer", "pre_tokenizer"), ("decoder",))
SEQUENCES = ("normalizers", "pretokenizers", "decoders")  # keys of a step that is made of others
MOST_GROWTH = 64  # by a way's steps together; those of known tokenizers come to 4
SHOWN = 8  # tokens that a message names


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase | None":
    """Read tokenizer.json, else vocab.json and merges.txt; None without all three.

    Its ids are a function of the text. Raises ConfigError for files that cannot be read, and for
    one of the two without the other. Code that the folder names is never run.
    """
    _refuse_large(folder)
    if not (folder / "tokenizer.json").is_file():
        missing = [name for name in PAIR if not (folder / name).is_file()]
        if len(missing) == len(PAIR):
            return None
        if missing:
            both = " and ".join(PAIR)
            raise ConfigError(
                f"{folder} has no {missing[0]}; a tokenizer without tokenizer.json is {both}"
            )
    from transformers import AutoTokenizer, GPTNeoXConfig

    # transformers fails on a dtype "torch.float16", and a tokenizer needs none.
    raw = read_json(folder / "config.json")
    raw = {key: value for key, value in raw.items() if key not in ("dtype", "torch_dtype")}
    settings = {"clean_up_tokenization_spaces": False, "local_files_only": True}
    settings |= {"trust_remote_code": False}
    try:
        _refuse_other_files(folder)
        _refuse_growth(folder)
        with utf8_path(folder) as place:
            config = GPTNeoXConfig.from_dict(raw)
            tokenizer = AutoTokenizer.from_pretrained(place, config=config, **settings)
        tokenizer.backend_tokenizer.get_vocab_size()
        if getattr(tokenizer.backend_tokenizer.model, "dropout", None) is not None:
            tokenizer.backend_tokenizer.model.dropout = None  # random merges: for training alone
    except ConfigError:
        raise
    except BaseException as error:  # the library raises bare Exception for a damaged file
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        what = f"the tokenizer in {folder} cannot be read ({error})"
        raise ConfigError(f"{what}; copy it from the checkpoint") from error
    return tokenizer


def _refuse_large(folder: Path) -> None:
    """Raise ConfigError for files that fill the memory of whoever reads them whole."""
    paths = [*(folder / name for name in READ), *folder.glob(TEMPLATES)]
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in paths if path.is_file()}
    if sum(sizes.values()) > MOST_BYTES:
        raise ConfigError(
            f"{folder}: {max(sizes, key=sizes.get)} and the tokenizer's other files are larger "
            "than 128 MiB together, which no tokenizer is; copy them from the checkpoint"
        )


def _refuse_other_files(folder: Path) -> None:
    """Raise ConfigError where transformers would read a file that no rank compares or copies."""
    others = _settings(folder / "tokenizer_config.json").get(OTHER_FILES)
    if others not in (None, [], ["tokenizer.json"]):
        raise ConfigError(
            f"{folder}/tokenizer_config.json names {others!s:.80} as {OTHER_FILES}, and only "
            "tokenizer.json is read; rename the file to that, and remove the key"
        )


def _refuse_growth(folder: Path) -> None:
    """Raise ConfigError for steps that double a text again and again, until the memory is full.

    The library ends the process then, and it may do so while it reads the file.
    """
    found = _settings(folder / "tokenizer.json")
    for way in WAYS:
        growth = math.prod(_growth(step) for name in way for step in _steps(found.get(name)))
        if growth > MOST_GROWTH:
            raise ConfigError(
                f"{folder}/tokenizer.json: its {' and '.join(way)} may make a text more than "
                f"{MOST_GROWTH} times as long; copy it from the checkpoint"
            )


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a part of tokenizer.json, out of the sequences they are in."""
    waiting = [part]
    while waiting:
        step = waiting.pop()
        if isinstance(step, Mapping):
            yield step
            waiting.extend(inner for key in SEQUENCES for inner in step.get(key) or ())


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer Replace, Prepend and ByteLevel make the text that they lengthen most.

    A regex may match between any two characters, and a character has up to four bytes. What other
    steps add, a second one of the same kind does not add again.
    """
    if step.get("type") == "ByteLevel":
        return 4.0
    added = len(step.get("content") or step.get("prepend") or "")
    pattern = step.get("pattern")
    width = len(pattern.get("String") or "") if isinstance(pattern, Mapping) else 0
    return max(1.0, added / width) if width else 1.0 + added


def _settings(file: Path) -> dict[str, Any]:
    """What a file of the tokenizer holds, with long numbers as transformers writes them."""
    return json.loads(file.read_bytes()) if file.is_file() else {}


class Vocabulary(NamedTuple):
    """The rows of a model's embed_in that have a token."""

    tokenizer_size: (
        int  # one more than the last id that has a token; rows from there on are padding
    )
    holes: tuple[int, ...] = ()  # ids below `tokenizer_size` that have no token
    rowless: tuple[str, ...] = ()  # added tokens past the last row, unusable in this model


def vocabulary(tokenizer: "PreTrainedTokenizerBase | None", rows: int) -> Vocabulary:
    """Match `tokenizer` with a model of `rows` rows; without a tokenizer every row counts.

    Added tokens may lie past the model's last row: it still serves every text without them.
    Raises ConfigError if ordinary tokens do: the tokenizer then belongs to another model.
    """
    if tokenizer is None:
        return Vocabulary(rows)
    backend = tokenizer.backend_tokenizer
    tokens = {number: token for token, number in backend.get_vocab(True).items()}
    added = backend.get_added_tokens_decoder()
    if any(number >= rows and number not in added for number in tokens):
        raise ConfigError(
            f"the tokenizer has {len(tokens)} ids, the model {rows} rows: it belongs to another "
            "model; copy the tokenizer from the model's own checkpoint"
        )
    last = max((number for number in tokens if number < rows), default=-1)
    holes = tuple(number for number in range(last + 1) if number not in tokens)
    rowless = tuple(tokens[number] for number in sorted(tokens) if number >= rows)
    return Vocabulary(last + 1, holes, rowless)


class Ends(NamedTuple):
    """Ids that end a text, the tokenizer's own first, and an id of config.json left out."""

    ids: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()


def end_ids(folder: Path, config: ModelConfig, tokenizer: "PreTrainedTokenizerBase | None") -> Ends:
    """The ids at which transformers' `generate` ends a text, and the tokenizer's end of text.

    transformers takes generation_config.json's `eos_token_id`, one or a list, and without that file
    config.json's. One exception: a single id of config.json (generation_config.json may repeat it)
    is left out if it is an ordinary token and the tokenizer has another end of text, since a text
    would be cut at a common word. Example: Polyglot-Ko, 0 in config.json and 2 in the tokenizer.
    Raises ConfigError for a generation_config.json that cannot be read, or ids without a row in the
    model.
    """
    said = _said(folder, config)
    own = None if tokenizer is None else tokenizer.eos_token_id
    ids = as_ids(said)
    if own is None:
        return Ends(ids)
    mine = (own,) if own < config.vocab_size else ()
    backend = tokenizer.backend_tokenizer
    if isinstance(said, int) and said == config.eos_token_id and said != own:
        ordinary = said not in backend.get_added_tokens_decoder() and backend.id_to_token(said)
        return Ends(mine, ids) if ordinary else Ends((*mine, *ids))
    return Ends(tuple(dict.fromkeys((*mine, *ids))))


def as_ids(said: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return `eos_token_id`, one or several or None, as a tuple."""
    return () if said is None else (said,) if isinstance(said, int) else said


@unreadable_is(ConfigError)
def _said(folder: Path, config: ModelConfig) -> int | tuple[int, ...] | None:
    """The `eos_token_id` that transformers' `generate` uses."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return config.eos_token_id
    try:
        raw: Any = parse(read_whole(file, MOST_BYTES))
    except ValueError as error:
        what = f"{file} is not valid JSON ({error})"
        raise ConfigError(f"{what}; copy it anew from the checkpoint") from error
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{file} holds a {type(raw).__name__}, not an object of settings")
    said = raw.get("eos_token_id")
    if problems := eos_problems(said, config.vocab_size):
        raise ConfigError(f"{file}: {problems[0]}")
    return tuple(said) if isinstance(said, list) else said


def named(ids: tuple[int, ...], tokenizer: "PreTrainedTokenizerBase | None") -> str:
    """Format ids with their tokens for a message: 0 '<|endoftext|>', 263 '<|USER|>'."""
    shown = [str(n) for n in ids[:SHOWN]]
    if tokenizer is not None:
        shown = [f"{n} {tokenizer.convert_ids_to_tokens(n)!r}" for n in ids[:SHOWN]]
    return ", ".join(shown) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")


def about_ends(
    tokenizer: "PreTrainedTokenizerBase | None", ends: Ends, known: Vocabulary
) -> dict[str, list[int]]:
    """Describe for reports the ids that end a text; log where the folder's files disagree.

    A tokenizer without an end of text gets the first of them.
    """
    if ends.left_out:
        log.warning(
            "a text ends at %s, as in the tokenizer; "
            "config.json says %s, an ordinary token there, which ends none",
            named(ends.ids, tokenizer),
            named(ends.left_out, tokenizer),
        )
    elif len(ends.ids) > 1:
        log.info("a text ends at any of %s", named(ends.ids, tokenizer))
    if known.rowless:
        count = len(known.rowless)
        shown = ", ".join(map(repr, known.rowless[:SHOWN]))
        log.warning("the model has no row for %d added token(s) of the tokenizer: %s", count, shown)
    if tokenizer is not None and tokenizer.eos_token_id is None and ends.ids:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends.ids[0])
    return {"end_of_text": list(ends.ids), "not_end_of_text": list(ends.left_out)}
