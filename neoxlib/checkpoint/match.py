"""Match a checkpoint's tensors to the model's parameters.

Knows every published spelling of the names; errors list all misfits.
"""

import re
from collections.abc import Container, Iterable, Iterator

import torch

from neoxlib.checkpoint.folder import Checkpoint
from neoxlib.checkpoint.foreign import UNQUANTIZED, ZERO_TO_FP32
from neoxlib.checkpoint.names import EMBED, FLOATS, HEAD, HEADS, SKIPPED
from neoxlib.checkpoint.stored_tensor import StoredTensor
from neoxlib.checkpoint.tensor_file import as_bytes
from neoxlib.errors import ShardError, WeightsError
from neoxlib.model.config import ModelConfig
from neoxlib.model.layers import ParameterSpec
from neoxlib.model.parameters import full_parameters, shard_rules

# Patterns of other programs' tensor names -> a description for the error.
FOREIGN = (
    (
        r"\.lora_\w+(\.|$)",
        "those of an adapter (LoRA), not merged: "
        "merge_and_unload() it into its model and save that",
    ),
    (r"\.(qweight|qzeros|g_idx)$", f"weights quantized by GPTQ or AWQ: {UNQUANTIZED}"),
    (
        r"\.(SCB|absmax|quant_map|weight_format|quant_state\.\w+)$",
        f"weights quantized by bitsandbytes: {UNQUANTIZED}",
    ),
    (r"\.(weight_packed|weight_zero_point)$", f"compressed tensors: {UNQUANTIZED}"),
)
# Prefixes that wrappers put before tensor names -> the wrapper.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "torch's FSDP",
    "base_model.model.": "PEFT",
    "_checkpoint_wrapped_module.": "torch's activation checkpointing",
    "module.": "torch's DistributedDataParallel or DataParallel, or DeepSpeed",
}
FIRST = "layers.0.input_layernorm.weight"  # in every checkpoint, behind the prefix of its names
DTYPES = {name: getattr(torch, name) for name in FLOATS.values()}


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """A torch dtype by its name. Raises ShardError if weights are never stored in it."""
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise ShardError(f"weights are not stored as {name!r}; dtype may be {', '.join(DTYPES)}")
    return dtype


def match(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, tuple[str, StoredTensor]]:
    """Map parameter names to (the checkpoint's name, its tensor), in the order of its files.

    Quantized weights keep their two parts: `weight` and `weight_scale`.
    Raises WeightsError with every missing, extra or misshapen tensor, and those of a wrong dtype.
    """
    names = match_names(checkpoint.tensors, config, str(checkpoint.folder), checkpoint.quant)
    found = {name: (theirs, checkpoint.tensors[theirs]) for name, theirs in names.items()}
    if empty := [theirs for theirs, stored in found.values() if 0 in stored.shape]:
        raise WeightsError(
            f"{checkpoint.folder} holds {len(empty)} tensors without a number, as {empty[0]}: "
            f"DeepSpeed's ZeRO-3 leaves such: join its training state, {ZERO_TO_FP32}"
        )
    parameters = full_parameters(config, checkpoint.quant)
    problems = [
        problem
        for name, (theirs, stored) in found.items()
        for problem in _misfits(theirs, stored, parameters[name], checkpoint.part)
    ]
    _refuse(problems, str(checkpoint.folder))
    if config.tie_word_embeddings:
        _check_tie(checkpoint)
    return dict(sorted(found.items(), key=lambda item: item[1][1].place))


def _misfits(
    theirs: str, stored: StoredTensor, full: ParameterSpec, part: tuple[int, int]
) -> Iterator[str]:
    """How a tensor's shape and dtype differ from the parameter's, of rank and world size `part`."""
    if stored.shape != (expected := full.rule.shape(full.shape, *part)):
        yield f"{theirs} is {list(stored.shape)}, the config asks for {list(expected)}"
    if stored.dtype not in ([full.dtype] if full.dtype else DTYPES.values()):
        yield f"{theirs} is {stored.dtype}; weights are {full.dtype or ', '.join(DTYPES)}"


