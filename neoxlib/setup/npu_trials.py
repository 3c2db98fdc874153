"""What `selftest-npu` asks of a device: each operator of the model, a two-layer model and greedy text.

Every answer is held against sums that are written out here or in parity.py, in float32 on the CPU, on the same
rounded inputs. The shapes of the operators are GPT-NeoX-20B's heads.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neoxlib.errors import telling
from neoxlib.inference import parity
from neoxlib.inference.decode import left_pad
from neoxlib.inference.engine import Engine
from neoxlib.kernels import npu
from neoxlib.kernels.npu import NpuOps, operators_for
from neoxlib.model import on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.config import ModelConfig
from neoxlib.model.layers import rotary_tables
from neoxlib.model.on_npu import PackedProduct, halves
from neoxlib.model.parameters import shard_rules
from neoxlib.model.quant import SCHEMES

BATCH = 2
HEADS = 64
WIDTH = 96
ROTARY = 24
CAPACITY = 48
ROUNDINGS = 8  # by which an operator may miss a number; a choice, as no device was asked yet
SPREAD = "standard deviation of the reference's logits"
SIZE = "size of the number + root mean square of all"
STALE = 50.0  # what slots of the cache hold that nobody may read
LENGTHS = (15, 12, 10)  # tokens of the two-layer model's prompts
STEPS = (
    0,
    6,
    9,
    *range(10, 16),
)  # a prompt of 6 columns, a chunk of 3 on the cache, then one by one
FORMS = (None, *SCHEMES)  # of the weights
REGRET = 0.05  # of the logits' spread: how much likelier the reference's own choice may be


@dataclass(frozen=True)
class Trial:
    """One answer: its error, relative to what `unit` says, and the largest that passes. No error: it raised."""

    name: str
    dtype: str
    error: float | None
    tolerance: float
    unit: str
    passed: bool
    detail: str = ""

    @classmethod
    def judged(
        cls, name: str, dtype: str, error: float, tolerance: float, unit: str, detail: str
    ) -> "Trial":
        """By its error; one that is no finite number fails."""
        if not math.isfinite(error):
            return cls(name, dtype, None, tolerance, unit, False, f"the error is {error}; {detail}")
        return cls(name, dtype, error, tolerance, unit, error <= tolerance, detail)

    @classmethod
    def failed(cls, name: str, dtype: str, failure: Exception) -> "Trial":
        """By what was raised instead of an answer."""
        first = (telling(str(failure)) or [""])[0]
        return cls(name, dtype, None, 0.0, "", False, f"{type(failure).__name__}: {first}")


@dataclass(frozen=True)
class Place:
    """Where trials run: a device, and the chip family whose operators serve there."""

    device: str
    family: str
    dtype: str

    @property
    def kind(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def ops(self) -> NpuOps:
        """The operators for GPT-NeoX-20B's heads."""
        return NpuOps(operators_for(self.family, HEADS, WIDTH, ROTARY))

    def some(self, *shape: int, seed: int = 0) -> Tensor:
        """Normal numbers as the device will see them, on the CPU."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(self.kind)

    def up(self, *tensors: Tensor) -> list[Tensor]:
        return [t.to(self.device) for t in tensors]


def attempt(
    name: str, dtype: str, tolerance: float, unit: str, work: Callable[[], tuple[float, str]]
) -> Trial:
    """The trial of `work`, which gives error and detail. Whatever it raises is an answer, too."""
    try:
        error, detail = work()
    except (
        Exception
    ) as failure:  # an operator that is not there, a shape it refuses, a device that is lost
        return Trial.failed(name, dtype, failure)
    return Trial.judged(name, dtype, error, tolerance, unit, detail)


class Called(TorchDispatchMode):
    """Names of torch_npu's operators that are called meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func.namespace == "npu":
            self.names[func._schema.name.partition("::")[2]] = None
        return func(*args, **kwargs or {})


