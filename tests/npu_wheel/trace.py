"""GPT-NeoX-20B, whole, on a fake `npu` device: neoxlib's own NPU path through torch_npu's schemas
and shape kernels.

No tensor has data. What this finds: calls that do not bind, shapes and dtypes that do not meet,
tensors left on the CPU. What it cannot find: the vendor's shape kernels look at few of the
arguments (a wrong num_heads or mask passes).
"""

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.gpt_neox import GPTNeoX
from neoxlib.model.group import Group
from neoxlib.model.parameters import count_parameters
from tests.npu_wheel.say import check
from tests.support.npu.launches import launches

CONFIG = ModelConfig.from_dict(
    {  # of the published checkpoint EleutherAI/gpt-neox-20b
        "model_type": "gpt_neox",
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu_fast",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "eos_token_id": 0,
        "bos_token_id": 0,
        "torch_dtype": "float16",
    }
)
PARAMETERS = 20_554_567_680
BATCH = 2
PROMPT = 7
CHUNK = 3
WINDOW = 64
LAYERS = CONFIG.num_hidden_layers
A2_BUDGET = 14  # operators a layer in eager decode
FUSED = "npu_fused_infer_attention_score"
FLASH = "npu_prompt_flash_attention"
ONE = "npu_incre_flash_attention"
PRODUCT = "npu_weight_quant_batchmatmul"
GELU = "npu_gelu"
TURN = "npu_rotary_mul"
NORM = "npu_add_layer_norm"
NZ = "npu_format_cast"
HALF = "float16"
BRAIN = "bfloat16"
FORMS = ((HALF, None), (HALF, "int8"), (HALF, "int4"))  # dtype and scheme
# Per chip family: the forms it runs in, and how often each operator is due in a layer over the
# three steps.
FAMILIES = {
    "A2": ((*FORMS, (BRAIN, None), (BRAIN, "int8")), {FUSED: 3, TURN: 3, GELU: 3}),
    "A3": ((*FORMS, (BRAIN, None)), {FUSED: 3, TURN: 3}),
    "310P": (FORMS, {FLASH: 1, ONE: 1, GELU: 3}),
    "910A": (FORMS, {GELU: 3}),
}
PACKED = {
    "A2": ("int8", "int4"),
    "A3": ("int8", "int4"),
    "310P": ("int8",),
}  # schemes that stay packed at use


class OneOf(Group):
    """Rank `rank` of `size`, alone: sums and parts are taken as they are."""

    backend = "fake"

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank = rank
        self.size = size


