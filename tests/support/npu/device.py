"""A simulated device "npu": its tensors hold CPU data and do not mix with CPU tensors.

It shows where the model puts its tensors and how often it makes the host wait; it is no Ascend.
The device is registered for good, so `python -m tests.support.npu.device` runs it in a process of
its own and prints what it saw as JSON.
"""

import json
import sys
import tempfile
import types
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import neoxlib
from neoxlib.inference import score
from neoxlib.inference.decode import Limits, decode
from neoxlib.inference.engine import Engine
from neoxlib.inference.sampling import Sampling
from neoxlib.inference.score import Request, log_probabilities
from neoxlib.inference.timing import Case
from neoxlib.machine import devices
from neoxlib.machine.chips import CHIPS
from neoxlib.model import on_npu as model_on_npu
from neoxlib.model.cache import KVCache
from neoxlib.model.gpt_neox import GPTNeoX
from tests.support.npu import reference as reference
from tests.support.npu.path import HALF, ROOM, SHAPE, answer, left_padded, loaded
from tests.support.oracle_models import make_oracle, save_tokenizer

PLACE = "npu:0"
MOVES = ("aten::_to_copy", "aten::copy_", "aten::to")
waits: Counter = Counter()  # what made the host wait for the device
started: list[dict[str, Any]] = []  # options of set_compile_mode
taken_memory: Counter = Counter()  # tensors that were made on the device


class NpuTensor(Tensor):
    """Says npu:0; `held` is the data."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "NpuTensor":
        kept = {
            "strides": held.stride(),
            "storage_offset": held.storage_offset(),
            "dtype": held.dtype,
        }
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, device=torch.device(PLACE), requires_grad=False, **kept
        )
        tensor.held = held
        taken_memory["tensors"] += 1
        return tensor

    def __repr__(self) -> str:
        return f"NpuTensor({self.held})"

    def tolist(self) -> Any:
        """The values as Python's: a copy to the host, for which the host waits."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})


class OnNpu(TorchDispatchMode):
    """While it is on, new tensors asked for on "npu" are NpuTensors."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the data, and refuse what a device would refuse."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, NpuTensor)]
    target = next(
        (leaf.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None
    )
    name = func.name().split(".")[0]
    if ours and (name in ("aten::_local_scalar_dense", "aten::item") or target == "cpu"):
        waits[name] += 1
    if (
        ours
        and name not in MOVES
        and any(t.dim() and not isinstance(t, NpuTensor) for t in tensors)
    ):
        raise RuntimeError(
            f"{func.name()}: expected all tensors to be on the same device, but found npu:0 and cpu"
        )
    plain_args, plain_kwargs = tree_map(as_held, (args, kwargs))
    out = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable and any(
        result.alias_info is not None for result in func._schema.returns
    ):
        return out if isinstance(out, (tuple, list)) else args[0]
    on_npu = target == "npu" or (target is None and bool(ours))
    return tree_map(lambda x: NpuTensor(x) if on_npu and isinstance(x, Tensor) else x, out)


def as_held(x: Any) -> Any:
    """The data of a tensor on the device, the CPU for the device."""
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.held if isinstance(x, NpuTensor) else x


class Event:
    """Stands for the device's event: each is 2 ms after the one before."""

    stamps = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.timing = enable_timing

    def record(self) -> None:
        Event.stamps += 1
        self.at = Event.stamps

    def synchronize(self) -> None:
        """The copies that it stands behind were made at once."""

    def elapsed_time(self, end: "Event") -> float:
        return 2.0 * (end.at - self.at)


def prepare_module() -> None:
    """Make "npu" a device of this process, for good, with what neoxlib asks of its module.

    And replace what the subclass of Tensor cannot do.
    """
    _setup_privateuseone_for_python_backend(rename="npu")
    torch.inference_mode = (
        torch.no_grad
    )  # a subclass made in inference mode has no version to share with its views
    made = torch.tensor
    torch.tensor = lambda data, device="cpu", **rest: made(data, **rest).to(
        device
    )  # which no mode is shown
    torch.npu.synchronize = lambda device=None: waits.update(["synchronize"])
    torch.npu.Event = Event
    peak = [9e6]  # from before, until it is reset
    torch.npu.reset_peak_memory_stats = lambda: peak.__setitem__(0, 3e6)
    torch.npu.max_memory_allocated = lambda: peak[0]
    torch.npu.memory_allocated = lambda: 2e6
    torch.npu.mem_get_info = lambda: (60e9, 64e9)


def taken() -> dict[str, int]:
    """Waits of the host since the last call."""
    seen = dict(waits)
    waits.clear()
    return seen


def on_device(family: str, quant: str | None) -> GPTNeoX:
    model = loaded(dtype=HALF, quant=quant).to("npu")
    model_on_npu.attach(model, family)
    return model


