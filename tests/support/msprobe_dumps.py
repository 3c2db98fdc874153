"""Dumps in the layout of msprobe's PrecisionDebugger, of transformers' model, without the package.

`make verify-msprobe` holds them against those of the package itself.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neoxlib.align.reader import Capture


class Dumper:
    """Hooks on all modules; one folder a step."""

    def __init__(self, model: nn.Module, task: str = "tensor", level: str = "L0") -> None:
        self.task = task
        self.level = level
        self.data: dict[str, Any] = {}
        self.folder = Path()
        for path, module in model.named_modules():
            if path and not isinstance(module, nn.ModuleList):
                name = f"Module.{path}.{type(module).__name__}.forward.0"
                module.register_forward_hook(self.hook(name), with_kwargs=True)

    def hook(self, name: str) -> Any:
        """Keep what a module takes, gives and has."""

        def seen(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            given = output if isinstance(output, tuple) else (output,)
            own = dict(module.named_parameters(recurse=False))
            self.data[name] = {
                "input_args": [self.said(f"{name}.input.{n}", x) for n, x in enumerate(args)],
                "input_kwargs": {k: self.said(f"{name}.kwargs.{k}", x) for k, x in kwargs.items()},
                "output": [self.said(f"{name}.output.{n}", x) for n, x in enumerate(given)],
                "parameters": {k: self.said(f"{name}.parameters.{k}", x) for k, x in own.items()},
            }

        return seen

    def said(self, name: str, value: Any) -> Any:
        """What dump.json says of a value; writes a tensor's file."""
        if isinstance(value, dict):
            return {key: self.said(f"{name}.{key}", part) for key, part in value.items()}
        if not isinstance(value, Tensor):
            return None
        floating = value.is_floating_point()
        said = {
            "type": "torch.Tensor",
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            "Max": value.max().item(),
            "Min": value.min().item(),
            "Mean": value.mean().item() if floating else None,
            "Norm": torch.norm(value).item() if floating else None,
            "requires_grad": value.requires_grad,
        }
        if self.task == "tensor":
            said["data_name"] = f"{name}.pt"
            (self.folder / "dump_tensor_data").mkdir(parents=True, exist_ok=True)
            torch.save(value.detach(), self.folder / "dump_tensor_data" / f"{name}.pt")
        return said

    def step(self) -> None:
        """Write the JSON of what was seen since the last step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"task": self.task, "level": self.level, "framework": "pytorch"}
        text = json.dumps(about | {"dump_data_dir": "elsewhere", "data": self.data})
        (self.folder / "dump.json").write_text(text)
        self.data = {}


@torch.no_grad()
def dump(model: nn.Module, folder: Path, like: Capture, task: str = "tensor") -> Path:
    """Run `model` over the tokens of `like`, a step a pass."""
    dumper = Dumper(model, task)
    past = None
    for number, (first, end) in enumerate(like.passes):
        dumper.folder = folder / f"step{number}" / "proc4711"
        places = (like.mask.long().cumsum(-1) - 1).clamp(min=0)[:, first:end]
        given = {"attention_mask": like.mask[:, :end].long(), "position_ids": places}
        ids = like.ids[:, first:end]
        past = model(input_ids=ids, past_key_values=past, use_cache=True, **given).past_key_values
        dumper.step()
    return folder
