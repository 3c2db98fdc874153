"""Are the schemas that the tests register word for word those in the wheel, and are they all that
the library calls?
"""

import ast
import re
from pathlib import Path

from tests.npu_wheel import wheel
from tests.npu_wheel.say import check

ROOT = Path(__file__).parents[2]
LISTED = ROOT / "tests" / "support" / "npu" / "schemas.txt"
CALL = re.compile(r"\bnpu\.(_?npu_\w+)\(")


# What torch_npu calls itself where a step with fused attention is captured.
CAPTURED = (
    "npu::npu_fused_infer_attention_score.out",
    "npu::_npu_fused_infer_attention_score_get_max_workspace",
    "npu::_npu_fused_infer_attention_score_infer_output",
)
# Of kernels/graph.py: a class of torch_npu/npu/graphs.py, its method and an argument that is given.
GRAPHS = (
    ("NPUGraph", "update", "cpu_update_input"),
    ("NPUGraph", "replay", "self"),
    ("graph", "__init__", "auto_dispatch_capture"),
)
LENGTHS = "actual_seq_lengths_kv"


def main() -> None:
    """A line for each listed schema, for what the library calls, and for what a graph needs."""
    listed = [
        line for line in LISTED.read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    there = wheel.wheel_schemas()
    check(
        f"schemas read from the text of torch-npu {wheel.wheel_version()}",
        len(there) > 100,
        str(len(there)),
    )
    for line in listed:
        name = wheel.operator(line)
        others = [schema for schema in there if wheel.operator(schema) == name]
        same = wheel.normal(line) in there
        check(
            f"{name} is the wheel's",
            same,
            "" if same else f"the wheel has {' '.join(others) or 'none'}",
        )
    called = {
        name
        for path in (ROOT / "neoxlib").rglob("*.py")
        for name in CALL.findall(path.read_text("utf-8"))
    }
    unlisted = {f"npu::{name}" for name in called} - {wheel.operator(line) for line in listed}
    names = ", ".join(sorted(unlisted or called))
    check("operators that the library calls are listed", bool(called) and not unlisted, names)

    for name in CAPTURED:
        check(f"{name} is in the wheel", any(wheel.operator(schema) == name for schema in there))
    graphs()


def graphs() -> None:
    """The methods and arguments of torch_npu's graphs, and the handler of the fused attention."""
    npu = wheel.folder() / "npu"
    tree = ast.parse((npu / "graphs.py").read_text("utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for owner, method, argument in GRAPHS:
        found = [
            [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
            for node in ast.walk(classes[owner])
            if isinstance(node, ast.FunctionDef) and node.name == method
        ]
        check(f"{owner}.{method} takes {argument}", any(argument in names for names in found))
    handler = (npu / "_npugraph_handlers" / "ifa_handler.py").read_text("utf-8")
    both = ("npu_fused_infer_attention_score.default", LENGTHS)
    check(
        f"a graph updates {LENGTHS} of the fused attention", all(f'"{x}"' in handler for x in both)
    )


if __name__ == "__main__":
    main()