def operators(at: Place) -> Iterator[Trial]:
    """Every operator by itself."""
    tolerance = ROUNDINGS * torch.finfo(at.kind).eps / 2
    cases: list[tuple[str, Callable[[], tuple[Tensor, Tensor]]]] = [
        ("matrix product", lambda: _product(at)),
        ("layer norm", lambda: _layer_norm(at)),
        ("rotary positions", lambda: _rotate(at)),
        *(
            (f"activation {form}", lambda form=form: _activate(at, form))
            for form in ("gelu", "tanh", "relu")
        ),
        ("attention of a padded prompt", lambda: _attend(at, CAPACITY - 9, CAPACITY - 9)),
        ("attention of a chunk on a cache", lambda: _attend(at, 5, CAPACITY - 9)),
        ("attention of one token", lambda: _attend(at, 1, CAPACITY - 9)),
        ("attention of one token, cache full", lambda: _attend(at, 1, CAPACITY)),
    ]
    packed = at.ops().operators.packed
    cases += [
        (f"product with packed {name}", lambda name=name: _packed(at, name)) for name in packed
    ]
    for name, case in cases:
        yield attempt(name, at.dtype, tolerance, SIZE, lambda case=case: _off(case))


def _off(case: Callable[[], tuple[Tensor, Tensor]]) -> tuple[float, str]:
    """Largest error, each in units of SIZE; and who did it."""
    with Called() as called:
        found, truth = case()
    size = truth.abs() + truth.square().mean().sqrt()
    return ((found.float().cpu() - truth).abs() / size).max().item(), ", ".join(
        called.names
    ) or "PyTorch's own"


def _product(at: Place) -> tuple[Tensor, Tensor]:
    x = at.some(5, 768)
    weight = at.some(512, 768, seed=1)
    bias = at.some(512, seed=2)
    x_there, there, bias_there = at.up(x, weight, bias)
    if at.ops().operators.nz:
        there = npu.npu.npu_format_cast(there, on_npu.NZ)
    return F.linear(x_there, there, bias_there), x.float() @ weight.float().T + bias.float()


def _packed(at: Place, name: str) -> tuple[Tensor, Tensor]:
    x = at.some(2, 3, 768)
    bias = at.some(512, seed=2)
    packed = SCHEMES[name].pack(at.some(512, 768, seed=1).float())
    truth = x.float() @ SCHEMES[name].unpack(packed, at.kind).float().T + bias.float()
    x_there, bias_there = at.up(x, bias)
    there = {key: t.to(at.device) for key, t in packed.items()}
    return PackedProduct(SCHEMES[name].npu_arguments(there, at.kind), bias_there, at.kind)(
        x_there
    ), truth


def _layer_norm(at: Place) -> tuple[Tensor, Tensor]:
    x = at.some(5, 6144) * 3 + 1
    weight = at.some(6144, seed=1)
    bias = at.some(6144, seed=2)
    centred = x.float() - x.float().mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return at.ops().layer_norm(
        *at.up(x, weight, bias), 1e-5
    ), scaled * weight.float() + bias.float()