def off_from_cpu(family: str, quant: str | None) -> float:
    """Largest distance of a logit from that of the same operators on CPU tensors."""
    there = loaded(dtype=HALF, quant=quant)
    with reference.on_chip(family):
        model_on_npu.attach(there, family)
        expected = answer(there, left_padded())
        with OnNpu():
            found = answer(on_device(family, quant), left_padded())
            assert isinstance(found, NpuTensor)
        return (found.held - expected).abs().max().item()


def greedy(family: str) -> list[dict[str, Any]]:
    """Each step of a decode loop: the tokens, the device's time, and what the host waited for."""
    with reference.on_chip(family), OnNpu():
        steps = decode(
            on_device(family, None), [[5, 6, 7], [8]], Sampling(4), Limits((), 211, ROOM)
        )
        taken()
        return [
            {"tokens": s.choice.tokens, "device_ms": s.device_ms, "waits": taken()} for s in steps
        ]


def engine_figures() -> dict[str, Any]:
    """An engine's timing of a case, its memory, logits and scores."""
    with reference.on_chip("A2"), OnNpu():
        engine = Engine(
            on_device("A2", None),
            None,
            ROOM,
            {"model_dir": "", "dtype": "float16", "device": "npu"},
        )
        (run,) = engine.profile(Case(2, 5, 3, repeats=1, warmup=0))
        alike = [Request([5, 6, 7, 8, n], [9, 1]) for n in range(3)]
        with patch.object(
            score, "MIN_SHARED_TOKENS", 4
        ):  # these share the keys and values of their beginning
            scores = log_probabilities(engine.model, [Request([8], [9, 1]), *alike], 211, ROOM)
        logits = engine.logits([[5, 6, 7]])
        return {
            "memory": engine.memory(),
            "peak_mb": run["device_peak_mb"],
            "device": run["device"],
            "scores": scores,
            "logits": [logits.device.type, str(logits.dtype)],
        }


def loaded_from_a_folder(quant: str | None) -> dict[str, Any]:
    """Load a checkpoint as on a machine with a 910B3; its answer and the CPU's."""
    sys.modules["torch_npu"] = types.ModuleType("torch_npu")
    torch.npu.set_compile_mode = lambda **options: started.append(options)
    with tempfile.TemporaryDirectory() as folder, reference.on_chip("A2"):
        make_oracle(**SHAPE | {"vocab_size": 300}).save_pretrained(folder)
        save_tokenizer(Path(folder))
        expected = neoxlib.load(folder, dtype="float32", quant=quant).logits([[5, 6, 7]])
        devices.chip_here = lambda: CHIPS["910B3"]
        devices.npu_problems = lambda: ()
        with OnNpu():
            engine = neoxlib.load(folder, dtype="auto", device="npu", quant=quant)
            found = engine.logits([[5, 6, 7]])
            text = engine.generate(["ab", "c"], max_new_tokens=3)
    about = {key: engine.describe()[key] for key in ("dtype", "device", "quant", "compile")}
    off = ((found - expected).norm() / expected.norm()).item()
    return {
        "about": about,
        "started": started,
        "off": off,
        "called": sorted(reference.called()),
        "tokens": [len(completion.token_ids) for completion in text],
    }


def in_a_fresh_cache() -> float:
    """Largest number in a new cache, whose memory held others before; infinite for NaN."""
    with OnNpu():
        config = loaded(dtype=HALF).config
        used = KVCache(config, 1, ROOM, dtype=HALF, device="npu")
        for held in used.layers:
            held.fill_(torch.nan)
        del used
        cache = KVCache(config, 1, ROOM, dtype=HALF, device="npu")
        return torch.stack(cache.layers).held.abs().nan_to_num(torch.inf).max().item()


def found_on_the_wrong_device() -> list[str]:
    """Errors of a cache, a mask or ids that are on the CPU."""
    said = []
    with reference.on_chip("A2"), OnNpu():
        model = on_device("A2", None)
        for ids_on, cache_on, mask_on in (
            ("cpu", "npu", "npu"),
            ("npu", "cpu", "npu"),
            ("npu", "npu", "cpu"),
        ):
            cache = KVCache(model.config, 1, ROOM, dtype=HALF, device=cache_on)
            ids = torch.ones(1, 3, dtype=torch.long, device=ids_on)
            mask = torch.ones(1, 3, device=mask_on).bool()
            try:
                model(ids, cache, mask)
                said.append("")
            except RuntimeError as error:
                said.append(str(error))
    return said


if __name__ == "__main__":
    prepare_module()
    off = {
        family: [off_from_cpu(family, q) for q in (None, "int8", "int4")]
        for family in ("A2", "310P", "unknown")
    }
    json.dump(
        {
            "off": off,
            "greedy": {family: greedy(family) for family in ("A2", "310P")},
            "engine": engine_figures(),
            "wrong": found_on_the_wrong_device(),
            "fresh": in_a_fresh_cache(),
            "load": {str(quant): loaded_from_a_folder(quant) for quant in (None, "int8")},
        },
        sys.stdout,
    )