class Recorder(TorchDispatchMode):
    """Counts the npu:: operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "npu":
            self.seen[func._schema.name.removeprefix("npu::")] += 1
        return func(*args, **kwargs or {})


def main() -> None:
    """A line for each family, form and world size."""
    check(
        "the shape is GPT-NeoX-20B's",
        count_parameters(CONFIG) == PARAMETERS,
        f"{count_parameters(CONFIG):,}",
    )
    _shape_of_a_format_cast()
    for family, (forms, due) in FAMILIES.items():
        for dtype, quant in forms:
            for size in (1, 8):
                what = f"{family} {dtype} {quant or 'plain'}, world size {size}"
                try:
                    one(what, family, dtype, quant, size, due)
                except Exception as error:  # any is an answer to what was asked
                    check(
                        what, False, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                    )
    mistakes()


def mistakes() -> None:
    """A mistake that a trace must find, or it would prove nothing."""
    with FakeTensorMode():
        x = torch.empty(1, 64, 5, 96, dtype=torch.float16, device="npu")
        table = torch.empty(1, 1, 5, 96, dtype=torch.float16)
        calls = {
            "a misspelt keyword": lambda: torch.ops.npu.npu_prompt_flash_attention(
                x, x, x, head_num=64
            ),
            "an operator that is not there": lambda: torch.ops.npu.npu_flash_attention(x, x, x),
            "a table left on the CPU": lambda: torch.ops.npu.npu_rotary_mul(x, table, table),
        }
        for what, call in calls.items():
            try:
                call()
            except (RuntimeError, AttributeError) as error:
                check(f"{what} is found", True, type(error).__name__)
            else:
                check(f"{what} is found", False, "it passed")


def one(
    what: str, family: str, dtype: str, quant: str | None, size: int, due: dict[str, int]
) -> None:
    """Prefill of a padded batch, one new token, a chunk on the cache: logits' shapes, and the
    operators they took.
    """
    start = time.perf_counter()
    recorder = Recorder()
    with FakeTensorMode(), torch.no_grad():
        group = OneOf(size - 1, size)  # the last rank: where shares are uneven, it has the larger
        model = _model(group, getattr(torch, dtype), quant)
        cache = KVCache(CONFIG, BATCH, WINDOW, group, getattr(torch, dtype), "npu")
        with recorder:
            on_npu.attach(model, family)
            found = [model(*ids_and_mask(length, cache)) for length in (PROMPT, 1, CHUNK)]
        budget = _launches_of_a_layer(model, cache)
    wanted = {name: times * LAYERS for name, times in due.items()} | _of_the_weights(family, quant)
    if family != "910A":  # the first layer has no sum before it
        wanted[NORM] = 3 * (LAYERS - 1)
    problems = _problems(found, model, dtype, size)
    if recorder.seen != wanted:
        problems.append(f"operators {dict(recorder.seen)}, expected {wanted}")
    if family in ("A2", "A3") and budget > A2_BUDGET:
        problems.append(f"{budget} operators a layer in decode, at most {A2_BUDGET}")
    took = ", ".join(f"{name} {times}" for name, times in sorted(wanted.items())) or "aten alone"
    took += f"; {budget} operators a layer in decode"
    check(what, not problems, "; ".join(problems) or f"{took}; {time.perf_counter() - start:.1f} s")


def _launches_of_a_layer(model: GPTNeoX, cache: KVCache) -> int:
    """Operators that a further layer adds to a step of decode."""
    ids = torch.empty(BATCH, 1, dtype=torch.int64, device="npu")
    model.states(ids, cache, layers=0)  # makes what serves all tokens
    counts = []
    for layers in (1, 2):
        with launches() as counted:
            model.states(ids, cache, layers=layers)
        counts.append(counted.total())
    return counts[1] - counts[0]


def _model(group: Group, dtype: torch.dtype, quant: str | None) -> GPTNeoX:
    """Made in its dtype at once: a module cannot swap its parameters for others where they are
    fake.
    """
    torch.set_default_dtype(dtype)
    try:
        with torch.device("npu"):
            return GPTNeoX(CONFIG, group, quant=quant)
    finally:
        torch.set_default_dtype(torch.float32)


def _of_the_weights(family: str, quant: str | None) -> dict[str, int]:
    """Operators due for the four matrices of every layer and the head, which is int8 under either
    scheme.
    """
    if quant is None:
        return {NZ: 4 * LAYERS + 1} if family == "310P" else {}
    schemes = [quant] * 4 * LAYERS + ["int8"]
    packed = sum(scheme in PACKED.get(family, ()) for scheme in schemes)
    return {PRODUCT: 3 * packed} if packed else {}


def ids_and_mask(length: int, cache: KVCache) -> tuple[Tensor, KVCache, Tensor]:
    """The model's arguments: ids and mask [B, length], on the device."""
    ids = torch.empty(BATCH, length, dtype=torch.int64, device="npu")
    return ids, cache, torch.ones(BATCH, length, dtype=torch.bool, device="npu")


def _problems(found: list[Tensor], model: GPTNeoX, dtype: str, size: int) -> list[str]:
    wanted = [[BATCH, length, CONFIG.vocab_size // size] for length in (PROMPT, 1, CHUNK)]
    shapes = [list(x.shape) for x in found]
    problems = [] if shapes == wanted else [f"logits {shapes}, expected {wanted}"]
    problems += [f"logits of {x.dtype}" for x in found if str(x.dtype) != f"torch.{dtype}"]
    problems += [f"logits on {x.device}" for x in found if x.device.type != "npu"]
    return problems + [
        f"{name} on {p.device}" for name, p in model.named_parameters() if p.device.type != "npu"
    ]


def _shape_of_a_format_cast() -> None:
    """The vendor's has no shape kernel: a format is another order of the same numbers, so this one
    is ours.
    """
    library = torch.library.Library("npu", "IMPL")
    library.impl(NZ, lambda x, *_, **__: torch.empty_like(x), "Meta")
    globals()["_kept"] = library  # its registrations end with it


if __name__ == "__main__":
    main()
