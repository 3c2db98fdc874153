"""A planted slowdown is in the copy alone, and the row says what the check said."""

import ast

from benchmarks import planted


def test_a_copy_waits_in_its_decode_loop_and_is_otherwise_this_package(tmp_path):
    slow = planted.copy_with(0.05, tmp_path / "slow")
    same = planted.copy_with(0.0, tmp_path / "same")
    texts = [(folder / planted.LOOP).read_text("utf-8") for folder in (slow, same)]
    assert texts[1] == (planted.ROOT / planted.LOOP).read_text("utf-8")
    loop = next(
        node
        for node in ast.walk(ast.parse(texts[0]))
        if isinstance(node, ast.FunctionDef) and node.name == "run_steps"
    )
    assert "until = begun + 1.05 * (time.perf_counter() - begun)" in ast.unparse(loop)
    files = [sorted(path.relative_to(one) for path in one.rglob("*")) for one in (slow, same)]
    assert files[0] == files[1]


def test_a_row_has_the_verdict_of_the_exit_code():
    one = planted.Compared(0.05, 24, 3, "all cases together 1.051 times", [1.05, 1.0524])
    assert planted.row(one) == (
        "| 5% of each forward pass | 24 | 1.050, 1.052 | alarm | all cases together 1.051 times |"
    )
