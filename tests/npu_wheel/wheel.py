"""The torch-npu wheel as files: where it lies, and the operator schemas that stand as text in it.
Imports no torch_npu.

Importing torch_npu needs CANN's libraries; its files can be read anywhere.
"""

import importlib.util
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = "torch-npu"
SCHEMA = re.compile(
    rb"(?<=\x00)_?[a-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)?\([^\x00\n]*\) -> [^\x00\n]+(?=\x00)"
)


def folder(module: str = "torch_npu") -> Path:
    """Where an installed module lies, found without importing it. Raises LookupError where it is
    not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise LookupError(
            f"{module} is not installed in this environment; make verify-npu makes one"
        )
    return Path(spec.submodule_search_locations[0])


def wheel_version() -> str:
    """The installed wheel's version."""
    return version(PACKAGE)


def normal(schema: str) -> str:
    """One spelling for schemas that say the same: the one torch prints."""
    import torch

    name = schema.partition("(")[0]
    return str(torch._C.parse_schema(schema if "::" in name else f"npu::{schema}"))


@cache
def wheel_schemas() -> frozenset[str]:
    """Every schema that stands as a literal in libtorch_npu.so."""
    found = set()
    for match in SCHEMA.finditer((folder() / "lib" / "libtorch_npu.so").read_bytes()):
        try:
            found.add(normal(match[0].decode()))
        except (RuntimeError, UnicodeDecodeError):
            continue  # text that only looks like a schema
    return frozenset(found)


def operator(schema: str) -> str:
    """`npu::npu_gelu` of its schema."""
    return schema.partition("(")[0]