def match_names(
    names: Iterable[str],
    config: ModelConfig,
    where: str = "the checkpoint",
    quant: str | None = None,
) -> dict[str, str]:
    """Map parameter names to the checkpoint's. Raises WeightsError with all names that do not fit.

    Accepts either name of the head, and a base model's names without `gpt_neox.`; with tied
    embeddings one of embed_in and the head is enough.
    """
    names = [name for name in names if not SKIPPED.search(name)]
    if problem := _of_another_program(names) or _prefixed(names):
        raise WeightsError(f"{where} {problem}")
    expected = shard_rules(config, quant)
    found, problems = _pair(names, expected, config.tie_word_embeddings)
    missing = [name for name in expected if name not in found]
    if missing == [HEAD]:
        problems.append(
            "this is a base model: it lacks the head that turns hidden states into tokens"
        )
    _refuse(problems + [f"missing {name}" for name in missing], where)
    return found


def _pair(
    names: list[str], expected: Container[str], tied: bool
) -> tuple[dict[str, str], list[str]]:
    """Parameter names -> the checkpoint's, and a line for each extra or repeated name."""
    prefix = "" if any(name.startswith("gpt_neox.") for name in names) else "gpt_neox."
    found = {}
    problems = []
    for theirs in names:
        ours = HEAD if theirs in HEADS else prefix + theirs
        if ours == HEAD and tied:
            continue
        if ours in found:
            problems.append(f"twice {found[ours]}, also as {theirs}")
        elif ours not in expected:
            problems.append(f"extra {theirs}")
        found[ours] = theirs
    heads = [name for name in names if name in HEADS]
    if tied and heads and EMBED not in found:
        found[EMBED] = heads[0]
    return found, problems


def _of_another_program(names: list[str]) -> str | None:
    """One line for all tensors of another program, instead of one for each."""
    for pattern, what in FOREIGN:
        if found := [name for name in names if re.search(pattern, name)]:
            return f"holds {len(found)} tensors like {found[0]}, which are {what}"
    return None


def _prefixed(names: list[str]) -> str | None:
    """One line for a foreign prefix of all names, or one inside many."""
    starts = {
        name.removesuffix(FIRST).removesuffix("gpt_neox.") for name in names if name.endswith(FIRST)
    }
    inside = next(
        (word for word in WRAPPERS if any(f".{word}" in f".{name}" for name in names)), ""
    )
    prefix = starts.pop() if len(starts) == 1 else ""
    if not (word := prefix or inside):
        return None
    count = sum(f".{word}" in f".{name}" for name in names)
    who = f", as {WRAPPERS[inside]} leaves it" if inside else ""
    return (
        f"has {count} of {len(names)} tensors under the prefix {word!r}{who}: save the "
        f"state_dict() of the model inside, or take {word!r} off the names"
    )


def _refuse(problems: list[str], where: str) -> None:
    if problems:
        raise WeightsError(
            f"{where} does not hold the GPT-NeoX of its config.json:\n  " + "\n  ".join(problems)
        )


def _check_tie(checkpoint: Checkpoint) -> None:
    """Raise WeightsError if a head stored beside tied embeddings is not their copy.

    The config is then wrong.
    """
    tensors = checkpoint.tensors
    head = next((tensors[name] for name in HEADS if name in tensors), None)
    embed = next(
        (tensors[name] for name in (EMBED, EMBED.removeprefix("gpt_neox.")) if name in tensors),
        None,
    )
    if head is None or embed is None:
        return
    pairs = zip(head.row_blocks(), embed.row_blocks(), strict=False)
    if head.shape != embed.shape or not all(as_bytes(a) == as_bytes(b) for (_, a), (_, b) in pairs):
        raise WeightsError(
            f"{checkpoint.folder}: config.json says tie_word_embeddings, but the head and embed_in "
            "differ; set tie_word_embeddings to false if the head was trained apart"
        )