def _rotate(at: Place) -> tuple[Tensor, Tensor]:
    """Pairs (i, i + 12) of the leading 24 dimensions, each row at positions of its own."""
    x = at.some(BATCH, HEADS, 7, WIDTH)
    positions = torch.tensor([range(7), range(1900, 1907)])
    cos, sin = (
        table[positions][:, None].to(at.kind) for table in rotary_tables(2048, ROTARY, 10000)
    )
    first, second, still = x.float().split([ROTARY // 2, ROTARY // 2, WIDTH - ROTARY], -1)
    c, s = (table.float()[..., : ROTARY // 2] for table in (cos, sin))
    truth = torch.cat((first * c - second * s, second * c + first * s, still), -1)
    order = _whole_heads if at.ops().operators.rotary_mul else lambda t: t
    x, cos, sin = at.up(order(x), cos, sin)
    return at.ops().rotate(x, *at.ops().angles(cos, sin, WIDTH)), order(truth)


def _whole_heads(x: Tensor) -> Tensor:
    """The last dimension in the order in which whole heads are turned."""
    return halves(x.flatten(0, -2)[:, None], ROTARY).reshape(x.shape)


def _activate(at: Place, form: str) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-3, 3, 4096).to(at.kind)  # where the forms differ most
    y = x.float()
    truths = {
        "relu": lambda: y.clamp(min=0),
        "gelu": lambda: 0.5 * y * (1 + torch.erf(y / 2**0.5)),
        "tanh": lambda: 0.5 * y * (1 + torch.tanh((2 / math.pi) ** 0.5 * (y + 0.044715 * y**3))),
    }
    return at.ops().activate(*at.up(x), form), truths[form]()


def _attend(at: Place, rows: int, end: int) -> tuple[Tensor, Tensor]:
    """The second row's first five columns are padding, which sees itself; slots past `end` hold what none may read."""
    lengths = (rows, CAPACITY, CAPACITY)
    q, k, v = (at.some(BATCH, HEADS, length, WIDTH, seed=n) for n, length in enumerate(lengths))
    k[:, :, end:] = STALE
    v[:, :, end:] = STALE
    columns = torch.arange(end)
    mine = columns[end - rows :, None]
    real = columns >= torch.tensor([[0], [5]])
    keep = ((columns <= mine) & real[:, None, None]) | (columns == mine)  # [B, 1, rows, end]
    scores = (q.float() @ k[:, :, :end].float().mT / WIDTH**0.5).masked_fill(~keep, -torch.inf)
    truth = scores.softmax(-1) @ v[:, :, :end].float()
    mask = at.ops().mask(keep.to(at.device), CAPACITY)
    return at.ops().attend(*at.up(q, k, v), mask, end), truth


def small_model(folder: Path, heads: int = 4) -> Path:
    """Write a random model of two layers, its heads those of GPT-NeoX-20B, and return `folder`."""
    hidden = heads * WIDTH
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": 503 + heads,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu_fast",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "eos_token_id": 0,
        "torch_dtype": "float16",
    }
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (shape, _) in shard_rules(ModelConfig.from_dict(config)).items():
        spread = 0.1 if len(shape) == 1 else shape[1] ** -0.5
        tensor = torch.randn(shape, generator=generator) * spread
        tensors[name] = (tensor + 1 if name.endswith("norm.weight") else tensor).half()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def small_prompts(config: ModelConfig) -> list[list[int]]:
    """Rows of unequal length, so that a batch of them is padded."""
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randint(1, config.vocab_size, (length,), generator=generator).tolist()
        for length in LENGTHS
    ]


@torch.inference_mode()
def two_layers(engine: Engine) -> Trial:
    """Prompt, chunk and single tokens through the cache of a model that `small_model` wrote, padded on the left."""
    about = engine.describe()
    model = engine.model
    device = engine.weight.device
    dtype = engine.weight.dtype

    def work() -> tuple[float, str]:
        rows = small_prompts(engine.config)
        ids, mask = (t.to(device) for t in left_pad(rows))
        cache = KVCache(engine.config, len(rows), CAPACITY, model.group, dtype, device)
        found = (
            torch.cat([model(ids[:, a:b], cache, mask[:, a:b]) for a, b in pairwise(STEPS)], 1)
            .float()
            .cpu()
        )
        truth = parity.reference_logits(about["model_dir"], rows, about["quant"])
        return spread_off(
            [row[-len(t) :] for row, t in zip(found, truth, strict=True)], truth
        ), f"steps {STEPS}"

    name = f"two layers, {about['quant'] or 'plain'} weights"
    return attempt(name, about["dtype"], parity.TOLERANCE[about["dtype"]], SPREAD, work)


def spread_off(found: list[Tensor], truth: list[Tensor]) -> float:
    """Largest error of any logit, in units of their spread."""
    ours = torch.cat(list(found))
    theirs = torch.cat(truth)
    return ((ours - theirs).abs().max() / theirs.std()).item()


def greedy_text(engine: Engine, prompts: list[str], new_tokens: int = 16) -> Trial:
    """Greedy answers. The error: how much likelier the reference finds its own choice than the one that was made."""
    about = engine.describe()

    def work() -> tuple[float, str]:
        answers = engine.generate(prompts, max_new_tokens=new_tokens)
        starts = [engine.tokenizer(prompt)["input_ids"] for prompt in prompts]
        rows = [start + answer.token_ids for start, answer in zip(starts, answers, strict=True)]
        worst = 0.0
        for start, row, logits in zip(
            starts, rows, parity.reference_logits(about["model_dir"], rows), strict=True
        ):
            choices = logits[len(start) - 1 : -1, : engine.real_ids]  # [new tokens, vocab]
            made = choices.gather(1, torch.tensor(row[len(start) :])[:, None])[:, 0]
            worst = max(worst, ((choices.amax(-1) - made).max() / choices.std()).item())
        return worst, f"{prompts[0]}{answers[0].text}"

    return attempt("greedy text", about["dtype"], REGRET, SPREAD, work)
